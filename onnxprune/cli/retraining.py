"""Commands around retraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxprune
from onnxprune.cli import options as opt
from onnxprune.cli.printing import console, transform, warn

if TYPE_CHECKING:
    from onnxprune.core.files import PathLike


@click.group()
def masks() -> None:
    """Take masks out as files that any framework reads, lay them over models, check and show them."""


@masks.command()
@click.argument("pruned", type=opt.PLACE)
@opt.out
@opt.names_from
@click.option("--original", type=opt.PLACE, help="The model before it was pruned: its values are easier to match.")
def export(pruned: PathLike, out: PathLike, names_from: Path | None, original: PathLike | None) -> None:
    """Write the zeros of a pruned model as a mask file."""
    from onnxprune.report import terminal

    file, notes = onnxprune.export_masks(pruned, out, names_from=names_from, original=original)
    terminal.show_masks(console(), file)
    for note in notes:
        warn(note)


@masks.command()
@opt.model
@click.argument("file", metavar="MASKS", type=opt.FILE)
@opt.out
@opt.names_from
@opt.checks
def apply(model: PathLike, file: Path, out: PathLike, **options: Any) -> None:
    """Zero in a model what a mask file prunes."""
    transform(options, lambda rest: onnxprune.apply_masks(model, file, out, **rest))


@masks.command()
@opt.model
@click.argument("file", metavar="MASKS", type=opt.FILE)
@opt.names_from
def check(model: PathLike, file: Path, names_from: Path | None) -> None:
    """See that what a mask file prunes is zero in a model; exit 3 where it is not."""
    masked = onnxprune.check_masks(model, file, names_from=names_from)
    click.echo(f"{sum(masked.values()):,} masked entries of {len(masked)} weights are zero")


@masks.command()
@click.argument("file", metavar="MASKS", type=opt.FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show what a mask file holds."""
    from onnxprune.report import terminal

    held = onnxprune.read_masks(file)
    if as_json:
        click.echo(terminal.to_json(held.facts()), nl=False)
    else:
        terminal.show_masks(console(), held)


@click.command()
@opt.model
@click.option(
    "--from", "source", type=opt.FILE, required=True, help="The retrained checkpoint, or a re-exported .onnx."
)
@opt.out
@click.option("--masks", type=opt.FILE, help="What it prunes is zero afterwards; with names it says what is what.")
@opt.names_from
@opt.checks
def update(model: PathLike, source: Path, out: PathLike, **options: Any) -> None:
    """Put retrained weights into a model; folded batch norms are computed anew.

    Which parameter is which weight is in the mask file, or is found by value in the checkpoint that the model was
    exported from (--names-from): the retrained values are others.
    """
    transform(options, lambda rest: onnxprune.update(model, source, out, **rest))


@click.command()
@click.argument("model", type=opt.FILE)
@click.option("-o", "--out", type=opt.FILE, required=True, help="The file to write.")
@click.option("--to", type=float, metavar="S", help="Share of the weights that is zero after the last round.")
@click.option("--rounds", type=int, default=6, show_default=True, help="How many rounds.")
@click.option(
    "--schedule",
    default="cubic",
    show_default=True,
    help="cubic (Zhu and Gupta 2017), linear, or geometric (each round prunes the same share of what is left).",
)
@click.option("--scope", default="layer", show_default=True, help="What the share is of: layer, global, channel.")
@click.option("--set", "set_", multiple=True, metavar="PATTERN=S", help="The same for weights by glob; repeatable.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Prune also what is left alone, such as biases.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave weights alone, by glob; repeatable.")
@opt.scan
@click.option(
    "--retrain",
    required=True,
    metavar="COMMAND",
    help="Trains {model} under {masks} and writes {out} (.safetensors; or {out.npz}, {out.pt}, {out.onnx}). May have "
    "{checkpoint} (with --names-from: what the round begins with), {round}, {rounds}, {sparsity}. No shell runs it.",
)
@click.option("--evaluate", metavar="COMMAND", help="Prints a number for {model} as its last line; higher is better.")
@click.option("--tolerance", type=float, help="How far below that of the unpruned model it may be; else exit 3.")
@click.option("--lower-is-better", is_flag=True, help="The number is an error: the tolerance is above it.")
@opt.names_from
@click.option("--work", type=opt.FILE, metavar="DIR", help="Keeps every round.  [default: OUT.rounds]")
@click.option("--splice", is_flag=True, help="Let pruned weights return where their retrained values are large enough.")
@click.option("--restart", is_flag=True, help="Forget the rounds that are there.")
@opt.json_report
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def iterate(
    model: Path, out: Path, set_: tuple[str, ...], json_file: Path | None, quiet: bool, **options: Any
) -> None:  # fmt: skip
    """Prune and retrain in rounds with your training command; write the sparsest model that is good enough.

    The same command goes on where a killed one was. The output is dense, with zeros: compress stores it small.
    """
    from onnxprune.errors import CommandError
    from onnxprune.report import terminal
    from onnxprune.retraining import iterate as rounds

    if json_file is not None:
        terminal.check_place(json_file, model, out)
    say = rounds.silent if quiet else lambda line: click.echo(line, err=True)
    try:
        result = rounds.iterate(model, out, set=set_, say=say, **options)
    except CommandError as error:
        for line in error.output:
            click.echo(f"  {line}", err=True)
        raise
    except KeyboardInterrupt:
        click.echo("stopped: the same command goes on from here", err=True)
        raise
    if json_file is not None:
        terminal.write_json(json_file, result.facts())
    if not quiet:
        terminal.show_iteration(console(), result)
