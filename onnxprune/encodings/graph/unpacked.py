"""An encoded weight unpacked in numpy, slab by slab: neither its positions nor its values lie whole in memory."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.core.chunked import EVERY, ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.core.filled import FilledArray
from onnxprune.core.scattered import slabs
from onnxprune.encodings.positions.base import Packing
from onnxprune.encodings.values.nodes import CarrierScale


def unpacked(
    packing: Packing, parts: Mapping[str, Array], shape: tuple[int, ...], fill_value: Array, flags: str, element: int
) -> ChunkedArray:
    """The values of a weight.

    Args:
        packing: how its carrier is stored.
        parts: its constants by name.
        shape: of the carrier.
        fill_value: what entries hold that are not stored, of one element.
        flags: of its mark.
        element: its element type.

    Raises:
        ValueError: the parts do not fit together. Numpy raises others, such as IndexError.
    """
    scale = CarrierScale.of(shape, parts, flags, element)
    grid = scale.grid
    transposed = shape[::-1]
    weight = FilledArray(transposed if scale.transposed else grid, scale.target)
    pieces, rows = packing.unpack(parts, shape), ChunkedArray.rows_of(grid)
    for (start, stop), slab in zip(rows, slabs(pieces, grid, rows, fill_value), strict=True):
        part = scale.applied((start, stop), slab)
        if scale.transposed:
            weight.put((0, transposed[0]), slice(start, stop), part.reshape(stop - start, -1).T)
        else:
            weight.put((start, stop), EVERY, part)
    return weight.chunked() if scale.transposed else weight.chunked(shape)
