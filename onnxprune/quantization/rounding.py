"""Rounding: values to codes of a codebook; balancing lets the errors of an output add up to nearly nothing."""

from __future__ import annotations

import numpy as np

from onnxprune.core.chunked import UNIT_ELEMENTS, ChunkedArray, part_of, ranges
from onnxprune.quantization.codebook import boundaries_of
from onnxprune.quantization.histogram import PATTERNS, Array, float16_order, inverse_of, nonzero_patterns

_FAR_VALUE = 1e30


def encode(array: Array, scale: Array | None, levels: Array, prune: bool, boundaries: Array | None = None) -> Array:
    """The code of each entry, uint8 or uint16, in the array's shape: the nearest level of array / scale.

    Args:
        array: the weight.
        scale: what it is divided by, or None.
        levels: as in `Codebook`: 0.0 first, then ascending.
        prune: whether entries other than 0 may get code 0.
        boundaries: as in `Codebook`, where the nearest level is not wanted.
    """
    kind = np.uint8 if len(levels) <= 256 else np.uint16
    if len(levels) == 1:
        return np.zeros(array.shape, kind)
    order, values = float16_order()
    points = np.sort(levels) if prune else levels[1:]
    rank = np.searchsorted(boundaries_of(points) if boundaries is None else boundaries, values, side="right")
    code_of = np.searchsorted(levels[1:], points) + 1
    code_of[points == 0] = 0
    table = np.zeros(PATTERNS, kind)
    table[order] = code_of[rank]
    if not prune:
        table[order[values == 0]] = 0
    codes = np.zeros(array.shape, kind)
    source, target = (array.reshape(1), codes.reshape(1)) if not array.ndim else (array, codes)
    inverse = inverse_of(scale, array.dtype)
    for start, stop in ranges(0, len(source), ChunkedArray.of(source).unit):
        part = None if inverse is None else part_of(inverse, (start, stop))
        patterns, mask = nonzero_patterns(source[start:stop], part)
        if mask is None:
            target[start:stop] = table[patterns].reshape(source[start:stop].shape)
        else:
            target[start:stop][mask] = table[patterns]
    if not prune:  # what float16 rounds to 0 is not 0
        lost = np.count_nonzero(codes) != np.count_nonzero(array)
        if lost:
            tiny = int(np.argmin(np.abs(levels[1:]))) + 1
            codes[(codes == 0) & (array != 0)] = tiny
    return codes


def balance(rows: Array, codes: Array, levels: Array, prune: bool, boundaries: Array | None = None) -> None:
    """Move the codes of a few entries to the next level so that the errors of each row add up to nearly nothing.

    What a layer reads is seldom centred on 0 (after a ReLU it never is): of a rounding error the sum
    reaches the output with the full mean of the inputs. Entries next to the border of two cells are moved, which
    costs least (the idea is SQuant's, Guo et al. 2022; here for any levels, the cheapest moves first).

    Args:
        rows: float [R, n], the weight divided by its scale, the entries that are added up in a row.
        codes: [R, n], edited in place.
        levels: as in `Codebook`.
        prune: whether entries other than 0 may get code 0; zeros keep theirs without it.
        boundaries: as in `Codebook`.
    """
    order = np.argsort(levels, kind="stable") if prune else 1 + np.arange(len(levels) - 1)
    points = levels[order].astype(rows.dtype)
    rank_of = np.zeros(len(levels), np.int32)
    rank_of[order] = np.arange(len(order))
    borders, steps = boundaries_of(points) if boundaries is None else boundaries.astype(rows.dtype), np.diff(points)
    most = 4 + int(4 * np.sqrt(rows.shape[1]))
    block = max(1, UNIT_ELEMENTS // rows.shape[1])
    if len(points) < 2:
        return
    for at in range(0, len(rows), block):
        whole, part = rows[at : at + block], codes[at : at + block]
        free = whole != 0 if prune else (whole != 0) & (part != 0)
        held = np.count_nonzero(free, axis=1)
        if 2 * int(held.max(initial=0)) > whole.shape[1]:
            x, own = whole, part
        else:  # pruned: only what is left is looked at, row by row from the left
            place = np.arange(held.max(initial=0)) < held[:, None]
            x, own = np.zeros(place.shape, whole.dtype), np.zeros(place.shape, part.dtype)
            x[place], own[place] = whole[free], part[free]
        if not x.size:
            continue
        rank = rank_of[own]
        error = levels.astype(rows.dtype)[own] - x
        excess = error.sum(1, keepdims=True)
        down = excess > 0
        border = np.where(down, rank - 1, rank)  # between which two ranks the move would cross
        allowed = (border >= 0) & (border < len(steps)) & (free if own is part else place)
        border = border.clip(0, len(steps) - 1)
        cost = np.where(allowed, np.abs(x - borders[border]), np.inf)
        wide = x.shape[1]
        near = np.argpartition(cost, most - 1, axis=1)[:, :most] if most < wide else np.arange(wide)[None]
        near = np.broadcast_to(near, (len(x), min(most, wide)))
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(cost, near, 1), axis=1, kind="stable"), 1)
        moved = np.where(np.take_along_axis(allowed, near, 1), steps[np.take_along_axis(border, near, 1)], _FAR_VALUE)
        chosen = np.cumsum(moved, axis=1) - moved / 2 < np.abs(excess)
        target = np.take_along_axis(rank, near, 1) + np.where(down, -1, 1)
        fresh = np.where(chosen, order[target.clip(0, len(order) - 1)], np.take_along_axis(own, near, 1))
        np.put_along_axis(own, near, fresh.astype(codes.dtype), 1)
        if own is not part:
            part[free] = own[place]
