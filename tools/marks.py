"""Pages with tables between marks: `<!-- table: NAME -->` and `<!-- end table -->`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_MARK = re.compile(r"^<!-- (?:table: (?P<name>[\w.-]+)|end table) -->\n", re.MULTILINE)


def replaced(page: Path, text: str, table: Callable[[str, str], str]) -> str:
    """A page with other tables.

    Args:
        page: its file, for errors.
        text: what it holds.
        table: (name, what stands between its marks) -> what is to stand there.

    Raises:
        ValueError: a mark has no partner.
    """
    marks, at, parts = list(_MARK.finditer(text)), 0, []
    if [bool(mark["name"]) for mark in marks] != [True, False] * (len(marks) // 2):
        raise ValueError(f"{page}: each <!-- table: NAME --> needs an <!-- end table --> before the next")
    for start, end in zip(marks[::2], marks[1::2], strict=True):
        parts += [text[at : start.end()], table(start["name"], text[start.end() : end.start()])]
        at = end.start()
    return "".join([*parts, text[at:]])
