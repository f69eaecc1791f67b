"""The tables of what tools/accuracy.py scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .results import Row, by_model, table

WIDE = 42  # characters of the names of columns from which on a table has a line for each


def mean_ratio(rows: Sequence[Row]) -> float:
    """The geometric mean of the ratios."""
    return math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))


def shown(rows: Sequence[Row]) -> str:
    """The scored models as markdown, those that defaults were chosen on apart from those that judge; then the others.

    Accuracies are in percent, differences in points, agreement in percent of the items. Where results were timed, their
    latency is a multiple of the original's, and the processor seconds are those of making them. A table of many columns
    has a line for each in place of one for each model.
    """
    parts = []
    for chosen_on, title in ((True, "Chosen on"), (False, "Judged on")):
        models = by_model(row for row in rows if row.facts.get("chosen_on") == chosen_on)
        if models:
            columns = list(dict.fromkeys(row.tool for held in models.values() for row in held))
            laid_out = _table if sum(map(len, columns)) < WIDE else _turned
            parts.append(f"{title}:\n\n{laid_out(models, columns)}\n{_means(models, columns)}")
    parts += [f"{row.model}, {row.tool}: {row.problem}\n" for row in rows if row.problem]
    return "\n".join(parts)


def _table(models: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    timed = any("latency" in row.facts for held in models.values() for row in held)
    facts = ["points", "agreement %", "ratio", *(["latency", "CPU s"] if timed else [])]
    head = ["model", "samples", "metric", "original %", "bytes"]
    head += [f"{column}: {fact}" if len(columns) > 1 else fact for column in columns for fact in facts]
    return table(head, (_cells(held, columns, len(facts)) for held in models.values()))


def _cells(held: Sequence[Row], columns: Sequence[str], width: int) -> list[str]:
    """A model's line, with so many cells for each column; a column that it has no numbers of is dashes."""
    facts, scored = held[0].facts, {row.tool: row for row in held if not row.problem}
    cells = [held[0].model, f"{facts['samples']:,}", facts["metric"], f"{100 * facts['original']:.2f}"]
    cells.append(f"{held[0].read:,}")
    for column in columns:
        row, own = scored.get(column), []
        if row is not None:
            own = [_points(row), f"{100 * row.facts['agreement']:.2f}", f"{row.ratio:.3f}"]
            if "latency" in row.facts:
                own += [f"{row.facts['latency']:.2f}", f"{sum(row.cpu):,.0f}"]
        cells += own + ["-"] * (width - len(own))
    return cells


def _turned(models: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    """A line for each column, with the ratio, the points and the latency of each model."""
    first = {name: held[0] for name, held in models.items()}
    lines = [["original %", *(f"{100 * row.facts['original']:.2f}" for row in first.values())]]
    for column in columns:
        scored = {name: row for name, held in models.items() for row in held if row.tool == column}
        cells = (scored.get(name) for name in models)
        lines.append([column, *("-" if row is None or row.problem else _cell(row) for row in cells)])
    return table(["", *(f"{name}, {row.facts['metric']}" for name, row in first.items())], lines)


def _points(row: Row) -> str:
    return f"{100 * (row.facts['compressed'] - row.facts['original']):+.2f}"


def _cell(row: Row) -> str:
    latency = f", latency {row.facts['latency']:.2f}" if "latency" in row.facts else ""
    return f"{row.ratio:.2f}x, {_points(row)}{latency}"


def _means(models: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    """The geometric mean of each column's ratios."""
    lines = ""
    for column in columns:
        scored = [row for held in models.values() for row in held if row.tool == column and not row.problem]
        if scored:
            lines += f"{column}: geometric mean of the ratios of {len(scored)} models {mean_ratio(scored):.3f}\n"
    return lines
