"""What pictures show of a weight's values, by numpy: counts by value, and the share that is kept block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.pipeline.change import Removed
from onnxprune.pruning.selection import CHUNK

BINS = 81  # odd: zero lies in the middle of one
_EXACT = (400, 800)  # rows, columns up to which each weight gets its own pixel; one bit each
_BLOCKS = (200, 400)  # pixels beyond that; four bits each


@dataclass(frozen=True)
class BarHistogram:
    """How often values other than zero occur, in `BINS` bins from -limit to limit.

    Attributes:
        limit: the largest finite magnitude.
        counts: for each array its counts by bin.
        sizes: for each array how many entries it has.
        zeros: for each array how many entries are zero.
        strange: for each array how many entries are NaN or infinite; no bin has them.
    """

    limit: float
    counts: tuple[Array, ...]
    sizes: tuple[int, ...]
    zeros: tuple[int, ...]
    strange: tuple[int, ...]


def histogram(arrays: Sequence[Array]) -> BarHistogram:
    """Count the values of some arrays in the same bins."""
    limit = max((_largest(array) for array in arrays), default=0.0)
    found = [_counts(array.reshape(-1), limit) for array in arrays]
    zeros = [array.size - int(np.count_nonzero(array)) for array in arrays]
    strange = [array.size - zero - int(count.sum()) for array, zero, count in zip(arrays, zeros, found, strict=True)]
    return BarHistogram(limit, tuple(found), tuple(a.size for a in arrays), tuple(zeros), tuple(strange))


def _counts(flat: Array, limit: float) -> Array:
    """By bin; np.histogram would overflow at the ends of a type's range."""
    counts = np.zeros(BINS, np.int64)
    for start in range(0, flat.size, CHUNK):
        values = flat[start : start + CHUNK]
        values = values[np.isfinite(values) & (values != 0)].astype(np.float64)
        bins = ((values / limit + 1) * (BINS / 2)).astype(np.int64)
        counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
    return counts


def _largest(array: Array) -> float:
    """The largest finite magnitude."""
    if not array.size:
        return 0.0
    largest = max(float(array.max()), -float(array.min()))
    return largest if np.isfinite(largest) else float(np.abs(array[np.isfinite(array)]).max(initial=0))


@dataclass(frozen=True)
class PatternImage:
    """The share that is kept, block by block.

    Attributes:
        shares: [rows, columns], each between 0 and 1.
        block: entries that a pixel stands for, down and across; the last ones of a side may be smaller.
        shape: of the matrix, [rows, columns].
    """

    shares: Array
    block: tuple[int, int]
    shape: tuple[int, int]


def pattern(kept: Array) -> PatternImage:
    """What is kept of a matrix: each entry where it is small, and blocks of equal size where it is large."""
    rows, columns = kept.shape
    most = _EXACT if rows <= _EXACT[0] and columns <= _EXACT[1] else _BLOCKS
    tall, wide = (max(1, -(-size // limit)) for size, limit in zip(kept.shape, most, strict=True))
    if not kept.size or (tall, wide) == (1, 1):
        return PatternImage(kept.astype(np.float32), (1, 1), (rows, columns))
    starts = np.arange(0, rows, tall), np.arange(0, columns, wide)
    sums = np.add.reduceat(np.add.reduceat(kept, starts[0], 0, dtype=np.int32), starts[1], 1)
    sizes = np.outer(np.diff(starts[0], append=rows), np.diff(starts[1], append=columns))
    return PatternImage((sums / sizes).astype(np.float32), (tall, wide), (rows, columns))


def as_matrix(array: Array, out_axis: int | None) -> Array:
    """The array as [outputs, inputs]; the first axis stands for the outputs where they are not known."""
    axis = out_axis or 0
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) if array.ndim else array.reshape(1, 1)


def put_back(kept: Array, name: str, removed: Sequence[Removed]) -> Array:
    """The entries where they were before channels were cut out; what was cut out is not kept."""
    for cut in removed:
        if cut.name == name and kept.shape[cut.axis] == cut.after:
            shape = list(kept.shape)
            shape[cut.axis] = cut.before
            wider = np.zeros(shape, kept.dtype)
            np.moveaxis(wider, cut.axis, 0)[np.delete(np.arange(cut.before), cut.indices)] = np.moveaxis(
                kept, cut.axis, 0
            )
            kept = wider
    return kept
