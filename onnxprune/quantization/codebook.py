"""Scalar quantisers for weights: few levels, least squared error. numpy only; nothing here knows ONNX.

The histogram behind the codebooks is float16 itself: a weight divided by its scale and rounded to
float16 is one of 63,487 values, spaced finely where weights are dense and relatively where they are rare. One
pass counts them; from prefix sums over them each step of Lloyd's algorithm costs a search per level,
whatever the size of the weight, and a table over all bit patterns turns the weight into codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.quantization.histogram import Array, Histogram

_GROUPS = 4096
_GROUPS_EXACT, _FEW = 512, 64
_STEPS = 200
_SETTLED = 1e-4


@dataclass(frozen=True)
class Codebook:
    """Levels of a quantiser: code 0 is 0.0, the others ascend.

    Attributes:
        levels: the value of each code, float64.
        error: sum of squared errors over the histogram's weight.
        shares: how many entries take each code.
        boundaries: where the cell of one level ends and that of the next begins, ascending; None: midway between them.
    """

    levels: Array
    error: float
    shares: Array
    boundaries: Array | None = None


def fit_codebook(
    histogram: Histogram, levels: int, prune: bool, threshold: float = 0.0, spread: Spread | None = None
) -> Codebook:
    """Lloyd's algorithm for at most `levels` codes, 0.0 included.

    One start spreads the levels with the cube root of the density (Panter and Dite 1951), the optimum for many levels:
    heavy tails get the few wide cells that they need. With few levels, and none at 0.0, Lloyd's algorithm starts from
    the optimum over groups of the histogram as well, and the better result counts.

    Args:
        histogram: of the weight.
        levels: at least 2.
        prune: whether entries may become 0; otherwise only zeros are.
        threshold: with `prune` the magnitude up to which all become 0; 0: those nearest to it.
        spread: that of the histogram beyond the threshold, where several codebooks share it.
    """
    values, free = histogram.values, levels - 1
    if len(values) <= free:
        shares = np.concatenate([[histogram.zeros], np.diff(histogram.sums[3])])
        return Codebook(np.concatenate([[0.0], values]), 0.0, shares)
    spread = spread or Spread(histogram, threshold)
    found = _lloyd(histogram, spread.levels(free), prune, threshold)
    if not prune and free <= _FEW:
        found = min(found, _lloyd(histogram, _optimal(histogram, free), prune), key=lambda codebook: codebook.error)
    return found


def _lloyd(histogram: Histogram, centres: Array, prune: bool, threshold: float = 0.0) -> Codebook:
    """Each level to the mean of its cell until the error settles."""
    values, sums, last = histogram.values, histogram.sums[:3], np.inf
    for _ in range(_STEPS):
        points = _with_zero(centres) if prune else centres
        mass, first, second = _cells(values, sums, boundaries_of(points, threshold))
        fresh = np.divide(first, mass, out=points.copy(), where=mass > 0)
        free = points != 0 if prune else np.ones(len(points), bool)
        fresh[~free] = 0.0
        error = float((second - 2 * fresh * first + fresh * fresh * mass).sum())
        centres = fresh[free]
        if last - error <= _SETTLED * error:
            break
        last = error
    return measured(histogram, centres, prune, threshold)


def _with_zero(centres: Array) -> Array:
    """The centres and 0.0, ascending."""
    points = np.empty(len(centres) + 1)
    points[:-1] = centres
    points[-1] = 0.0
    points.sort()
    return points


def _cells(values: Array, sums: Array, boundaries: Array) -> Array:
    """What lies between the boundaries, of each row of prefix sums over the values."""
    edges = np.empty(len(boundaries) + 2, np.intp)
    edges[0], edges[-1] = 0, len(values)
    edges[1:-1] = np.searchsorted(values, boundaries)
    held = sums.take(edges, axis=1)
    return held[:, 1:] - held[:, :-1]


def _distinct(array: Array) -> Array:
    """The distinct numbers, ascending; np.unique hashes them first, which takes longer for few."""
    ordered = np.sort(array)
    fresh = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh]


def _optimal(histogram: Histogram, count: int) -> Array:
    """The `count` means with the least error over neighbouring groups of values, by dynamic programming.

    Groups of equal mass; with no more values than groups it is the optimum itself.
    """
    groups = min(_GROUPS_EXACT, len(histogram.values))
    mass = histogram.sums[0]
    inner = np.searchsorted(mass, np.linspace(0, mass[-1], groups + 1)[1:-1])
    if groups == len(histogram.values):
        inner = np.arange(1, groups)
    middle = np.searchsorted(histogram.values, 0.0)  # a group on both sides of 0 would have a mean among no values
    edges = np.unique(np.concatenate([[0], inner, [middle, len(histogram.values)]]))
    total, first, second, _ = histogram.sums[:, edges]
    weight = total[None, 1:] - total[:-1, None]
    moment = first[None, 1:] - first[:-1, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        cost = second[None, 1:] - second[:-1, None] - moment * moment / weight
    cost = np.where(np.tri(len(cost), k=-1, dtype=bool), np.inf, cost)  # [first group, last group]
    best, back = cost[0], []
    for _ in range(min(count, len(cost)) - 1):
        ways = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        back.append(np.argmin(ways, axis=0))
        best = ways[back[-1], np.arange(len(cost))]
    starts, last = [], len(cost) - 1
    for row in reversed(back):
        starts.append(int(row[last]))
        last = starts[-1] - 1
    boundaries = np.array([0, *reversed(starts), len(cost)])
    return np.diff(first[boundaries]) / np.diff(total[boundaries])


class Spread:
    """Levels spread with the cube root of a histogram's density; none in the gap around 0 that pruning leaves.

    Args:
        histogram: of the weight.
        threshold: a magnitude up to which entries do not count.
    """

    def __init__(self, histogram: Histogram, threshold: float = 0.0) -> None:
        beyond = histogram.beyond(threshold) if threshold else histogram
        self._values, self._mass = beyond.values, beyond.sums[0]
        self._by_groups: dict[int, tuple[Array, Array]] = {}

    def levels(self, count: int) -> Array:
        """So many of them, or fewer where some fall together."""
        groups = min(_GROUPS, len(self._values), max(count, int(self._mass[-1])))
        if groups not in self._by_groups:
            self._by_groups[groups] = self._cumulated(groups)
        spread, points = self._by_groups[groups]
        targets = (np.arange(count) + 0.5) / count * spread[-1]
        return _distinct(np.interp(targets, spread, points))

    def _cumulated(self, groups: int) -> tuple[Array, Array]:
        """The integral of the cube root of the density up to the ends of groups of equal mass, and these ends."""
        values, mass = self._values, self._mass
        at = np.clip(np.searchsorted(mass, np.linspace(0, mass[-1], groups + 1)[1:-1]), 0, len(values) - 1)
        middle = int(np.searchsorted(values, 0.0))
        sides = [i for i in (middle - 1, middle) if 0 <= i < len(values)]
        edges = _distinct(np.concatenate([[0], at, sides, [len(values) - 1]]))
        points = values[edges]
        weights = np.diff(mass[edges]) ** (1 / 3) * np.diff(points) ** (2 / 3)
        weights[(points[:-1] < 0) & (points[1:] > 0)] = 0.0
        return np.concatenate([[0.0], np.cumsum(weights)]), points


def boundaries_of(points: Array, threshold: float = 0.0) -> Array:
    """Where the cell of one level ends and that of the next begins; a threshold bounds that of the level 0.0."""
    boundaries = (points[1:] + points[:-1]) / 2
    if threshold:
        zero = int(np.searchsorted(points, 0.0))
        boundaries[max(zero - 1, 0) : zero] = -threshold
        boundaries[zero : zero + 1] = threshold
    return boundaries


def measured(histogram: Histogram, centres: Array, prune: bool, threshold: float = 0.0) -> Codebook:
    """The codebook of given levels, with the error and the shares of a histogram.

    Args:
        histogram: of the weight.
        centres: the levels other than 0.0, float64 [levels].
        prune: whether entries may become 0.
        threshold: with `prune` the magnitude up to which all become 0; 0: those nearest to it.
    """
    centres = _distinct(centres[centres != 0])
    points = _with_zero(centres) if prune else centres
    boundaries = boundaries_of(points, threshold)
    mass, first, second, count = _cells(histogram.values, histogram.sums, boundaries)
    error = float((second - 2 * points * first + points * points * mass).sum())
    zero = points == 0
    shares = np.concatenate([[histogram.zeros + count[zero].sum()], count[~zero]])
    levels = np.concatenate([[0.0], points[~zero]])
    return Codebook(levels, max(error, 0.0), shares, boundaries if threshold else None)
