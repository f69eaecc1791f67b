"""Weights that an exporter merged from several parameters, cut from one, or reordered by rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from onnxprune.masks.matching.axis_order import constant, fitting
from onnxprune.masks.matching.link import Array, Link, Span

_PARTS = 64  # of one weight; beyond that it is no merge of layers
_CANDIDATES = 4096  # places that have the fingerprint: fp16 has few numbers
_GLANCE = 16  # values that are compared before all of them are


class Index:
    """Where the rows (along the first two axes) of parameters are, by their largest magnitude."""

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self.parameters = parameters
        self.rows: dict[int, list[tuple[str, int, Array]]] = defaultdict(list)  # by elements of a row
        self.sorted: dict[tuple[int, np.dtype], tuple[Array, Array]] = {}
        for name, array in parameters.items():
            for axis in range(min(array.ndim, 2)):
                if array.shape[axis] > 1:
                    tops = _row_tops(array, axis)
                    self.rows[array.size // tops.size].append((name, axis, tops))

    def find(self, size: int, top: float, dtype: np.dtype) -> list[tuple[str, int, int]]:
        """(parameter, axis, row) of the rows of that size whose largest magnitude is `top` in this type."""
        entries = self.rows.get(size, [])
        if not entries:
            return []
        if (size, dtype) not in self.sorted:
            with np.errstate(over="ignore"):
                tops = np.concatenate([tops for _, _, tops in entries]).astype(dtype).astype(np.float64)
            order = np.argsort(tops, kind="stable")
            self.sorted[size, dtype] = tops[order], order
        tops, order = self.sorted[size, dtype]
        start, stop = np.searchsorted(tops, top), np.searchsorted(tops, top, side="right")
        ends = np.cumsum([tops.size for _, _, tops in entries])
        found = []
        for place in order[start : min(stop, start + _CANDIDATES)]:
            owner = int(np.searchsorted(ends, place, side="right"))
            name, axis, own = entries[owner]
            found.append((name, axis, int(place - ends[owner] + own.size)))
        return found


def _row_tops(array: Array, axis: int) -> Array:
    """The largest magnitude of each row along the axis, float64."""
    others = tuple(a for a in range(array.ndim) if a != axis)
    wide = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return np.maximum(wide.max(axis=others), -wide.min(axis=others)).astype(np.float64)


def assemble(name: str, weight: Array, index: Index) -> list[tuple[str, Link]]:
    """The parameters whose parts make up the weight, in its order; none unless they cover it without doubt.

    The row with the largest value leads to the parameter that it is from; the rows around it that go on there
    are one part; then the largest of the rest.
    """
    for axis in range(min(weight.ndim, 2)):
        tops = _row_tops(weight, axis) if weight.shape[axis] > 1 else np.zeros(0)
        free = np.ones(tops.size, bool)
        parts: list[tuple[str, Link]] = []
        while tops.size and free.any() and len(parts) < _PARTS:
            row = int(np.argmax(np.where(free, tops, -1)))
            part = _part_around(name, weight, axis, row, free, index, float(tops[row]))
            if part is None:
                break
            parts.append(part)
            span = part[1].into or Span(axis, 0, tops.size)
            free[span.start : span.stop] = False
        if parts and not free.any():
            return sorted(parts, key=lambda part: part[1].into.start if part[1].into else 0)
    return []


def _part_around(
    name: str, weight: Array, axis: int, row: int, free: Array, index: Index, top: float
) -> tuple[str, Link] | None:
    """The longest part around a row that one parameter holds; None where there is none, or two of equal length."""
    found: list[tuple[int, str, Link]] = []
    for parameter, along, at in index.find(weight.size // weight.shape[axis], top, weight.dtype):
        array = index.parameters[parameter]
        start, stop = max(0, row - at), min(weight.shape[axis], row - at + array.shape[along])
        taken = np.flatnonzero(~free)
        start = int(max([start, *(taken[taken < row] + 1)]))
        stop = int(min([stop, *taken[taken > row]]))
        if not _alike(weight, Span(axis, row, stop), array, Span(along, at, stop + at - row)):
            continue
        for into in _spans(weight, Span(axis, start, stop), array, along, at - row, row):
            of = Span(along, into.start + at - row, into.stop + at - row)
            part = into.of(weight)
            orders = fitting(np.ascontiguousarray(of.of(array)), np.ascontiguousarray(part))
            if len(orders) == 1 and not constant(part):
                view, order = orders[0]
                whole = of.start == 0 and of.stop == array.shape[along]
                everything = into.start == 0 and into.stop == weight.shape[axis]
                link = Link(name, None if whole else of, None if everything else into, view, order)
                found.append((into.stop - into.start, parameter, link))
                break
    found.sort(key=lambda entry: -entry[0])
    if not found or (len(found) > 1 and found[0][0] == found[1][0]):
        return None
    return found[0][1:]


def _alike(weight: Array, mine: Span, parameter: Array, theirs: Span) -> bool:
    """Whether the first rows are equal, as far as one look tells: rows of several axes may lie in another order."""
    if min(weight.ndim, parameter.ndim) > 2:
        return True
    rows = max(1, _GLANCE * weight.shape[mine.axis] // weight.size)
    a, b = (
        np.moveaxis(span.of(array), span.axis, 0)[:rows].reshape(-1)
        for span, array in ((mine, weight), (theirs, parameter))
    )
    return bool(((b.astype(weight.dtype) == a) | (a == 0)).all())


def _spans(weight: Array, overlap: Span, parameter: Array, along: int, offset: int, row: int) -> list[Span]:
    """The rows that may be one part: all where weight and parameter overlap, then those that go on without a break."""
    axis = overlap.axis
    mine = np.moveaxis(overlap.of(weight), axis, 0).reshape(overlap.stop - overlap.start, -1)
    span = Span(along, overlap.start + offset, overlap.stop + offset)
    theirs = np.moveaxis(span.of(parameter), along, 0).reshape(mine.shape).astype(weight.dtype)
    differ = np.flatnonzero(~((theirs == mine) | (mine == 0)).all(axis=1)) + overlap.start
    start = int(max([overlap.start, *(differ[differ < row] + 1)]))
    stop = int(min([overlap.stop, *differ[differ > row]]))
    return [overlap, Span(axis, start, stop)] if start <= row < stop and row not in differ else [overlap]
