"""Entries written over a tensor of one value, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from onnxprune.core.chunked import RowRange
from onnxprune.core.dtypes import Array

PIECE = 1 << 20  # entries that are made at once, about


def slabs(
    pieces: Iterable[tuple[Array, Array]], shape: tuple[int, ...], rows: Iterable[RowRange], fill_value: Array
) -> Iterator[Array]:
    """Some rows of a tensor after the other.

    Args:
        pieces: flat positions, which never descend, and the values there; the last of equal positions counts.
        shape: of the tensor.
        rows: all of it, in order.
        fill_value: of one element, what the entries hold that have no position.

    Raises:
        ValueError: positions descend, are beyond the tensor, or are not as many as the values.
    """
    row = math.prod(shape[1:])
    waiting = (piece for piece in map(_checked, pieces) if len(piece[0]))
    positions, values = np.zeros(0, np.int64), fill_value.reshape(1)[:0]
    for start, stop in rows:
        slab: Array | None = None
        while True:
            cut = np.searchsorted(positions, stop * row)
            if cut:
                if positions[0] < start * row:
                    raise ValueError(f"position {positions[0]} comes after {start * row}")
                if slab is None:
                    slab = _of(fill_value, (stop - start) * row, values.dtype)
                slab[positions[:cut] - start * row] = values[:cut]
                positions, values = positions[cut:], values[cut:]
            piece = None if len(positions) else next(waiting, None)
            if piece is None:
                break
            positions, values = piece
        yield (_of(fill_value, (stop - start) * row, values.dtype) if slab is None else slab).reshape(-1, *shape[1:])
    if len(positions) or next(waiting, None) is not None:
        raise ValueError(f"positions are beyond the {math.prod(shape)} entries")


def _of(fill_value: Array, size: int, dtype: np.dtype) -> Array:
    return np.full(size, fill_value.astype(dtype), dtype)


def _checked(piece: tuple[Array, Array]) -> tuple[Array, Array]:
    positions, values = piece
    if len(positions) != len(values):
        raise ValueError(f"{len(values)} values stand for {len(positions)} positions")
    if (positions[1:] < positions[:-1]).any():
        raise ValueError("positions descend")
    return piece
