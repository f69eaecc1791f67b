"""Rounding: values to codes of a codebook; balancing lets the errors of an output add up to nearly nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.core.chunked import UNIT_ELEMENTS, ChunkedArray, part_of, ranges
from onnxprune.quantization.codebook import boundaries_of
from onnxprune.quantization.histogram import PATTERNS, Array, float16_order, inverse_of, nonzero_patterns

_FAR_VALUE = 1e30
_NARROW = 16  # entries of a row: of so few the cheapest is looked for again after each move


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
            target[start:stop] = table.take(patterns).reshape(source[start:stop].shape)
        else:
            target[start:stop][mask] = table.take(patterns)
    if not prune:  # what float16 rounds to 0 is not 0
        lost = np.count_nonzero(codes) != np.count_nonzero(array)
        if lost:
            tiny = int(np.argmin(np.abs(levels[1:]))) + 1
            codes[(codes == 0) & (array != 0)] = tiny
    return codes


def encode_whole(array: Array, scale: Array, levels: Array) -> Array:
    """The code of each entry, uint8 or uint16, among all whole numbers from the least level to the largest.

    Args:
        array: the weight.
        scale: what it is divided by.
        levels: 0, then the others ascending.
    """
    most = len(levels) // 2
    whole = np.rint(array / scale.astype(array.dtype)).clip(-most, most)
    codes = whole + np.where(whole < 0, most + 1, most)
    codes[whole == 0] = 0
    return codes.astype(np.uint8 if len(levels) <= 256 else np.uint16)


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
    if len(levels) < (2 if prune else 3):
        return
    moves = _Moves.of(levels, prune, boundaries, rows.dtype)
    most, block = 4 + int(4 * np.sqrt(rows.shape[1])), max(1, UNIT_ELEMENTS // rows.shape[1])
    for at in range(0, len(rows), block):
        whole, part = rows[at : at + block], codes[at : at + block]
        free = whole != 0 if prune else (whole != 0) & (part != 0)
        if free.all():
            moves.make(whole, part, None, most)
            continue
        held = np.count_nonzero(free, axis=1)
        longest = int(held.max(initial=0))
        if 2 * longest > whole.shape[1]:
            moves.make(whole, part, free, most)
        elif longest:  # pruned: only what is left is looked at, row by row from the left
            place = np.arange(longest) < held[:, None]
            x, own = np.zeros(place.shape, whole.dtype), np.zeros(place.shape, part.dtype)
            x[place], own[place] = whole[free], part[free]
            moves.make(x, own, place, most)
            part[free] = own[place]


@dataclass(frozen=True)
class _Moves:
    """The moves of each code to the next level down, and then those of each code to the next level up.

    Attributes:
        levels: [codes].
        borders: [2 codes], between the two cells; infinite where there is no next level.
        steps: [2 codes], between the two levels.
        targets: [2 codes], the code of the next level.
    """

    levels: Array
    borders: Array
    steps: Array
    targets: Array

    @classmethod
    def of(cls, levels: Array, prune: bool, boundaries: Array | None, dtype: np.dtype) -> _Moves:
        """The moves between levels, see `balance`."""
        order = np.argsort(levels, kind="stable") if prune else 1 + np.arange(len(levels) - 1)
        points = levels[order].astype(dtype)
        borders, steps = np.full((2, len(levels)), np.inf, dtype), np.zeros((2, len(levels)), dtype)
        targets = np.tile(np.arange(len(levels)), (2, 1))
        for way, (here, there) in enumerate(((order[1:], order[:-1]), (order[:-1], order[1:]))):
            borders[way, here] = boundaries_of(points) if boundaries is None else boundaries
            steps[way, here], targets[way, here] = np.diff(points), there
        return cls(levels.astype(dtype), borders.reshape(-1), steps.reshape(-1), targets.reshape(-1))

    def make(self, x: Array, codes: Array, free: Array | None, most: int) -> None:
        """Move codes of each row, the cheapest first, while that brings the sum of the row's errors nearer to 0.

        Args:
            x: float [R, n], values.
            codes: [R, n], edited in place.
            free: bool [R, n], which may be moved; None: all.
            most: moves of a row.
        """
        error = self.levels.take(codes, mode="clip")  # without a check, which takes as long
        error -= x
        excess = error @ np.ones(x.shape[1], x.dtype)
        uneven = np.flatnonzero(np.abs(excess) > self.steps[self.steps > 0].min() / 2)
        if not len(uneven):
            return
        part, excess = codes, excess[uneven]
        if len(uneven) < len(x):
            x, part = x.take(uneven, axis=0), codes.take(uneven, axis=0)
            free = None if free is None else free.take(uneven, axis=0)
        moves = part + np.where(excess > 0, 0, len(self.levels)).astype(np.uint16)[:, None]
        cost = self.borders.take(moves, mode="clip")
        np.abs(np.subtract(x, cost, out=cost), out=cost)
        if free is not None:
            np.copyto(cost, np.inf, where=~free)
        cheapest = self._in_turn if x.shape[1] <= _NARROW else self._in_order
        rows, places = cheapest(cost, moves, np.abs(excess), min(most, x.shape[1]))
        codes[uneven[rows], places] = self.targets[moves[rows, places]]

    def _in_turn(self, cost: Array, moves: Array, excess: Array, most: int) -> tuple[Array, Array]:
        """Where rows of few entries are moved, one move of all rows after the other."""
        rows, moved, width = np.arange(len(cost)), np.zeros_like(excess), cost.shape[1]
        found = [(rows[:0], rows[:0])]
        for _ in range(most):
            place = cost.argmin(axis=1)
            step = self.steps.take(moves.reshape(-1).take(rows * width + place))
            least = cost.reshape(-1).take(np.arange(len(rows)) * width + place)
            moved = moved + step
            left = np.flatnonzero((moved - step / 2 < excess) & np.isfinite(least))
            if not len(left):
                break
            rows, place, moved, excess, cost = rows[left], place[left], moved[left], excess[left], cost[left]
            found.append((rows, place))
            cost.reshape(-1)[np.arange(len(rows)) * width + place] = np.inf
        return np.concatenate([rows for rows, _ in found]), np.concatenate([places for _, places in found])

    def _in_order(self, cost: Array, moves: Array, excess: Array, most: int) -> tuple[Array, Array]:
        """Where rows of many entries are moved: the cheapest moves are sorted."""
        if most < cost.shape[1]:
            near = np.argpartition(cost, most - 1, axis=1)[:, :most]
        else:
            near = np.broadcast_to(np.arange(most), cost.shape)
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(cost, near, 1), axis=1, kind="stable"), 1)
        step = self.steps.take(np.take_along_axis(moves, near, 1))
        step[np.isinf(np.take_along_axis(cost, near, 1))] = _FAR_VALUE
        rows, at = np.nonzero(np.cumsum(step, axis=1) - step / 2 < excess[:, None])
        return rows, near[rows, at]
