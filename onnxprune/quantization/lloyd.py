"""Lloyd's algorithm for many codebooks of one histogram, side by side.

A weight is tried with some 80 pairs of a number of levels and a threshold. Their levels lie in one array, one codebook
after the other: a step of all of them is one search and a few sums, and Python's share does not grow with the pairs.
numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.quantization.histogram import Array, Histogram

_STEPS = 50
_SETTLED = 1e-4


@dataclass(frozen=True)
class Layout:
    """Where the levels of several codebooks lie in one array.

    Attributes:
        lengths: intp [codebooks], how many levels each has, at least 1.
        thresholds: float64 [codebooks], the magnitude up to which all entries become 0; 0.0: those nearest to it.
        zeros: intp [codebooks], where the level 0.0 of each is, which never moves; [0] where only zeros become 0.
    """

    lengths: Array
    thresholds: Array
    zeros: Array

    @classmethod
    def of(cls, points: Array, lengths: Array, thresholds: Array, prune: bool) -> Layout:
        """The layout of levels; with `prune` one of each codebook is 0.0."""
        return cls(lengths, thresholds, np.flatnonzero(points == 0) if prune else np.zeros(0, np.intp))

    @cached_property
    def ends(self) -> Array:
        """[codebooks], after the last level of each."""
        return np.cumsum(self.lengths)

    @cached_property
    def starts(self) -> Array:
        """[codebooks], of the first level of each."""
        return self.ends - self.lengths

    @cached_property
    def _bounds(self) -> tuple[Array, Array]:
        """The boundaries on both sides of 0.0 that thresholds set, and where they lie."""
        bounded = np.flatnonzero(self.thresholds > 0) if len(self.zeros) else self.zeros
        zeros, thresholds = self.zeros[bounded], self.thresholds[bounded]
        below, above = zeros > self.starts[bounded], zeros + 1 < self.ends[bounded]
        places = np.concatenate([zeros[below] - 1, zeros[above]])
        return places, np.concatenate([-thresholds[below], thresholds[above]])

    def boundaries(self, points: Array) -> Array:
        """[levels - 1], where a level's cell ends and the next one's begins; between codebooks they mean nothing."""
        between = (points[1:] + points[:-1]) / 2
        places, bounds = self._bounds
        between[places] = bounds
        return between

    def cells(self, points: Array, values: Array, sums: Array) -> Array:
        """What lies in the cell of each level, of each row of prefix sums over the values; [rows, levels]."""
        lower, upper = np.empty(len(points), np.intp), np.empty(len(points), np.intp)
        lower[1:] = upper[:-1] = np.searchsorted(values, self.boundaries(points))
        lower[self.starts], upper[self.ends - 1] = 0, len(values)
        return sums.take(upper, axis=1) - sums.take(lower, axis=1)

    def totals(self, held: Array) -> Array:
        """[codebooks], the sum over the levels of each."""
        return np.add.reduceat(held, self.starts)

    def chosen(self, which: Array) -> tuple[Array, Layout]:
        """Some of the codebooks: which levels are theirs, and their layout."""
        levels, lengths = np.repeat(which, self.lengths), self.lengths[which]
        zeros = self.zeros
        if len(zeros):
            zeros = (zeros - self.starts)[which] + np.cumsum(lengths) - lengths
        return levels, Layout(lengths, self.thresholds[which], zeros)


def joined(parts: Sequence[Array], thresholds: Array, prune: bool) -> tuple[Array, Layout]:
    """Levels of several codebooks, ascending in each, with their layout; with `prune` one of each is 0.0."""
    points = np.concatenate(parts)
    return points, Layout.of(points, np.array([len(part) for part in parts], np.intp), thresholds, prune)


def distinct(points: Array, layout: Layout) -> tuple[Array, Layout]:
    """The levels but for those that are there twice, and for 0.0 where only zeros may be it and others are left."""
    prune = bool(len(layout.zeros))
    fresh = np.ones(len(points), bool)
    np.not_equal(points[1:], points[:-1], out=fresh[1:])
    fresh[layout.starts] = True
    if not prune:
        fresh &= points != 0
        fresh[layout.starts[~np.logical_or.reduceat(fresh, layout.starts)]] = True
    if fresh.all():
        return points, layout
    lengths = layout.totals(fresh.astype(np.intp))
    return points[fresh], Layout.of(points[fresh], lengths, layout.thresholds, prune)


def settled(histogram: Histogram, points: Array, layout: Layout) -> Array:
    """Each level moved to the mean of its cell until the error of its codebook settles.

    Args:
        histogram: of the weight.
        points: float64 [levels], where they start, ascending in each codebook.
        layout: of the levels.
    """
    values, sums = histogram.values, histogram.sums[:3]
    found, place, last = points.copy(), np.arange(len(points)), np.full(len(layout.lengths), np.inf)
    for _ in range(_STEPS):
        mass, first, second = layout.cells(points, values, sums)
        points = np.divide(first, mass, out=points.copy(), where=mass > 0)
        points[layout.zeros] = 0.0
        error = layout.totals(second + points * (points * mass - 2 * first))
        found[place] = points
        moving = last - error > _SETTLED * error
        last = error
        if not moving.all():
            own, layout = layout.chosen(moving)
            points, place, last = points[own], place[own], error[moving]
            if not len(points):
                break
    return found
