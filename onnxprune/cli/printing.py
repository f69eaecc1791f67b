"""Progress, tables, JSON and warnings around a call of the API."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.core.files import is_url
from onnxprune.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from onnxprune.api.result import Result
    from onnxprune.core.files import PathLike


_LOSING = ("channels", "speed_up", "loss")  # who gives them, or a rule, knows
_COUNTED = ("models", "search", "trials")  # progress in numbers; everything else counts bytes of weights


def transform(options: dict[str, Any], call: Callable[[dict[str, Any]], Result]) -> None:
    """Run a command that writes a model: show progress, print the table, write the files, warn."""
    from onnxprune.api.stages import placed
    from onnxprune.report import terminal
    from onnxprune.report.deviations import far_off

    quiet, json_file, html_file = (options.pop(name) for name in ("quiet", "json_file", "html_file"))
    verify = options["verify"] = not options.pop("no_verify")
    given = click.get_current_context().params
    (model,) = given.get("models") or (given["model"],)
    check_reports(json_file, html_file, written=[placed(Path(model), given["out"])])
    if html_file is not None:
        from onnxprune.report.html import write as html

        html.check_extra()
        if is_url(given["out"]) or is_url(model):
            raise OptionError("--report is made from local files: give it to the report command afterwards")
    with progress_bar(quiet) as progress:
        result = call(options | {"progress": progress})
    if json_file is not None:
        terminal.write_json(json_file, result.facts())
    if html_file is not None:
        html.write_report(result, html_file, command=command_line())
    if not quiet:
        terminal.show_result(console(), result)
    elif result.promise is not None and not result.promise.kept:
        warn(f"the promise is not kept on {result.promise.samples} held-out samples")
    elif not _loss_asked(given) and (said := far_off(result.deviation)):
        warn(said)
    if verify and result.deviation.source == "none":
        warn(f"the result was not verified: {result.deviation.reason}")


def _loss_asked(given: dict[str, Any]) -> bool:
    from onnxprune.api.options.objects import Rule, taken

    return taken(Rule, given, set=given.get("set_", ())).given or any(given.get(name) for name in _LOSING)


def compress_many(
    models: tuple[PathLike, ...], out: PathLike | None, cluster: str | None, options: dict[str, Any]
) -> None:
    """Compress several models, print a line for each, and exit with the code of them all.

    Args:
        models: files, folders or patterns.
        out: the folder to write to.
        cluster: the address of a dask scheduler; None runs processes here.
        options: of the command, by name.
    """
    from onnxprune.batch import compress_many as many
    from onnxprune.batch.inputs import gather
    from onnxprune.batch.ledger import NAME
    from onnxprune.report import terminal

    if out is None:
        raise OptionError("several models need a folder to write to: give -o OUT")
    if options.pop("html_file") is not None:
        raise OptionError("--report is of one model: give it to the report command afterwards")
    quiet, json_file, jobs = options.pop("quiet"), options.pop("json_file"), options.pop("jobs") or 1
    options["verify"] = not options.pop("no_verify")
    if json_file is not None:
        pairs = gather(models, out).pairs
        check_reports(json_file, written=[*itertools.chain(*pairs), Path(out) / NAME])
    try:
        with progress_bar(quiet) as progress:
            batch = many.compress_many(models, out, jobs=jobs, cluster=cluster, progress=progress, **options)
    except KeyboardInterrupt:
        click.echo("Error: interrupted; the same command goes on from here", err=True)
        click.get_current_context().exit(130)
    if json_file is not None:
        terminal.write_json_lines(json_file, [vars(model) for model in batch.models])
    if not quiet:
        terminal.show_batch(console(), batch)
    for note in batch.notes:
        warn(note)
    for model in batch.models:
        if model.error:
            click.echo(f"Error: {model.error}", err=True)
    click.get_current_context().exit(batch.exit_code)


def check_reports(*reports: Path | None, written: Iterable[Path] = ()) -> None:
    """Refuse, before anything is done, to write a report over another one, or over what the command reads or writes.

    Args:
        reports: parameters of the command.
        written: what it writes besides the files that its parameters name.
    """
    from onnxprune.report import terminal

    given = click.get_current_context().params
    taken = [path for path in (*given.values(), *given.get("models", ()), *written) if isinstance(path, Path)]
    for report in filter(None, reports):
        terminal.check_place(report, [path for path in taken if path is not report])


def console() -> Console:
    """The console for tables: as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 160
    return Console(width=wide, highlight=False, markup=False, emoji=False)  # names may hold [ and :


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from onnxprune.report.terminal import size

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total, done="")
            shown = f"{done} of {total}" if name in _COUNTED else f"{size(done)} of {size(total)}"
            bar.update(tasks[name], completed=done, done=shown)

        yield update


def warn(text: str) -> None:
    """Print a warning that the user can act on."""
    click.echo(f"Warning: {text}", err=True)


def command_line() -> str:
    """The command line as the user typed it."""
    return shlex.join(["onnxprune", *sys.argv[1:]])
