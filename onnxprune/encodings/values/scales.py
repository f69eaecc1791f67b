"""Scales: what is divided out of a weight, per output channel or for the whole."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from onnxprune.core.chunked import ChunkedArray, RowRange
from onnxprune.core.dtypes import Array, bits_of
from onnxprune.model.weight import Weight
from onnxprune.quantization.histogram import root_mean_square

_HALF_NORMAL = (6.2e-5, 65504.0)
_CAST = 44  # bytes of a Cast node: fewer bytes than that are not worth halving
_SMALL = 1 << 16  # elements; the scatter of fewer takes little memory
_SMALLEST, _LARGEST = 1e-15, 1e15  # of the largest value: squares and inverses of such stay float32


def floats(array: Array | ChunkedArray) -> ChunkedArray:
    """The values as float32 (float64 for fp64)."""
    chunked = ChunkedArray.of(array)
    kind = np.float64 if chunked.dtype == np.float64 else np.float32
    return chunked if chunked.dtype == kind else chunked.map(kind, lambda rows, columns, part: part.astype(kind))


def computed(array: Array | ChunkedArray) -> ChunkedArray | None:
    """`floats`, or None where a value is not finite, or all are far from ordinary sizes."""
    chunked = ChunkedArray.of(array)
    wide = floats(chunked)

    def largest(_: RowRange, part: Array) -> float:
        return float(np.maximum(part.max(initial=0.0), -part.min(initial=0.0)))  # NaN where there is one

    top = float(np.max(list(wide.each(largest)), initial=0.0))
    limit = 0.99 * float(ml_dtypes.finfo(chunked.dtype).max)  # type: ignore[no-untyped-call]
    return wide if (top == 0 or _SMALLEST <= top <= min(_LARGEST, limit)) else None


def centred(weight: Weight, array: Array | ChunkedArray) -> ChunkedArray:
    """A quantised weight counted from its zero point, as float32."""

    def change(rows: RowRange, columns: slice, part: Array) -> Array:
        return part.astype(np.float32) - weight.zero_value

    return ChunkedArray.of(array).map(np.float32, change)


def inner_axes(weight: Weight, transposed: bool | None = None) -> tuple[int, ...]:
    """The axes that a scale is shared along: those of the inputs, in order; empty where they are not known."""
    if transposed is not None:
        return (int(transposed),)
    return tuple(sorted(weight.in_axes))


def channel_scale(weight: Weight, wide: ChunkedArray, transposed: bool | None = None) -> Array | None:
    """Root mean square per output channel, or None where the axes are not known or channels are tiny."""
    axes = inner_axes(weight, transposed)
    if not axes or math.prod(wide.shape[a] for a in axes) < 8:
        return None
    return tidy_scale(root_mean_square(wide, axes))


def unit_scale(wide: ChunkedArray) -> Array:
    """One scale for the whole weight, a power of 2, so that dividing by it loses nothing."""
    mean = root_mean_square(wide, tuple(range(wide.ndim)))
    return np.exp2(np.round(np.log2(mean))).astype(wide.dtype)


def tidy_scale(scale: Array, up: bool = False) -> Array:
    """The scale as float16 where its range allows that, else float32; `up` rounds towards more."""
    low, high = _HALF_NORMAL
    if scale.min() < low or scale.max() > high / 2 or 2 * scale.size < _CAST:
        return scale.astype(np.float32)
    half = scale.astype(np.float16)
    if up:
        half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
    return half


def halves(levels: Array, size: int) -> bool:
    """Whether the levels of a weight of so many entries are stored as float16: half the memory of the scatter too."""
    return _normal(levels) and bool(2 * np.count_nonzero(levels) >= _CAST or size > _SMALL)


def _normal(values: Array) -> bool:
    """Whether float16 keeps 11 bits of every value."""
    magnitudes = np.abs(values[values != 0])
    low, high = _HALF_NORMAL
    return not magnitudes.size or bool(magnitudes.min() >= low and magnitudes.max() <= high)


def are_halves(values: Array) -> bool:
    """Whether float16 keeps every bit of every value."""
    return _normal(values) and np.array_equal(bits_of(values.astype(np.float16).astype(values.dtype)), bits_of(values))


def narrowed(levels: Array, size: int) -> Array:
    """The levels of a weight of so many entries as float16 where that loses nothing and is worth a Cast."""
    narrow = levels.dtype in (np.float32, np.float64) and halves(levels, size) and are_halves(levels)
    return levels.astype(np.float16) if narrow else levels
