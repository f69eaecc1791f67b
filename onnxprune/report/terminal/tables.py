"""Tables and lines for a terminal: numbers stay whole, whatever its width."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROWS = 40  # weights, outputs or models shown on a terminal; --json has all of them


def size(count: int) -> str:
    """Bytes as people write them (1 MB = 1,000,000 bytes)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def percent(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def smaller(ratio: float) -> str:
    """What became of a size."""
    if f"{ratio:.2f}" == "1.00" or f"{1 / ratio:.2f}" == "1.00":
        return "as large"
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"


def line(console: Console, text: str, style: str = "") -> None:
    """A line that is never broken: whoever reads it may be a program."""
    console.print(Text(text, style=style), soft_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column of a table; on a narrow terminal those of lowest rank go first, rank 0 never."""

    title: str
    rank: int = 0
    right: bool = True


_NAME = 16  # characters of a name below which the table would rather lose a column


def print_table(console: Console, columns: list[Column], rows: list[list[str]]) -> None:
    """A table that fits the terminal: numbers stay whole, names lose their middle."""
    widths = [max(map(len, (c.title, *(row[i] for row in rows)))) for i, c in enumerate(columns)]
    shown = list(range(len(columns)))
    while _room(console, widths, shown) < min(_NAME, widths[0]) and any(columns[i].rank for i in shown):
        shown.remove(min((i for i in shown if columns[i].rank), key=lambda i: columns[i].rank))
    room = max(_room(console, widths, shown), 4)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i in shown:
        table.add_column(columns[i].title, justify="right" if columns[i].right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(shortened(row[i], room) if i == 0 else row[i]) for i in shown))
    console.print(table)


def _room(console: Console, widths: list[int], shown: list[int]) -> int:
    """Characters that are left for the first column."""
    return console.width - sum(widths[i] + 2 for i in shown[1:]) - 1


def shortened(name: str, room: int) -> str:
    """The name with its middle left out: what tells weights apart stands at the end."""
    if len(name) <= room:
        return name
    head = (room - 1) // 3
    return f"{name[:head]}…{name[len(name) - (room - 1 - head) :]}"
