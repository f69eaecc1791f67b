"""Commands that write a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxprune
from onnxprune.cli import options as opt
from onnxprune.cli.printing import compress_many, transform

if TYPE_CHECKING:
    from onnxprune.core.files import PathLike
    from onnxprune.packed.reader import Sizes


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=opt.PLACE)
@click.option(
    "-o",
    "--out",
    type=opt.PLACE,
    help="The file to write; of several models the folder.  [default: MODEL.pruned.onnx beside the model]",
)
@opt.rules
@opt.scan
@opt.values("auto", "0.02; with --data and no rule 0.04")
@opt.encoding
@opt.masks
@opt.channels
@click.option("--no-strip", is_flag=True, help="Leave dead neurons in: no shape changes.")
@click.option(
    "--cluster", metavar="ADDRESS", help="Work on this dask cluster instead; its workers must reach the same paths."
)
@click.option(
    "--max-drop",
    type=float,
    metavar="D",
    help="Search for the smallest file whose metric on --data is at most D worse, on both halves of the samples.",
)
@click.option("--time-limit", type=float, metavar="SECONDS", help="End the search then, with the best found.")
@opt.checks
def compress(
    models: tuple[PathLike, ...], out: PathLike | None, set_: tuple[str, ...], no_strip: bool,
    cluster: str | None, **options: Any,
) -> None:  # fmt: skip
    """Prune, strip, encode and verify a model. Without a rule it loses what --loss allows.

    Several models, and all *.onnx below folders, go into the folder OUT, where they lie as below theirs. One that
    fails does not stop the others, the same command skips what it finds done, and --json has a line for each. --jobs is
    then how many models are worked on at a time, each in a process; 1 without it.
    """
    options |= {"set": set_, "strip": not no_strip}
    if len(models) > 1 or (isinstance(models[0], Path) and models[0].is_dir()):
        compress_many(models, out, cluster, options)
        return
    if cluster is not None:
        raise click.UsageError("--cluster is for several models.")
    transform(options, lambda rest: onnxprune.compress(models[0], out, **rest))


@click.command()
@opt.model
@opt.out
@opt.rules
@opt.masks
@opt.checks
def prune(model: PathLike, out: PathLike, set_: tuple[str, ...], **options: Any) -> None:
    """Zero the smallest weights; the file stays dense."""
    transform(options, lambda rest: onnxprune.prune(model, out, set=set_, **rest))


@click.command()
@opt.model
@opt.out
@opt.channels
@click.option("--score", default="l1", show_default=True, help="What channels are compared by: l1, l2, batchnorm.")
@click.option("--scope", default="layer", show_default=True, help="What the share of channels is of: layer, global.")
@opt.checks
def strip(model: PathLike, out: PathLike, **options: Any) -> None:
    """Remove dead neurons for good, and with --channels whole channels."""
    transform(options, lambda rest: onnxprune.strip(model, out, **rest))


@click.command()
@opt.model
@opt.out
@opt.values("exact", "0.02")
@opt.encoding
@opt.checks
def encode(model: PathLike, out: PathLike, **options: Any) -> None:
    """Store each weight in its smallest form."""
    transform(options, lambda rest: onnxprune.encode(model, out, **rest))


@click.command()
@opt.model
@opt.out
@opt.checks
def decode(model: PathLike, out: PathLike, **options: Any) -> None:
    """Restore every encoded weight as a dense initializer, bit for bit."""
    transform(options, lambda rest: onnxprune.decode(model, out, **rest))


@click.command()
@opt.model
@opt.out
@click.option("-p", "--pass", "steps", multiple=True, required=True, metavar="SPEC", help="A pass; repeatable.")
@opt.checks
def run(model: PathLike, out: PathLike, steps: tuple[str, ...], **options: Any) -> None:
    """Run passes in order, such as -p 'magnitude{sparsity=0.9}' -p encode."""
    transform(options, lambda rest: onnxprune.transform(model, out, steps, **rest))


@click.command()
@opt.model
@opt.out
def pack(model: PathLike, out: PathLike) -> None:
    """Write a model and its external data as one small file for storage and transport."""
    _show_sizes(onnxprune.pack(model, out), out)


@click.command()
@opt.model
@opt.out
def unpack(model: PathLike, out: PathLike) -> None:
    """Restore a packed model byte for byte."""
    _show_sizes(onnxprune.unpack(model, out), out)


def _show_sizes(sizes: Sizes, out: PathLike) -> None:
    small, large = sorted((sizes.before, sizes.after))
    click.echo(f"{out}: {sizes.before:,} -> {sizes.after:,} bytes, ratio {large / small:.2f}")
