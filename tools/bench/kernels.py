"""Small integers in releases of ONNX Runtime: what is made of them, and how fast.

Patterns are a weight in front of a layer: those that onnxprune writes, in italics some that it
avoids. A line: RELEASEs that agree, what they do (words: docs/runtimes.md), and processor time over
that of float32, at each --batch, on one thread. --emulated processors run under qemu-user.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compat.data import number
from compat.environments import ENVIRONMENTS, Environment
from compat.outcomes import UNREAD, outcome

from . import arguments
from .results import Results, Row, table

_SINCE = "1.22"
_RELEASES = {each.version: each for each in ENVIRONMENTS if each.runtime == "onnxruntime"}
_ALIKE = 1.5  # times that ratios of releases of one line differ at the most


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=f"default: from {_SINCE} on")
    arguments.add_environments(parser)
    arguments.add_arm64(parser)
    parser.add_argument("--emulated", nargs="+", default=[], metavar="CPU", help="that it knows")
    parser.add_argument(
        "--shape", type=arguments.positive, nargs=2, default=[1024, 1024], metavar="N",
        help="inputs and outputs, default 1024 1024",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=arguments.positive, nargs="+", default=[1, 64], metavar="N", help="default 1 64"
    )


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure one release after the other."""
    if options.environments is None:
        raise ValueError("kernels needs --environments FOLDER")
    unknown = sorted({*options.releases} - _RELEASES.keys())
    if unknown:
        raise ValueError(f"there is no environment for {', '.join(unknown)}")
    releases = options.releases or [each for each in _RELEASES if number(each) >= number(_SINCE)]
    if options.arm64 and not options.emulated:
        raise ValueError("--arm64 needs --emulated CPU")
    cases = _written(folder, tuple(options.shape), options.batch)
    for cpu in options.emulated or [""]:
        for release in releases:
            print(release, cpu, file=sys.stderr)
            environment = replace(_RELEASES[release], arm64=options.arm64)
            found.rows += _measured(environment, options.environments, cpu, folder, cases)
            yield


def _written(folder: Path, shape: tuple[int, int], batches: Sequence[int]) -> list[dict[str, Any]]:
    """The cases: of each pattern one for each batch."""
    from .patterns import PATTERNS  # which imports what --help does not need

    cases = []
    for place, pattern in enumerate(PATTERNS):
        for batch in batches:
            case = folder / f"{place} {batch}"
            pattern.write(case, shape, batch)
            named = {"pattern": pattern.name, "fused": pattern.fused, "batch": batch}
            cases.append({"name": case.name, "folder": str(case), "timed": True} | named)
    return cases


def _measured(
    release: Environment, environments: Path, cpu: str, folder: Path, cases: Sequence[dict[str, Any]]
) -> list[Row]:
    """A row for each case in a release."""
    listed, out = folder / "cases.json", folder / "results"
    listed.write_text(json.dumps(cases))
    emulator = ["qemu-aarch64", "-L", str(release.arm64)] if release.arm64 else ["qemu-x86_64"]
    release.run(environments, listed, out, under=[*emulator, "-cpu", cpu] if cpu else [])
    results = {each["name"]: each for each in map(json.loads, out.read_text().splitlines())}
    rows = []
    for case in cases:
        result = results[case["name"]]
        seen = outcome(case["fused"], result)
        word = "refused" if seen.word == UNREAD else seen.word
        facts = {"batch": case["batch"], "cpu": cpu, "outcome": word}
        if "encoded_run" in result:
            facts["ratio"] = round(result["encoded_run"] / result["decoded_run"], 3)
        if math.isfinite(result.get("encoded_error", math.inf)):
            facts["error"] = float(f"{result['encoded_error']:.1e}")
        problem = seen.reason if word == "refused" else ""
        rows.append(Row(case["pattern"], release.version, problem=problem, facts=facts))
    return rows


def shown(rows: Sequence[Row]) -> str:
    """A line for each pattern and the releases that agree."""
    batches = list(dict.fromkeys(row.facts["batch"] for row in rows))
    emulated = any(row.facts["cpu"] for row in rows)
    seen: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        seen.setdefault((row.facts["cpu"], row.model), {}).setdefault(row.tool, []).append(row)
    lines = []
    for (cpu, pattern), releases in seen.items():
        for place, group in enumerate(_groups(releases)):
            name = pattern if place == 0 else ""
            span = group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}"
            numbers = [_range([releases[release][each] for release in group]) for each in range(len(batches))]
            word = releases[group[0]][0].facts["outcome"]
            lines.append([name, *([cpu] if emulated else []), span, word, *numbers])
    head = ["pattern", *(["processor"] if emulated else []), "onnxruntime", "outcome"]
    return table([*head, *(f"{batch} rows" if batch > 1 else "1 row" for batch in batches)], lines)


def _groups(seen: dict[str, list[Row]]) -> list[list[str]]:
    """The releases in sequence, those together that agree with the first of them."""
    groups: list[list[str]] = []
    for release in sorted(seen, key=number):
        if groups and all(map(_agree, seen[groups[-1][0]], seen[release])):
            groups[-1].append(release)
        else:
            groups.append([release])
    return groups


def _agree(a: Row, b: Row) -> bool:
    """Whether two releases do the same with a case, about as fast."""
    if a.facts["outcome"] != b.facts["outcome"]:
        return False
    ratios = [row.facts["ratio"] for row in (a, b) if "ratio" in row.facts]
    return len(ratios) != 1 and (not ratios or max(ratios) <= _ALIKE * min(ratios))


def _range(rows: Sequence[Row]) -> str:
    """The ratios of some releases."""
    ratios = [row.facts["ratio"] for row in rows if "ratio" in row.facts]
    if not ratios:
        return ""
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"
