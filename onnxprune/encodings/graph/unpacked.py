"""An encoded weight unpacked in numpy, slab by slab: neither its positions nor its values lie whole in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from onnxprune.core.chunked import EVERY, ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.core.filled import FilledArray
from onnxprune.core.scattered import slabs
from onnxprune.encodings.positions.base import Packing
from onnxprune.encodings.values.nodes import CarrierScale

Shape = tuple[int, ...]


def unpacked(
    packing: Packing, chunks: Sequence[Mapping[str, Array]], shapes: Sequence[Shape], parts: Mapping[str, Array],
    fill_value: Array, flags: str, element: int,
) -> ChunkedArray:  # fmt: skip
    """The values of a weight.

    Args:
        packing: how its carrier is stored.
        chunks: the constants of each range of the carrier's rows by name, in order.
        shapes: of those ranges.
        parts: all of the weight's constants by name.
        fill_value: what entries hold that are not stored, of one element.
        flags: of its mark.
        element: its element type.

    Raises:
        ValueError: the parts do not fit together. Numpy raises others, such as IndexError.
    """
    shape = (sum(own[0] for own in shapes), *shapes[0][1:])
    scale = CarrierScale.of(shape, parts, flags, element)
    grid = scale.grid
    transposed = shape[::-1]
    weight = FilledArray(transposed if scale.transposed else grid, scale.target)
    pieces, rows = _pieces(packing, chunks, shapes), ChunkedArray.rows_of(grid)
    for (start, stop), slab in zip(rows, slabs(pieces, grid, rows, fill_value), strict=True):
        part = scale.applied((start, stop), slab)
        if scale.transposed:
            weight.put((0, transposed[0]), slice(start, stop), part.reshape(stop - start, -1).T)
        else:
            weight.put((start, stop), EVERY, part)
    return weight.chunked() if scale.transposed else weight.chunked(shape)


def _pieces(
    packing: Packing, chunks: Sequence[Mapping[str, Array]], shapes: Sequence[Shape]
) -> Iterator[tuple[Array, Array]]:
    """Flat positions in the whole carrier, and the values there."""
    start = 0
    for parts, shape in zip(chunks, shapes, strict=True):
        for positions, values in packing.unpack(parts, shape):
            yield (positions + start if start else positions), values
        start += math.prod(shape)
