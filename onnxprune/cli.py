"""The command line: parse, call the API, print. No logic."""

from __future__ import annotations

import contextlib
import io
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from onnxprune.errors import OnnxPruneError, OptionError, one_line
from onnxprune.files import is_url

if TYPE_CHECKING:
    from rich.console import Console

    from onnxprune.api import PathLike
    from onnxprune.packed import Sizes
    from onnxprune.result import Result


def _stack(*options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


class _File(click.Path):
    """A path. A model stays text where a path would lose a slash of a URL, or make a folder of an empty name."""

    def __init__(self, *, url: bool = False) -> None:
        super().__init__(path_type=Path)
        self._url = url

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._url and (is_url(value) or not value):
            return value
        if is_url(value):
            self.fail(f"'{value}' is a URL, and this has to be a file here.", param, ctx)
        return super().convert(value, param, ctx)


_FILE, _PLACE = _File(), _File(url=True)
_model = click.argument("model", type=_PLACE)
_out = click.option("-o", "--out", type=_PLACE, required=True, help="The file to write.")
_data = click.option(
    "--data", type=_FILE, help="Samples: .npz or folder, arrays named after the inputs, perhaps targets."
)
_samples = click.option("--samples", type=int, help="At most so many samples of the data (synthesised: 8).")
_tolerance = click.option(
    "--tolerance",
    type=float,
    help="Write nothing and exit 3 when the metric is worse by more (top1, top5, agreement in points; sqnr: at least).",
)
_metric = _stack(
    click.option(
        "--metric",
        metavar="METRIC",
        help="top1, top5 (these need targets), agreement, sqnr, cosine, mse, or MODULE:FUNCTION of (outputs, data) or "
        "(session, data).  [default: top1 or mse with targets, else agreement]",
    ),
    click.option("--evaluate", metavar="COMMAND", help="Prints a number for {model} as its last line; no shell."),
    click.option("--lower-is-better", is_flag=True, help="The number of the function or command is an error."),
)
_json_report = click.option("--json", "json_file", type=_FILE, help="Write all facts to this file.")
_html_report = click.option(
    "--report",
    "html_file",
    type=_FILE,
    help="Write a report with pictures to this HTML file (extra: onnxprune[report]).",
)
_encoding = click.option(
    "--encoding", default="auto", show_default=True, help="auto, graph (self-decoding), coo, dense, or one form's name."
)


_FORMS = (
    "exact, half, shared:BITS, int8, int8:BITS, int4, or auto (within the loss); PATTERN=FORM for some; repeatable."
)


def _values(default: str) -> Callable[..., Any]:
    return _stack(
        click.option(
            "--values", multiple=True, default=(default,), metavar="FORM", help=f"{_FORMS}  [default: {default}]"
        ),
        click.option(
            "--loss",
            type=float,
            help="Squared error over energy, summed over the weights.  [default: 0.02; with --data 0.04]",
        ),
        click.option(
            "--prefer",
            default="speed",
            show_default=True,
            help="speed (forms that load fast) or size (plain and packed).",
        ),
    )


_checks = _stack(
    _data, _samples, _tolerance, _metric,
    click.option("--no-verify", is_flag=True, help="Do not run original and result in ONNX Runtime."),
    click.option("--in-place", is_flag=True, help="Allow the output to be the input."),
    click.option(
        "--jobs", type=int, metavar="N",
        help="Threads that work on the weights; the same bytes come out.  [default: one per core, up to 4]",
    ),
    _json_report, _html_report,
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)  # fmt: skip
_rules = _stack(
    click.option("--sparsity", type=float, help="Share of each scope to prune, exactly (0 <= S < 1)."),
    click.option("--quality", type=float, help="Prune |w| < Q x the layer's standard deviation (Han et al. 2015)."),
    click.option("--threshold", type=float, help="Prune |w| < T."),
    click.option("--scope", default="layer", show_default=True, help="What the share is of: layer, global, channel."),
    click.option("--pattern", default="", help="2:4 keeps 2 of every 4 inputs; 1x4 prunes blocks of 4 inputs."),
    click.option("--set", "set_", multiple=True, metavar="PATTERN=S", help="Sparsity for weights by glob; repeatable."),
    click.option("--include", multiple=True, metavar="PATTERN", help="Prune also what is left alone, such as biases."),
    click.option("--skip", multiple=True, metavar="PATTERN", help="Leave weights alone, by glob; repeatable."),
)
_channels = _stack(
    click.option("--channels", type=float, metavar="S", help="Remove this share of whole channels, the least first."),
    click.option(
        "--multiple", type=int, default=1, show_default=True, help="Round kept channels up to this, dead ones too."
    ),
)


_names_from = click.option(
    "--names-from", type=_FILE, help="The checkpoint of the model: .safetensors, .npz or .pt, matched by value."
)
_masks = _stack(click.option("--masks", type=_FILE, help="Write masks of what the rule prunes here."), _names_from)


_scan = click.option(
    "--from", "scan", type=_FILE, metavar="FILE", help="A sensitivity scan: it shares the sparsity of the whole out."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="onnxprune")
def cli() -> None:
    """Prune ONNX models, and store what is left so that any ONNX Runtime decodes it by itself.

    Exit codes: 0 done, 1 the input or the request is bad, 2 usage, 3 a check or tolerance was missed.
    """


@cli.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=_PLACE)
@click.option(
    "-o",
    "--out",
    type=_PLACE,
    help="The file to write; of several models the folder.  [default: MODEL.pruned.onnx beside the model]",
)
@_rules
@_scan
@_values("auto")
@_encoding
@_masks
@_channels
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
@_checks
def compress(
    models: tuple[PathLike, ...], out: PathLike | None, set_: tuple[str, ...], no_strip: bool,
    cluster: str | None, **options: Any,
) -> None:  # fmt: skip
    """Prune, strip, encode and verify a model. Without a rule it loses what --loss allows.

    Several models, and all *.onnx below folders, go into the folder OUT, where they lie as below theirs. One that
    fails does not stop the others, the same command skips what it finds done, and --json has a line for each. --jobs is
    then how many models are worked on at a time, each in a process; 1 without it.
    """
    from onnxprune import api

    options |= {"set": set_, "strip": not no_strip}
    if len(models) > 1 or (isinstance(models[0], Path) and models[0].is_dir()):
        _compress_many(models, out, cluster, options)
        return
    if cluster is not None:
        raise click.UsageError("--cluster is for several models.")
    _transform(options, lambda rest: api.compress(models[0], out, **rest))


@cli.command()
@_model
@_out
@_rules
@_masks
@_checks
def prune(model: PathLike, out: PathLike, set_: tuple[str, ...], **options: Any) -> None:
    """Zero the smallest weights; the file stays dense."""
    from onnxprune import api

    _transform(options, lambda rest: api.prune(model, out, set=set_, **rest))


@cli.command()
@_model
@_out
@_channels
@click.option("--score", default="l1", show_default=True, help="What channels are compared by: l1, l2, batchnorm.")
@click.option("--scope", default="layer", show_default=True, help="What the share of channels is of: layer, global.")
@_checks
def strip(model: PathLike, out: PathLike, **options: Any) -> None:
    """Remove dead neurons for good, and with --channels whole channels."""
    from onnxprune import api

    _transform(options, lambda rest: api.strip(model, out, **rest))


@cli.command()
@_model
@_out
@_values("exact")
@_encoding
@_checks
def encode(model: PathLike, out: PathLike, **options: Any) -> None:
    """Store each weight in its smallest form."""
    from onnxprune import api

    _transform(options, lambda rest: api.encode(model, out, **rest))


@cli.command()
@_model
@_out
@_checks
def decode(model: PathLike, out: PathLike, **options: Any) -> None:
    """Restore every encoded weight as a dense initializer, bit for bit."""
    from onnxprune import api

    _transform(options, lambda rest: api.decode(model, out, **rest))


@cli.command()
@_model
@_out
@click.option("-p", "--pass", "steps", multiple=True, required=True, metavar="SPEC", help="A pass; repeatable.")
@_checks
def run(model: PathLike, out: PathLike, steps: tuple[str, ...], **options: Any) -> None:
    """Run passes in order, such as -p 'magnitude{sparsity=0.9}' -p encode."""
    from onnxprune import api

    _transform(options, lambda rest: api.transform(model, out, steps, **rest))


@cli.command()
@_model
@click.option("--cost", is_flag=True, help="Run it: what each layer costs, and the shares that are not zero.")
@click.option("--data", type=_FILE, help="Inputs to run it on, as for verify; implies --cost.")
@click.option("--samples", type=int, help="At most so many samples (synthesised: 8); implies --cost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: PathLike, cost: bool, data: Path | None, samples: int | None, as_json: bool) -> None:
    """Show every weight of a model, and why the others are left alone.

    With --cost each layer instead: parameters, bytes, floating-point operations (2 per multiplication) of a sample,
    entries that are not zero of its weights (weight %) and of its output as the next layer reads it (act %), weight %
    times the act % of what it reads (FLOP %; the network's input counts in full), milliseconds of a run.
    """
    from onnxprune import api, report

    if cost or data is not None or samples is not None:
        costs = api.costs(model, data=data, samples=samples)
        if as_json:
            click.echo(report.to_json(costs.facts()), nl=False)
        else:
            report.show_costs(_console(), costs)
        return
    rows = api.inspect(model)
    if as_json:
        click.echo(report.to_json(rows), nl=False)
    else:
        report.show_inspection(_console(), rows)


@cli.command()
@_model
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compat(model: PathLike, as_json: bool) -> None:
    """Show the forms of the encoded weights, and which runtimes read them.

    Measured with onnxruntime 1.15 to 1.32 and OpenVINO 2026.4: a release before 1.15 may or may not do.
    """
    import dataclasses

    from onnxprune import api, report

    facts = api.compat(model)
    if as_json:
        click.echo(report.to_json(dataclasses.asdict(facts)), nl=False)
    else:
        report.show_compatibility(_console(), facts)


@cli.command()
@click.argument("original", type=_PLACE)
@click.argument("result", type=_PLACE)
@_data
@_samples
@_tolerance
@_metric
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(original: PathLike, result: PathLike, as_json: bool, **options: Any) -> None:
    """Run two models on the same inputs and compare their outputs."""
    from onnxprune import api, report

    deviation = api.verify(original, result, **options)
    if as_json:
        click.echo(report.to_json(vars(deviation)), nl=False)
    else:
        report.show_deviation(_console(), deviation)
    if deviation.source == "none":
        _warn(deviation.reason)


@cli.command("report")
@_model
@click.argument("original", type=_FILE, required=False)
@click.option("-o", "--out", type=_FILE, required=True, help="The HTML file to write.")
@_data
@_samples
@click.option("--cost", is_flag=True, help="Run MODEL and show what each layer costs, as inspect --cost does.")
@click.option("--sensitivity", type=_FILE, help="Draw the curves of this sensitivity scan.")
@click.option(
    "--weights",
    multiple=True,
    metavar="GLOB",
    help="Draw these weights' values; repeatable.  [default: the 12 largest]",
)
def html_report(model: Path, original: Path | None, out: Path, **options: Any) -> None:
    """Write an HTML report on a model, or on what became of ORIGINAL: one file with pictures, readable offline.

    Needs pip install 'onnxprune[report]'.
    """
    from onnxprune import html, report

    report.check_place(out, model, original)
    html.write_report(model, out, original, command=_command_line(), **options)


def _command_line() -> str:
    """What the user typed."""
    return shlex.join(["onnxprune", *sys.argv[1:]])


@cli.command()
@_model
@_out
def pack(model: PathLike, out: PathLike) -> None:
    """Write a model and its external data as one small file for storage and transport."""
    from onnxprune import api

    _show_sizes(api.pack(model, out), out)


@cli.command()
@_model
@_out
def unpack(model: PathLike, out: PathLike) -> None:
    """Restore a packed model byte for byte."""
    from onnxprune import api

    _show_sizes(api.unpack(model, out), out)


def _show_sizes(sizes: Sizes, out: PathLike) -> None:
    small, large = sorted((sizes.before, sizes.after))
    click.echo(f"{out}: {sizes.before:,} -> {sizes.after:,} bytes, ratio {large / small:.2f}")


@cli.group()
def masks() -> None:
    """Take masks out as files that any framework reads, lay them over models, check and show them."""


@masks.command()
@click.argument("pruned", type=_PLACE)
@_out
@_names_from
@click.option("--original", type=_PLACE, help="The model before it was pruned: its values are easier to match.")
def export(pruned: PathLike, out: PathLike, names_from: Path | None, original: PathLike | None) -> None:
    """Write the zeros of a pruned model as a mask file."""
    from onnxprune import report, retrain

    file, notes = retrain.export_masks(pruned, out, names_from=names_from, original=original)
    report.show_masks(_console(), file)
    for note in notes:
        _warn(note)


@masks.command()
@_model
@click.argument("file", metavar="MASKS", type=_FILE)
@_out
@_names_from
@_checks
def apply(model: PathLike, file: Path, out: PathLike, **options: Any) -> None:
    """Zero in a model what a mask file prunes."""
    from onnxprune import retrain

    _transform(options, lambda rest: retrain.apply_masks(model, file, out, **rest))


@masks.command()
@_model
@click.argument("file", metavar="MASKS", type=_FILE)
@_names_from
def check(model: PathLike, file: Path, names_from: Path | None) -> None:
    """See that what a mask file prunes is zero in a model; exit 3 where it is not."""
    from onnxprune import retrain

    masked = retrain.check_masks(model, file, names_from=names_from)
    click.echo(f"{sum(masked.values()):,} masked entries of {len(masked)} weights are zero")


@masks.command()
@click.argument("file", metavar="MASKS", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show what a mask file holds."""
    from onnxprune import report, retrain

    held = retrain.read_masks(file)
    if as_json:
        click.echo(report.to_json(held.facts()), nl=False)
    else:
        report.show_masks(_console(), held)


@cli.command()
@_model
@click.option("--from", "source", type=_FILE, required=True, help="The retrained checkpoint, or a re-exported .onnx.")
@_out
@click.option("--masks", type=_FILE, help="What it prunes is zero afterwards; with names it says what is what.")
@_names_from
@_checks
def update(model: PathLike, source: Path, out: PathLike, **options: Any) -> None:
    """Put retrained weights into a model; folded batch norms are computed anew.

    Which parameter is which weight is in the mask file, or is found by value in the checkpoint that the model was
    exported from (--names-from): the retrained values are others.
    """
    from onnxprune import retrain

    _transform(options, lambda rest: retrain.update(model, source, out, **rest))


@cli.command()
@click.argument("model", type=_FILE)
@click.option("-o", "--out", type=_FILE, required=True, help="The file to write.")
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
@_scan
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
@_names_from
@click.option("--work", type=_FILE, metavar="DIR", help="Keeps every round.  [default: OUT.rounds]")
@click.option("--splice", is_flag=True, help="Let pruned weights return where their retrained values are large enough.")
@click.option("--restart", is_flag=True, help="Forget the rounds that are there.")
@_json_report
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def iterate(
    model: Path, out: Path, set_: tuple[str, ...], json_file: Path | None, quiet: bool, **options: Any
) -> None:  # fmt: skip
    """Prune and retrain in rounds with your training command; write the sparsest model that is good enough.

    The same command goes on where a killed one was. The output is dense, with zeros: compress stores it small.
    """
    from onnxprune import iteration, report
    from onnxprune.errors import CommandError

    if json_file is not None:
        report.check_place(json_file, model, out)
    say = iteration.silent if quiet else lambda line: click.echo(line, err=True)
    try:
        result = iteration.iterate(model, out, set=set_, say=say, **options)
    except CommandError as error:
        for line in error.output:
            click.echo(f"  {line}", err=True)
        raise
    except KeyboardInterrupt:
        click.echo("stopped: the same command goes on from here", err=True)
        raise
    if json_file is not None:
        report.write_json(json_file, result.facts())
    if not quiet:
        report.show_iteration(_console(), result)


@cli.command()
@_model
@_out
@_data
@_samples
@_metric
@click.option("--levels", metavar="S,S,...", help="Sparsities to try.  [default: 0.1 to 0.98 in 10 steps]")
@click.option("--channels", is_flag=True, help="Remove whole channels instead of single weights.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Scan also what is left alone, such as biases.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave layers out, by glob; repeatable.")
@click.option("--jobs", type=int, help="Processes of one thread each.  [default: one per processor]")
@click.option("--cluster", metavar="ADDRESS", help="A dask scheduler, in place of processes.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def sensitivity(model: Path, out: Path, levels: str | None, quiet: bool, **options: Any) -> None:
    """Show how a metric falls as one layer after the other is pruned, and write the curves.

    The same command goes on where a killed one was.
    """
    from onnxprune import report
    from onnxprune import sensitivity as scans

    try:
        given = scans.LEVELS if levels is None else [float(level) for level in levels.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"'{levels}' is not numbers with commas between", param_hint="--levels") from error
    with _progress(quiet) as progress:
        curves = scans.scan(model, out, levels=given, progress=progress, **options)
    if not quiet:
        report.show_curves(_console(), curves)


@cli.command()
def passes() -> None:
    """List the installed passes, built in and third-party, with their options."""
    import dataclasses

    from onnxprune import api

    for name, (kind, provider) in sorted(api.passes().items()):
        options = ", ".join(f.name for f in dataclasses.fields(kind))
        click.echo(f"{name:12s} {provider:10s} {(kind.__doc__ or '').strip().splitlines()[0]}")
        if options:
            click.echo(f"{'':23s} options: {options}")


def _transform(options: dict[str, Any], call: Callable[[dict[str, Any]], Result]) -> None:
    """What every command that writes a model shares: progress, the table, the JSON file, warnings."""
    from onnxprune import html, report

    quiet, json_file, html_file = (options.pop(name) for name in ("quiet", "json_file", "html_file"))
    verify = options["verify"] = not options.pop("no_verify")
    given = click.get_current_context().params
    for place in filter(None, (json_file, html_file)):
        report.check_place(place, *given.get("models", ()), given.get("model"), given["out"])
    if html_file is not None:
        html.check_extra()
        if html_file == json_file:
            raise OptionError(f"--json and --report both name {html_file}")
        if is_url(given["out"]) or any(map(is_url, (*given.get("models", ()), given.get("model")))):
            raise OptionError("--report is made from local files: give it to the report command afterwards")
    with _progress(quiet) as progress:
        result = call(options | {"progress": progress})
    if json_file is not None:
        report.write_json(json_file, result.facts())
    if html_file is not None:
        html.write_report(result, html_file, command=_command_line())
    if not quiet:
        report.show_result(_console(), result)
    if verify and result.deviation.source == "none":
        _warn(f"the result was not verified: {result.deviation.reason}")


def _compress_many(
    models: tuple[PathLike, ...], out: PathLike | None, cluster: str | None, options: dict[str, Any]
) -> None:
    from onnxprune import many, report

    if out is None:
        raise OptionError("several models need a folder to write to: give -o OUT")
    if options.pop("html_file") is not None:
        raise OptionError("--report is of one model: give it to the report command afterwards")
    quiet, json_file, jobs = options.pop("quiet"), options.pop("json_file"), options.pop("jobs") or 1
    options["verify"] = not options.pop("no_verify")
    if json_file is not None:
        report.check_place(json_file, *models)
    try:
        with _progress(quiet) as progress:
            batch = many.compress_many(models, out, jobs=jobs, cluster=cluster, progress=progress, **options)
    except KeyboardInterrupt:
        click.echo("Error: interrupted; the same command goes on from here", err=True)
        click.get_current_context().exit(130)
    if json_file is not None:
        report.write_json_lines(json_file, [vars(model) for model in batch.models])
    if not quiet:
        report.show_batch(_console(), batch)
    for note in batch.notes:
        _warn(note)
    for model in batch.models:
        if model.error:
            click.echo(f"Error: {model.error}", err=True)
    click.get_current_context().exit(batch.exit_code)


def _console() -> Console:
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 160
    return Console(width=wide, highlight=False, markup=False, emoji=False)  # names may hold [ and :


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield update


def _warn(text: str) -> None:
    click.echo(f"Warning: {text}", err=True)


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line; an expected error is one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminated)  # leave through the same clean-up as Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may not fit the terminal's encoding
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo("Error: interrupted; nothing was written", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OnnxPruneError as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of the terminal or pipe: files are the API's, which names them
        click.echo(f"Error: {error.filename or 'cannot print'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:  # the one place: a user sees a line, never a traceback
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
    sys.exit(code or 0)
