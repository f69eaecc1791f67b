"""Commands that inspect models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxprune
from onnxprune.cli import options as opt
from onnxprune.cli.printing import check_reports, command_line, console, progress_bar, warn
from onnxprune.errors import NotVerified

if TYPE_CHECKING:
    from onnxprune.core.files import PathLike


@click.command()
@opt.model
@click.option("--cost", is_flag=True, help="Run the model, and list costs and nonzero shares by layer.")
@click.option("--data", type=opt.FILE, help="Samples to run it on, as for verify; implies --cost.")
@click.option("--samples", type=int, metavar="N", help="Use the first N samples, or synthesise N; implies --cost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: PathLike, cost: bool, data: Path | None, samples: int | None, as_json: bool) -> None:
    """List every weight of a model, with the reason where passes leave it alone.

    --cost lists the layers instead: parameters, bytes, floating-point operations for a sample (2 per multiplication),
    nonzero share of the weights (weight %) and of the output as the next layer reads it (act %), weight % times the
    act % of the layer's input (FLOP %; the network's input counts in full), milliseconds of a run.
    """
    from onnxprune.api.inspect import inspection
    from onnxprune.report import terminal

    if cost or data is not None or samples is not None:
        costs = onnxprune.costs(model, data=data, samples=samples)
        if as_json:
            click.echo(terminal.to_json(costs.facts()), nl=False)
        else:
            terminal.show_costs(console(), costs)
        return
    if as_json:
        click.echo(terminal.to_json(onnxprune.inspect(model)), nl=False)
        return
    rows, dense = inspection(model)
    terminal.show_inspection(console(), rows)
    if dense:
        warn(
            f"{len(dense)} weights were encoded and are dense now, such as '{dense[0]}': a graph tool "
            "or an optimiser computed them. Encode again, as the last step: onnxprune encode"
        )


@click.command()
@opt.model
@click.option("--run", is_flag=True, help="Run it, and say what the installed onnxruntime does with each weight.")
@click.option("--data", type=opt.FILE, help="A sample to run it on, as for verify; implies --run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compat(model: PathLike, run: bool, data: Path | None, as_json: bool) -> None:
    """Show the forms of the encoded weights, and which runtimes read them.

    Measured with onnxruntime 1.15 to 1.32 and OpenVINO 2026.4. Releases before 1.15 were not tried.
    """
    import dataclasses

    from onnxprune.report import terminal

    facts = onnxprune.compat(model)
    ran = onnxprune.decoding(model, data=data) if run or data is not None else None
    if as_json:
        held = dataclasses.asdict(facts) | ({} if ran is None else {"decoding": dataclasses.asdict(ran)})
        click.echo(terminal.to_json(held), nl=False)
        return
    terminal.show_compatibility(console(), facts)
    if ran is not None:
        terminal.show_decoding(console(), ran)


@click.command()
@click.argument("original", type=opt.PLACE)
@click.argument("result", type=opt.PLACE)
@opt.data
@opt.samples
@opt.tolerance_option("Exit 3")
@opt.metric
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(original: PathLike, result: PathLike, as_json: bool, **options: Any) -> None:
    """Run two models on the same inputs and compare their outputs; exit code 3 where nothing could be compared."""
    from onnxprune.report import terminal

    deviation = onnxprune.verify(original, result, **options)
    if as_json:
        click.echo(terminal.to_json(vars(deviation)), nl=False)
    elif deviation.source != "none":
        terminal.show_deviation(console(), deviation)
    if deviation.source == "none":
        raise NotVerified(f"nothing was compared: {deviation.reason}")


@click.command("report")
@opt.local_model
@click.argument("original", type=opt.FILE, required=False)
@click.option("-o", "--out", type=opt.FILE, required=True, help="The HTML file to write.")
@opt.data
@opt.samples
@click.option("--cost", is_flag=True, help="Run MODEL, and add the costs by layer of inspect --cost.")
@click.option("--sensitivity", type=opt.FILE, help="Draw the curves of this sensitivity scan.")
@click.option(
    "--weights",
    multiple=True,
    metavar="GLOB",
    help="Draw the values of these weights; repeatable.  [default: the 12 largest]",
)
def html_report(model: Path, original: Path | None, out: Path, **options: Any) -> None:
    """Write an HTML report on a model, alone or beside its ORIGINAL: one file with pictures, readable offline.

    Needs pip install 'onnxprune[report]'.
    """
    from onnxprune.report.html import write as html

    check_reports(out)
    html.write_report(model, out, original, command=command_line(), **options)


@click.command()
@opt.local_model
@click.argument("original", type=opt.FILE, required=False)
@click.option("-o", "--out", type=opt.FILE, required=True, help="The folder to write the page to.")
@click.option("--data", type=opt.FILE, help="Samples, as for verify: the page starts with the first.")
@click.option("--runtime", type=opt.FILE, metavar="FOLDER", help="The unpacked npm package onnxruntime-web.")
@click.option("--serve", is_flag=True, help="Serve the page on this machine until Ctrl-C.")
@click.option("--port", type=int, default=8000, show_default=True, help="For --serve; 0 takes a free one.")
def demo(model: Path, original: Path | None, out: Path, serve: bool, port: int, **options: Any) -> None:
    """Write a web page that runs MODEL in the browser: size, load and latency, and its ORIGINAL beside it.

    Without an ORIGINAL it is MODEL, which is compressed for onnxruntime-web first. The page loads nothing from
    elsewhere; any web server can serve the folder. Without --runtime npm fetches onnxruntime-web: pip install
    'onnxprune[demo]' brings npm where there is none.
    """
    import contextlib

    from onnxprune.demo.server import server
    from onnxprune.demo.write import write_demo

    page = write_demo(model, out, original, **options)
    if not serve:
        click.echo(f"{page}: serve it with any web server, or with --serve")
        return
    with server(out, port) as serving, contextlib.suppress(KeyboardInterrupt):
        click.echo(f"http://127.0.0.1:{serving.server_port}/ shows it; Ctrl-C ends")
        serving.serve_forever()


@click.command()
def passes() -> None:
    """List the installed passes, built in and third-party, with their options."""
    import dataclasses

    from onnxprune.pipeline import registry

    for name, (kind, provider) in sorted(registry.passes().items()):
        options = ", ".join(f.name for f in dataclasses.fields(kind))
        click.echo(f"{name:12s} {provider:10s} {(kind.__doc__ or '').strip().splitlines()[0]}")
        if options:
            click.echo(f"{'':23s} options: {options}")


@click.command()
@opt.local_model
@opt.local_out
@opt.data
@click.option("--samples", type=int, metavar="N", help="Use the first N samples of --data.  [default: all]")
@opt.metric
@click.option("--levels", metavar="S,S,...", help="Sparsities to try.  [default: 0.1 to 0.98 in 10 steps]")
@click.option("--channels", is_flag=True, help="Remove whole channels instead of single weights.")
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Also scan weights that are left alone by default, such as biases.",
)
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave the layers out that match a glob; repeatable.")
@click.option("--jobs", type=int, help="Processes of one thread each.  [default: one per processor]")
@click.option("--cluster", metavar="ADDRESS", help="Run the trials on this dask scheduler instead of in processes.")
@opt.quiet
def sensitivity(model: Path, out: Path, levels: str | None, quiet: bool, **options: Any) -> None:
    """Measure a metric while one layer after the other is pruned, and write the curves.

    A killed scan goes on with the same command.
    """
    from onnxprune.report import terminal
    from onnxprune.search import sensitivity as scans

    try:
        given = scans.LEVELS if levels is None else [float(level) for level in levels.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"'{levels}' is not numbers with commas between", param_hint="--levels") from error
    with progress_bar(quiet) as progress:
        curves = scans.scan(model, out, levels=given, progress=progress, **options)
    if not quiet:
        terminal.show_curves(console(), curves)
