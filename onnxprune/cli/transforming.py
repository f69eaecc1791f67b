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
    help="The file to write; for several models a folder.  [default: MODEL.pruned.onnx beside the model]",
)
@opt.rules
@opt.scan
@opt.values("auto", loss="0.01; with --data and no rule the largest up to 1.28 that keeps a promise, see the guide")
@opt.encoding
@opt.activations
@opt.masks
@opt.channels
@click.option("--no-strip", is_flag=True, help="Keep dead neurons: no shape changes.")
@opt.strip_metadata
@opt.freeze
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Compress several models on this dask cluster; its workers must reach the same paths.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="D",
    help="Search for the smallest file whose metric drops by at most D (percentages: points; sqnr: is at least D dB): "
    "half of --data decides, half validates.",
)
@click.option(
    "--time-limit", type=float, metavar="SECONDS", help="End the search after this time, with the best file so far."
)
@opt.checks
def compress(
    models: tuple[PathLike, ...], out: PathLike | None, set_: tuple[str, ...], no_strip: bool,
    cluster: str | None, channels: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Prune, strip, encode and verify a model. Without a pruning rule, --loss bounds the error.

    A form that --values gives prunes nothing by itself: that takes a rule, --loss, or what judges the result.

    Several models, and all *.onnx files below folders, are written to the folder OUT at the same relative paths. A
    failing model stops no other, the same command skips finished models, and --json writes a line per model. --jobs
    then is the number of models at a time, one process each (default: 1).
    """
    options |= {"set": set_, "strip": not no_strip, "channels": channels or None}
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
@click.option(
    "--score", default="", help="The score of a channel: l1, l2, batchnorm or obs.  [default: l1; obs with --data]"
)
@click.option("--scope", default="layer", show_default=True, help="Scope of the share: layer or global.")
@opt.strip_metadata
@opt.freeze
@opt.checks
def strip(model: PathLike, out: PathLike, channels: tuple[str, ...], **options: Any) -> None:
    """Remove dead neurons, and with --channels or --speed-up whole channels."""
    transform(options, lambda rest: onnxprune.strip(model, out, channels=channels or None, **rest))


@click.command()
@opt.model
@opt.out
@opt.values("exact", loss="0.01")
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
@opt.quiet
def pack(model: PathLike, out: PathLike, quiet: bool) -> None:
    """Write a model and its external data as one small file for storage and transport."""
    _show_sizes(onnxprune.pack(model, out), out, quiet)


@click.command()
@opt.model
@opt.out
@opt.quiet
def unpack(model: PathLike, out: PathLike, quiet: bool) -> None:
    """Restore a packed model byte for byte."""
    _show_sizes(onnxprune.unpack(model, out), out, quiet)


def _show_sizes(sizes: Sizes, out: PathLike, quiet: bool) -> None:
    if quiet:
        return
    small, large = sorted((sizes.before, sizes.after))
    click.echo(f"{out}: {sizes.before:,} -> {sizes.after:,} bytes, ratio {large / small:.2f}")
