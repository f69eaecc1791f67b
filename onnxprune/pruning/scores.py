"""Scores: the magnitude of every entry of a weight, dequantised where it has a scale."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from onnx import TensorProto

from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, part_of
from onnxprune.core.dtypes import QUANTISED, Array
from onnxprune.errors import WeightError
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pruning.selection import CHUNK, Chunks


def magnitudes(weight: Weight, array: Array, rows: RowRange | None = None) -> Array:
    """|w| of every entry, of the dequantised value where there is a scale: float32, or float64 for fp64.

    Args:
        weight: element type, scale and zero point.
        array: its values, or some rows of them.
        rows: which ones.

    Raises:
        WeightError: a value is NaN or infinite.
    """
    if weight.element in QUANTISED:
        zero, scale = weight.zero_value, weight.scale
        if rows is not None:
            zero, scale = part_of(zero, rows), None if scale is None else part_of(scale, rows)
        distance = np.abs(array.astype(np.float32) - zero.astype(np.float32))
        return distance if scale is None else distance * scale.astype(np.float32)
    wide = np.float64 if weight.element == TensorProto.DOUBLE else np.float32
    scores = np.abs(array.astype(wide, copy=False))
    if scores.size and not np.isfinite(scores.max()):
        raise WeightError(
            f"weight '{weight.name}' holds NaN or Inf: it cannot be pruned by magnitude; "
            f"--skip '{weight.name}' goes on without it"
        )
    return scores


def largest(weight: Weight, model: Model) -> float:
    """The largest magnitude; raises like `magnitudes`."""
    return max((float(part.max()) for chunk in magnitude_chunks(weight, model) for part in chunk()), default=0.0)


def magnitude_chunks(weight: Weight, model: Model) -> list[Chunks]:
    """`magnitudes` in index order: of each chunk the pieces, which fit the cache."""
    chunked = weight.chunked(model)
    return [partial(_chunks, weight, chunked, rows) for rows in chunked.rows]


def _chunks(weight: Weight, chunked: ChunkedArray, rows: RowRange) -> Iterator[Array]:
    array = chunked.read(*rows, EVERY)
    if weight.element in QUANTISED:  # the scale follows an axis
        yield magnitudes(weight, array, rows).reshape(-1)
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield magnitudes(weight, flat[start : start + CHUNK])
