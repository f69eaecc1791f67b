"""Parts of an output whose numbers are of other magnitudes: boxes in pixels beside scores from 0 to 1.

The energy of the boxes is some 100,000 times that of the scores, and of the whole it would hide any error of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxprune.core.dtypes import Array

_APART = 100.0  # times the mean square, at the least, of every index on the other side
_ENTRIES = 32  # of each index, at the least: fewer tell no magnitude
_LARGE = 1.0  # the mean square of the larger side: what a probability has is less, and its scale says something


@dataclass(frozen=True)
class Part:
    """A range of indices along an axis."""

    axis: int
    start: int
    stop: int

    def of(self, array: Array) -> Array:
        """The entries of the part."""
        return array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]

    def __str__(self) -> str:
        """In words, such as "4 to 83 of axis 1"."""
        range_ = f"{self.start} to {self.stop - 1}" if self.stop - self.start > 1 else f"{self.start}"
        return f"{range_} of axis {self.axis}"


def parts_of(array: Array) -> list[Part]:
    """The ranges along the second or the last axis, between which all numbers change their magnitude; none of one.

    Args:
        array: an output of numbers, [samples, ...].
    """
    for axis in dict.fromkeys((1, array.ndim - 1)) if array.ndim > 1 else ():
        cuts = list(_cuts(array, axis))
        if cuts:
            bounds = [0, *cuts, array.shape[axis]]
            return [Part(axis, start, stop) for start, stop in pairwise(bounds)]
    return []


def _cuts(array: Array, axis: int) -> Iterator[int]:
    if array.shape[axis] < 2 or array.size < _ENTRIES * array.shape[axis]:
        return
    others = tuple(a for a in range(array.ndim) if a != axis)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(array, dtype=np.float64).mean(axis=others)
    if not np.isfinite(squares).all():
        return
    low, high = np.minimum.accumulate(squares), np.maximum.accumulate(squares)
    low_behind, high_behind = np.minimum.accumulate(squares[::-1])[::-1], np.maximum.accumulate(squares[::-1])[::-1]
    falls = (low[:-1] > _APART * high_behind[1:]) & (low[:-1] > _LARGE)
    rises = (low_behind[1:] > _APART * high[:-1]) & (low_behind[1:] > _LARGE)
    yield from (np.flatnonzero(falls | rises) + 1).tolist()
