"""The command line."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from onnxprune.encodings import GRAPH

from . import data, forms, graph_tools, models, page
from .cases import CONSUMERS, Case, write_cases
from .environments import ENVIRONMENTS, Environment
from .outcomes import EACH_RUN, Seen, outcome

_TURNS = 3
DESCRIPTION = "Measure which runtimes read which encodings, and write what docs/runtimes.md and --target go by."


def main() -> int:
    parser = argparse.ArgumentParser(prog="compat", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, title="commands", metavar="COMMAND")
    for name, does in (
        ("forms", "run every form in front of every layer, and write the outcomes"),
        ("models", "compress whole models for each runtime and time them there"),
        ("tools", "give encoded files to graph tools, and write what becomes of them"),
        ("tables", "make the tables of docs/runtimes.md from what was measured"),
    ):
        command = commands.add_parser(name, help=does, description=does)
        if name in ("forms", "models"):
            command.add_argument("runtimes", nargs="*", metavar="RUNTIME", help="such as tract or onnxruntime-1.25.1")
        if name == "forms":
            text = "these encodings alone; what was measured of others stays"
            command.add_argument("--encoding", nargs="+", choices=[*GRAPH, "coo"], metavar="NAME", help=text)
            text = "these layers alone; what was measured of others stays"
            command.add_argument("--layer", nargs="+", choices=CONSUMERS, metavar="NAME", help=text)
        if name != "tables":
            command.add_argument("--environments", type=Path, required=True, help="a folder; what is missing is made")
        else:
            command.add_argument("--check", action="store_true", help="write nothing; exit code 1 if they differ")
    options = parser.parse_args()
    if options.command == "tables":
        return page.write(check=options.check)
    if options.command == "tools":
        data.write(data.read() | {"tools": graph_tools.measure(options.environments)})
        return 0
    asked = [each for each in ENVIRONMENTS if not options.runtimes or {each.runtime, each.name} & {*options.runtimes}]
    if not asked:
        parser.error(f"none of {', '.join(dict.fromkeys(each.runtime for each in ENVIRONMENTS))}")
    if options.command == "forms":
        _forms(asked, options.environments, options.encoding or [], options.layer or [])
    else:
        _models(asked, options.environments)
    return 0


def _forms(asked: list[Environment], environments: Path, encodings: Sequence[str], layers: Sequence[str]) -> None:
    """Write the outcomes, one environment after the other."""
    with tempfile.TemporaryDirectory() as place:
        made = write_cases(Path(place), layers or CONSUMERS)
        cases = [case for case in made if not encodings or case.encoding in encodings]
        print(f"{len(cases)} models", file=sys.stderr)
        for environment in asked:
            seen: dict[Case, Seen] = {}
            left: Sequence[Case] = cases
            for _ in range(_TURNS):  # another process can only make a run slower: the best of some counts
                found = forms.measure(environment, environments, Path(place), left)
                seen |= {case: outcome(case.fused, result, environment.slow) for case, result in found.items()}
                left = [case for case, what in seen.items() if what.word == EACH_RUN]
                if not left:
                    break
            print(environment.name, dict(Counter(what.word for what in seen.values())), file=sys.stderr)
            held, day = data.read(), datetime.date.today().isoformat()
            others = data.rows_of(held, environment.runtime, environment.version) if encodings or layers else []
            rows = [*forms.without(others, encodings, layers), *forms.merged(seen)]
            data.write(data.with_forms(held, environment.runtime, environment.version, day, rows))


def _models(asked: list[Environment], environments: Path) -> None:
    """Write the ratios of whole models, one environment after the other; of a runtime its newest release."""
    newest = {environment.runtime: environment for environment in asked}
    for environment in newest.values():
        day = datetime.date.today().isoformat()
        head = {"runtime": environment.runtime, "version": environment.version, "measured": day}
        rows = [head | row for row in models.measure(environment, environments)]
        for row in rows:
            print(row, file=sys.stderr)
        data.write(data.with_models(data.read(), environment.runtime, rows))
