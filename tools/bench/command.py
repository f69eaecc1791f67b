"""The command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from . import arguments, charts, comparison, tables
from .measures import MEASURES, TOOL
from .results import Results


def main() -> int:
    """Run a command: 1 if a bar was missed or `tables --check` found a difference, else 0."""
    options = _parser().parse_args()
    try:
        return options.run(options)
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error


def _measure(options: argparse.Namespace) -> int:
    module = MEASURES[options.command]
    found = Results.begin(f"{TOOL} {options.command}", arguments.without_places(sys.argv[2:]))

    def keep() -> None:
        if options.json is not None:
            found.save(options.json)

    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
        for _ in module.run(options, found, Path(folder)):
            keep()
    keep()
    print(f"{found.caption}\n\n{module.shown(found.rows)}\n" + "".join(f"- {line}\n" for line in found.bars), end="")
    return int(any(line.startswith("MISSED") for line in found.bars))


def _compare(options: argparse.Namespace) -> int:
    print(comparison.compared(Results.load(options.before), Results.load(options.after)), end="")
    return 0


def _chart(options: argparse.Namespace) -> int:
    for path in charts.draw(Results.load(options.results), options.folder):
        print(path)
    return 0


def _tables(options: argparse.Namespace) -> int:
    page = tables.Page.read(options.page)
    for line in page.lines:
        print(line)
    if page.differs and not options.check:
        page.write()
        print(f"wrote {page.path}")
    return int(page.differs and options.check)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=TOOL, description="Measure onnxprune beside other tools.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text.partition("\n")[0], description=text, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    for name, module in MEASURES.items():
        one = command(name, module.__doc__ or "")
        module.add_options(one)
        arguments.add_places(one)
        one.set_defaults(run=_measure)
    one = command("compare", "The results of two runs beside each other.")
    one.add_argument("before", type=Path, help="what --json wrote")
    one.add_argument("after", type=Path)
    one.set_defaults(run=_compare)
    one = command("chart", "Draw what growth measured: growth-time.svg and growth-memory.svg.")
    one.add_argument("results", type=Path, help="what growth --json wrote")
    one.add_argument("folder", type=Path, help="where the drawings go")
    one.set_defaults(run=_chart)
    one = command("tables", tables.__doc__ or "")
    one.add_argument("page", type=Path, nargs="?", default=tables.PAGE, help="default docs/benchmarks.md")
    one.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table would change")
    one.set_defaults(run=_tables)
    return parser
