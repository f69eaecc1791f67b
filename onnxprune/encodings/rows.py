"""rows: gaps along each row of [first axis, rest], padded to the longest row: CumSum -> ScatterElements.

Rows cost padding and save the restart between them; ONNX Runtime decodes them with less memory
than one flat run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.dtypes import Array
from onnxprune.encodings.base import Builder, Encoding, Parts, Sparse, index_type
from onnxprune.encodings.gaps import fillers, to_gaps


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows, int(np.prod(shape[1:], dtype=np.int64))


def _distances(sparse: Sparse) -> tuple[Array, Array]:
    """Row of each kept entry, and its distance from the one before it in that row (or from column 0)."""
    _, columns = _grid(sparse.shape)
    row, column = np.divmod(sparse.positions, columns)
    distances = np.diff(column, prepend=0)
    first = np.diff(row, prepend=-1) != 0
    distances[first] = column[first]
    return row, distances


class Rows(Encoding):
    """Gaps between the kept entries of each row."""

    name = "rows"
    opset = 11

    def least(self, sparse: Sparse, itemsize: int) -> int:
        """See `Encoding.least`: the longest row is no shorter than the mean one."""
        rows, _ = _grid(sparse.shape)
        return rows * -(-len(sparse.positions) // rows) * (1 + itemsize)

    def payload(self, sparse: Sparse, itemsize: int) -> int:
        """See `Encoding.payload`."""
        rows, _ = _grid(sparse.shape)
        row, distances = _distances(sparse)
        longest = int(np.bincount(row, weights=1 + fillers(distances), minlength=rows).max())
        return rows * longest * (1 + itemsize)

    def pack(self, sparse: Sparse) -> tuple[Parts, Array]:
        """See `Encoding.pack`. Padding repeats a row's last position and value, so that order cannot matter."""
        rows, _ = _grid(sparse.shape)
        row, distances = _distances(sparse)
        runs, values = to_gaps(distances, sparse.values, sparse.fill)
        entries = 1 + fillers(distances)
        lengths = np.bincount(row, weights=entries, minlength=rows).astype(np.int64)
        place = np.arange(lengths.max()) < lengths[:, None]
        gaps = np.zeros(place.shape, np.uint8)
        gaps[place] = runs
        padded = np.full(place.shape, sparse.fill)
        padded[place] = values
        held = np.flatnonzero(lengths)
        last = np.full(rows, sparse.fill)
        last[held] = padded[held, lengths[held] - 1]
        return {"gaps": gaps}, np.where(place, padded, last[:, None])

    def unpack(self, parts: Mapping[str, Array], values: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Encoding.unpack`."""
        rows, columns = _grid(shape)
        at = np.cumsum(parts["gaps"], axis=1, dtype=np.int64) + columns * np.arange(rows)[:, None]
        return at.reshape(-1), values.reshape(-1)

    def emit(self, build: Builder, parts: Parts, values: str, shape: tuple[int, ...], fill: Array) -> None:
        """See `Encoding.emit`."""
        grid = _grid(shape)
        element, _ = index_type(grid[1])
        steps = build.op("Cast", [build.constant("gaps", parts["gaps"])], to=element)
        indices = build.op("CumSum", [steps, build.constant("axis", np.int32(1))])
        dense = build.scatter(build.zeros(grid, fill), indices, values, 1)
        if shape != grid:
            build.reshape(dense, shape)
