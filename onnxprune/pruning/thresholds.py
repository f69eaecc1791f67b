"""Thresholds: where they lie in a weight, and the weight below them zeroed, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.core.chunked import CHUNK_ELEMENTS, EVERY, ChunkedArray, RowRange, part_of, picked, ranges
from onnxprune.core.dtypes import Array, bits_of
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pruning import selection
from onnxprune.pruning.scores import magnitude_chunks, magnitudes
from onnxprune.quantization.histogram import Histogram


@dataclass(frozen=True)
class OutputSlice:
    """Some outputs of a weight: where they lie, and what reads them."""

    where: tuple[slice, ...]
    read: Callable[[], Array]


def by_outputs(weight: Weight, chunked: ChunkedArray, multiple: int) -> list[OutputSlice]:
    """About a chunk each, a multiple of so many outputs; all at once where no part is read along their axis.

    Integers are small, and their scales may follow any axis.
    """
    axis = weight.out_axis
    if weight.zero is not None or not (axis == 0 or (axis == 1 and chunked.ndim == 2)):
        return [OutputSlice((slice(None),) * chunked.ndim, chunked.whole)]
    outputs = chunked.shape[axis]
    step = -(-max(1, CHUNK_ELEMENTS * outputs // max(1, chunked.size)) // multiple) * multiple
    if axis == 0:
        return [OutputSlice((slice(*rows),), partial(chunked.read, *rows, EVERY)) for rows in ranges(0, outputs, step)]
    return [OutputSlice((slice(None), slice(*own)), partial(chunked.block, *own)) for own in ranges(0, outputs, step)]


def standard_deviation(weight: Weight, chunked: ChunkedArray) -> float:
    """Standard deviation of the dequantised values: each row is summed in float64, the rows without rounding.

    Raises:
        WeightError: a value is NaN or infinite.
    """
    found = _deviation(weight, chunked, 1.0)
    if np.isfinite(found):
        return found
    top = max(chunked.each(lambda rows, part: float(magnitudes(weight, part, rows).max(initial=0.0))))
    return top * _deviation(weight, chunked, top)  # squares of such values leave float64


def _deviation(weight: Weight, chunked: ChunkedArray, unit: float) -> float:
    """That of the values in so large a unit; NaN or Inf where a sum leaves float64."""

    def sums(rows: RowRange, part: Array) -> list[tuple[float, float]]:
        found = []
        for start, stop in ranges(*rows, chunked.unit):
            values = part[start - rows[0] : stop - rows[0]]
            if weight.zero is not None:
                below = values.astype(np.int32) < part_of(weight.zero_value, (start, stop))
                values = magnitudes(weight, values, (start, stop)) * np.where(below, -1, 1)
            wide = values.astype(np.float64) / unit
            with np.errstate(over="ignore", invalid="ignore"):
                found.append((float(wide.sum()), float(np.square(wide).sum())))
        return found

    found = [unit for chunk in chunked.each(sums) for unit in chunk]
    with np.errstate(invalid="ignore", over="ignore"):
        total, squares = np.array(found).reshape(-1, 2).cumsum(axis=0)[-1]
        if not np.isfinite(total) or not np.isfinite(squares):
            return float("nan")
        return float(np.sqrt(max(squares / chunked.size - (total / chunked.size) ** 2, 0.0)))


def count_within(model: Model, weight: Weight, loss: float) -> int:
    """How many of the smallest entries hold less than this share of the sum of squares."""
    chunked = weight.chunked(model)
    kind = np.float64 if weight.dtype == "float64" else np.float32
    scores = chunked.map(kind, lambda rows, _, part: magnitudes(weight, part, rows))
    top = max(scores.each(lambda _, part: float(part.max(initial=0.0))), default=0.0)
    histogram = Histogram.of(scores, np.full((1,) * scores.ndim, top) if top else None)
    inside = int(np.searchsorted(histogram.sums[2], loss * histogram.energy, side="right")) - 1
    return histogram.zeros + int(histogram.sums[3, max(inside, 0)])


def zeroed(weight: Weight, chunked: ChunkedArray, mask: Array) -> ChunkedArray:
    """The weight without what the mask names, of which a bit for each entry is held."""
    bits = np.packbits(mask.reshape(chunked.shape[0], -1), axis=1)

    def change(rows: RowRange, columns: slice, part: Array) -> Array:
        gone = np.unpackbits(bits[slice(*rows)], axis=1, count=chunked.row).view(bool)
        return np.where(picked(gone.reshape(-1, *chunked.shape[1:]), columns), part_of(weight.zero_value, rows), part)

    return chunked.map(chunked.dtype, change)


def last_tie(model: Model, weight: Weight, cut: selection.Cut) -> tuple[int, int]:
    """The flat index of the last entry at the threshold that is pruned (-1: none), and how many are."""
    if not cut.ties:
        return -1, 0
    if cut.ties == cut.equal:  # all of them, wherever they are
        return weight.size, 0
    start = taken = 0
    for chunk in magnitude_chunks(weight, model):
        for scores in chunk():
            equal = np.flatnonzero(scores == cut.threshold)
            if taken + len(equal) >= cut.ties:
                return start + int(equal[cut.ties - taken - 1]), cut.ties
            start, taken = start + scores.size, taken + len(equal)
    return weight.size, taken


def zeroed_below(weight: Weight, chunked: ChunkedArray, threshold: float, last: int) -> ChunkedArray:
    """The weight with zeros (zero points) for magnitudes below a threshold.

    Args:
        weight: its type and zero point.
        chunked: its values.
        threshold: the magnitude.
        last: entries at the threshold are pruned up to this flat index.
    """
    zero, wide = weight.zero_value, np.float64 if weight.dtype == "float64" else np.float32

    def change(rows: RowRange, columns: slice, part: Array) -> Array:
        out = np.empty(part.shape, part.dtype)
        step = max(1, selection.CHUNK // max(1, part[0].size))
        for start, stop in ranges(*rows, step):
            here = slice(start - rows[0], stop - rows[0])
            piece = part[here]
            if weight.zero is None:
                scores = np.abs(piece.astype(wide, copy=False))
            else:
                scores = magnitudes(weight, piece, (start, stop))
            mask = scores < threshold
            if last >= stop * chunked.row - 1:
                mask = scores <= threshold
            elif last >= start * chunked.row:
                index = np.arange(start * chunked.row, stop * chunked.row).reshape(-1, *chunked.shape[1:])
                mask |= (scores == threshold) & (picked(index, columns) <= last)
            if weight.zero is None:  # a product of bits takes a tenth of the time that a choice takes
                np.multiply(bits_of(piece), ~mask, out=bits_of(out[here]))
            else:
                out[here] = np.where(mask, part_of(zero, (start, stop)), piece)
        return out

    return chunked.map(chunked.dtype, change)


def compared(weight: Weight, before: ChunkedArray, after: ChunkedArray) -> tuple[int, bool]:
    """How many entries are zero afterwards, and whether any bit differs. NaN and Inf are refused whatever the rule."""

    def compare(rows: RowRange, part: Array) -> tuple[int, bool]:
        magnitudes(weight, part, rows)
        left = after.read(*rows, EVERY)
        return weight.zeros_of(left, rows), not np.array_equal(bits_of(part), bits_of(left))

    found = list(before.each(compare))
    return sum(zeros for zeros, _ in found), any(differs for _, differs in found)
