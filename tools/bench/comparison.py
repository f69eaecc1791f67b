"""Two runs beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from .results import Results, Row, said, table

_NUMBERS: dict[str, Callable[[Row], float]] = {
    "time": lambda row: statistics.median(row.seconds or [0]),
    "CPU": lambda row: statistics.median(row.cpu or [0]),
    "peak": lambda row: statistics.median(row.peaks or [0]),
    "bytes": lambda row: row.bytes,
    "load": lambda row: row.load.get("seconds", 0),
    "latency": lambda row: row.load.get("latency_ms", 0),
}


def compared(before: Results, after: Results) -> str:
    """Markdown: for each model and tool of both, each number of the second as a multiple of the first's."""
    old = {(row.model, row.tool): row for row in before.rows}
    new = {(row.model, row.tool): row for row in after.rows}
    lines = []
    for key in old.keys() & new.keys():
        pair = old[key], new[key]
        problems = [row.problem for row in pair]
        if any(problems):
            if problems[0] != problems[1]:
                cells = [f"{problems[0] or 'worked'} -> {problems[1] or 'worked'}", *[""] * (len(_NUMBERS) - 1)]
                lines.append([*key, *cells])
            continue
        cells = []
        for number in _NUMBERS.values():
            first, second = map(number, pair)
            cells.append(f"{second / first:.2f}x" if first and second else "-")
        lines.append([*key, *cells])
    order = {key: number for number, key in enumerate(old)}
    lines.sort(key=lambda line: order[line[0], line[1]])
    out = f"before: {said(before.machine)}\nafter: {said(after.machine)}\n\n"
    out += table(["model", "tool", *_NUMBERS], lines)
    for name, only in (("before", old.keys() - new.keys()), ("after", new.keys() - old.keys())):
        if only:
            out += f"\nonly {name}: {', '.join(sorted(f'{model} {tool}' for model, tool in only))}\n"
    return out
