"""Two runs beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from .results import Results, Row, table

_NUMBERS: dict[str, Callable[[Row], float]] = {
    "time": lambda row: statistics.median(row.seconds or [0]),
    "CPU": lambda row: statistics.median(row.cpu or [0]),
    "peak": lambda row: statistics.median(row.peaks or [0]),
    "bytes": lambda row: row.bytes,
}


def compared(before: Results, after: Results) -> str:
    """Markdown: for each model and tool of both, each number of the second as a multiple of the first's."""
    old = {(row.model, row.tool): row for row in before.rows}
    new = {(row.model, row.tool): row for row in after.rows}
    facts = dict.fromkeys(name for row in before.rows for name, value in row.facts.items() if _is_number(value))
    numbers = _NUMBERS | {name: partial(_fact, name) for name in facts}
    lines = []
    for key, first in old.items():
        if key not in new:
            continue
        second = new[key]
        if first.problem or second.problem:
            if first.problem != second.problem:
                cell = f"{first.problem or 'worked'} -> {second.problem or 'worked'}"
                lines.append([*key, cell, *[""] * (len(numbers) - 1)])
            continue
        pairs = [(number(first), number(second)) for number in numbers.values()]
        lines.append([*key, *(f"{b / a:.2f}x" if a and b else "-" for a, b in pairs)])
    out = f"before: {before.caption}\nafter: {after.caption}\n\n"
    out += table(["model", "tool", *numbers], lines)
    for name, only in (("before", old.keys() - new.keys()), ("after", new.keys() - old.keys())):
        if only:
            out += f"\nonly {name}: {', '.join(sorted(f'{model} {tool}' for model, tool in only))}\n"
    return out


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _fact(name: str, row: Row) -> float:
    value = row.facts.get(name, 0)
    return value if _is_number(value) else 0
