"""Where Lloyd's algorithm starts: levels by the density of a histogram, or the optimum over groups of its values."""

from __future__ import annotations

import numpy as np

from onnxprune.quantization.histogram import Array, Histogram
from onnxprune.quantization.lloyd import Layout, distinct

_GROUPS = 4096
_GROUPS_EXACT = 512


def spread(histogram: Histogram, counts: Array, thresholds: Array, prune: bool) -> tuple[Array, Layout]:
    """Levels spread with the cube root of the density beyond a threshold (Panter and Dite 1951), for each codebook.

    Args:
        histogram: of the weight.
        counts: intp [codebooks], the levels other than 0.0, at least 1 each; where some fall together there are fewer.
        thresholds: float64 [codebooks], magnitudes up to which entries do not count.
        prune: whether 0.0 is a level too.
    """
    cumulated, points = _cumulated(histogram)
    below, above = np.interp([-thresholds, thresholds], points, cumulated)
    gap = above - below
    starts = np.cumsum(counts) - counts
    own = np.repeat(np.arange(len(counts)), counts)
    at = (np.arange(len(own)) - starts[own] + 0.5) / counts[own] * (cumulated[-1] - gap)[own]
    negative = at < below[own]
    found = np.interp(np.where(negative, at, at + gap[own]), cumulated, points)
    found = np.where(negative, np.minimum(found, -thresholds[own]), np.maximum(found, thresholds[own]))
    if prune:
        lower = np.add.reduceat(found < 0, starts, dtype=np.intp)
        found, counts = np.insert(found, starts + lower, 0.0), counts + 1
    return distinct(found, Layout.of(found, counts, thresholds, prune))


def _cumulated(histogram: Histogram) -> tuple[Array, Array]:
    """The integral of the cube root of the density up to the ends of groups of equal mass, and these ends.

    The group around 0 has no part in it: no level starts where there are no values.
    """
    values, mass = histogram.values, histogram.sums[0]
    groups = min(_GROUPS, len(values))
    inner = np.searchsorted(mass, np.linspace(0, mass[-1], groups + 1)[1:-1]).clip(0, len(values) - 1)
    middle = int(np.searchsorted(values, 0.0))
    held = np.zeros(len(values), bool)
    held[inner] = held[max(middle - 1, 0)] = held[min(middle, len(values) - 1)] = held[0] = held[-1] = True
    edges = np.flatnonzero(held)
    points = values[edges]
    weights = np.cbrt(np.diff(mass[edges]) * np.square(np.diff(points)))
    weights[(points[:-1] < 0) & (points[1:] > 0)] = 0.0
    return np.concatenate([[0.0], np.cumsum(weights)]), points


def optimal(histogram: Histogram, count: int) -> Array:
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
