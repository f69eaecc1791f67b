"""Commands around retraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxprune
from onnxprune.cli import options as opt
from onnxprune.cli.printing import check_reports, console, transform, warn

if TYPE_CHECKING:
    from onnxprune.core.files import PathLike


@click.group()
def masks() -> None:
    """Export masks to files for any framework, apply them to models, check and show them."""


@masks.command()
@click.argument("pruned", type=opt.PLACE)
@opt.out
@opt.names_from
@click.option("--original", type=opt.PLACE, help="The model before it was pruned, whose values match more surely.")
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
    """Zero the masked weights of a model."""
    transform(options, lambda rest: onnxprune.apply_masks(model, file, out, **rest))


@masks.command()
@opt.model
@click.argument("file", metavar="MASKS", type=opt.FILE)
@opt.names_from
def check(model: PathLike, file: Path, names_from: Path | None) -> None:
    """Check that the masked weights of a model are zero; exit 3 if not."""
    masked = onnxprune.check_masks(model, file, names_from=names_from)
    click.echo(f"{sum(masked.values()):,} masked entries of {len(masked)} weights are zero")


@masks.command()
@click.argument("file", metavar="MASKS", type=opt.FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show the contents of a mask file."""
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
@click.option(
    "--masks", type=opt.FILE, help="Masked weights are zero afterwards; names in the file map parameters to weights."
)
@opt.names_from
@opt.checks
def update(model: PathLike, source: Path, out: PathLike, **options: Any) -> None:
    """Put retrained weights into a model; folded batch norms are computed anew.

    The mask file maps parameters to weights. Without one, give the checkpoint that the model was exported from
    (--names-from): its parameters are matched by value, which retrained values cannot be.
    """
    transform(options, lambda rest: onnxprune.update(model, source, out, **rest))


@click.command()
@opt.local_model
@opt.local_out
@click.option("--to", type=float, metavar="S", help="Sparsity after the last round.")
@click.option("--rounds", type=int, default=6, show_default=True, help="Number of rounds.")
@click.option(
    "--schedule",
    default="cubic",
    show_default=True,
    help="cubic (Zhu and Gupta 2017), linear, or geometric (the same share of the remaining weights in each round).",
)
@click.option("--scope", default="layer", show_default=True, help="Scope of the share: layer, global or channel.")
@click.option(
    "--set",
    "set_",
    multiple=True,
    metavar="PATTERN=S",
    help="Sparsity of the weights that match a glob after the last round; repeatable.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Also prune weights that are left alone by default, such as biases.",
)
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave the weights alone that match a glob; repeatable.")
@opt.scan
@click.option(
    "--retrain",
    required=True,
    metavar="COMMAND",
    help="Your training: reads {model} and {masks}, writes the checkpoint {out} (.safetensors; or {out.npz}, {out.pt}, "
    "{out.onnx}). Also {checkpoint} (with --names-from: the weights so far), {round}, {rounds}, {sparsity}. No shell.",
)
@click.option(
    "--evaluate",
    metavar="COMMAND",
    help="A command that prints a number for {model} as its last line; higher is better.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="T",
    help="Largest drop below the unpruned model; exit 3 if no round is within it.",
)
@click.option("--lower-is-better", is_flag=True, help="The number counts errors: the tolerance lies above it.")
@opt.names_from
@click.option("--work", type=opt.FILE, metavar="DIR", help="The folder that keeps every round.  [default: OUT.rounds]")
@click.option("--splice", is_flag=True, help="Let pruned weights return whose retrained values are large enough.")
@click.option("--restart", is_flag=True, help="Forget earlier rounds, and begin anew.")
@opt.json_report
@opt.quiet
def iterate(
    model: Path, out: Path, set_: tuple[str, ...], json_file: Path | None, quiet: bool, **options: Any
) -> None:  # fmt: skip
    """Prune and retrain in rounds with your training command; write the sparsest model within the tolerance.

    A killed run goes on with the same command. The output is dense, with zeros: compress stores it small.
    """
    from onnxprune.errors import CommandError
    from onnxprune.report import terminal
    from onnxprune.retraining import iterate as rounds

    check_reports(json_file)
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
