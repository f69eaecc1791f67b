"""The command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from . import charts, comparison, crowd, growth, made, models, peers, phases, results
from .peers import Tool
from .processes import work
from .results import Results

MODELS = Path(__file__).resolve().parent.parent.parent / "models"
LENETS = (MODELS / "lenet-300-100.onnx", MODELS / "lenet-5.onnx")


def main() -> int:
    """Run a command: 1 if a bar of `crowd` was missed, else 0."""
    options = _parser().parse_args()
    try:
        return options.run(options)
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error


def _models(options: argparse.Namespace) -> int:
    tools = _there([peers.compress(peers.COMPRESS, "--values", "exact"), *peers.others(options.peers_python)])
    found = _begin(options, tools)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        made_one = Path(name, f"{models.MADE}.onnx")
        files = options.model
        if files is None:
            work(made.fully_connected, made_one)
            files = [made_one, *LENETS]
        for file in files:
            with tempfile.TemporaryDirectory(dir=name) as folder:
                rows, checked = models.run(file, tools, options.runs, Path(folder))
            lines = models.bars(rows, checked, file == made_one)
            print(f"## {file.stem}, sparsity {peers.SPARSITY}\n\n{models.shown(rows)}\n{_listed(lines)}")
            found.rows += rows
            found.bars += [f"{file.stem}: {line}" for line in lines]
    _save(options, found)
    return 0


def _growth(options: argparse.Namespace) -> int:
    for size in options.sizes:
        growth.Size.of(size)
    tools = _there([*peers.own(growth.FULL), peers.limit(), *peers.others(options.peers_python)])
    found = _begin(options, tools)
    space = None if options.address_space is None else int(options.address_space * 2**30)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for rows in growth.run(options.sizes, tools, options.runs, Path(folder), space):
            found.rows += rows
            _save(options, found)
    found.bars = growth.bars(found.rows)
    print(f"{growth.shown(found.rows)}\n{_listed(found.bars)}")
    _save(options, found)
    return 0


def _profile(options: argparse.Namespace) -> int:
    found = _begin(options, [])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found.rows = phases.run(options.size, options.runs, Path(folder))
    print(phases.shown(found.rows))
    _save(options, found)
    return 0


def _crowd(options: argparse.Namespace) -> int:
    if not 0 < options.damaged <= options.models // 4:
        raise ValueError("--damaged must be at least 1 and at most a quarter of --models")
    found = _begin(options, [])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found.rows, found.bars = crowd.run(options.models, options.damaged, Path(folder))
    print(f"{found.rows[-1].model}: {found.rows[-1].time:.1f} s; undisturbed {found.rows[0].time:.1f} s\n")
    print(_listed(found.bars))
    _save(options, found)
    return int(any(line.startswith("MISSED") for line in found.bars))


def _compare(options: argparse.Namespace) -> int:
    print(comparison.compared(Results.load(options.before), Results.load(options.after)), end="")
    return 0


def _chart(options: argparse.Namespace) -> int:
    for path in charts.draw(Results.load(options.results), options.folder):
        print(path)
    return 0


def _there(tools: Sequence[Tool]) -> list[tuple[Tool, str]]:
    return [(tool, tool.installed()) for tool in tools]


def _begin(options: argparse.Namespace, tools: Sequence[tuple[Tool, str]]) -> Results:
    """Say what is measured on."""
    facts = results.machine(peers.versions(tools))
    print(f"{results.said(facts)}\n", flush=True)
    return Results(" ".join(sys.argv[1:]), facts)


def _save(options: argparse.Namespace, found: Results) -> None:
    if options.json is not None:
        found.save(options.json)


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measure onnxprune beside other tools.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    def measuring(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = command(name, run, text)
        added.add_argument("--json", type=Path, help="write all numbers to this file")
        added.add_argument("--folder", type=Path, help="where models and outputs lie meanwhile")
        return added

    def repeated(added: argparse.ArgumentParser) -> None:
        added.add_argument("--runs", type=_positive, default=3, help="runs of each tool, in turn (default 3)")

    def beside(added: argparse.ArgumentParser) -> None:
        added.add_argument("--peers-python", nargs="+", default=[sys.executable], metavar="PATH",
                            help="interpreters that have onnxsim and NNCodec")  # fmt: skip

    one = measuring("models", _models, "the same models through each tool")
    repeated(one)
    beside(one)
    one.add_argument("--model", nargs="+", type=Path, help="instead of a made model and those of models/")
    one = measuring("growth", _growth, "time and memory over the number of weights; one run from 256M up")
    repeated(one)
    beside(one)
    one.add_argument(
        "--sizes",
        nargs="+",
        default=growth.SIZES,
        metavar="SIZE",
        help=f"weights, as 64M or 2G, and behind a slash in how many tensors (default {' '.join(growth.SIZES)})",
    )
    one.add_argument("--address-space", type=float, metavar="GIB", help="GiB that onnxprune may map")
    one = measuring("profile", _profile, "where the time of prune and exact encode goes")
    repeated(one)
    one.add_argument("--size", default="256M", help="weights (default 256M)")
    one = measuring("crowd", _crowd, "many models, some damaged, one worker killed; exit code 1 if a bar is missed")
    one.add_argument("--models", type=_positive, default=200)
    one.add_argument("--damaged", type=_positive, default=5)
    one = command("compare", _compare, "the results of two runs beside each other")
    one.add_argument("before", type=Path)
    one.add_argument("after", type=Path)
    one = command("chart", _chart, "draw what growth measured: growth-time.svg and growth-memory.svg")
    one.add_argument("results", type=Path)
    one.add_argument("folder", type=Path)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
