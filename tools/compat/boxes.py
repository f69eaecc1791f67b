"""Rows of a table that differ in one field are one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Box = tuple[tuple[Any, ...], ...]


def boxes(rows: Sequence[tuple[Any, ...]]) -> list[Box]:
    """Merge rows that differ in a single field, one field after the other: a field then lists its values."""
    merging: set[Box] = {tuple((field,) for field in row) for row in rows}
    for axis in reversed(range(len(rows[0]))):
        by_rest: dict[Any, set[Any]] = {}
        for box in merging:
            by_rest.setdefault((*box[:axis], *box[axis + 1 :]), set()).update(box[axis])
        merging = {(*rest[:axis], tuple(sorted(parts)), *rest[axis:]) for rest, parts in by_rest.items()}
    return sorted(merging)
