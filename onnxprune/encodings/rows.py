"""rows: gaps along each row of [first axis, rest], padded to the longest row: CumSum -> ScatterElements.

Rows cost padding and save the restart between them; ONNX Runtime decodes a matrix from them in less time and
memory than from one flat run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.dtypes import Array
from onnxprune.encodings import gaps as gap
from onnxprune.encodings import words
from onnxprune.encodings.base import Builder, Encoding, Parts, Sparse, index_type


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


def _lengths(rows: int, row: Array, distances: Array, cap: int) -> Array:
    """Entries of each row, fillers included."""
    return np.bincount(row, weights=1 + gap.fillers(distances, cap), minlength=rows).astype(np.int64)


class Rows(Encoding):
    """Gaps between the kept entries of each row, apart from the values or with their codes."""

    name = "rows"
    opset = 11

    def least(self, sparse: Sparse) -> int:
        """See `Encoding.least`: the longest row is no shorter than the mean one."""
        rows, _ = _grid(sparse.shape)
        count = rows * -(-len(sparse.positions) // rows)
        if sparse.book is None:
            return count + words.values_bytes(sparse, count)
        return words.layout_for(len(sparse.book) * 2, count).nbytes(count)

    def payload(self, sparse: Sparse) -> int:
        """See `Encoding.payload`."""
        return _plan(sparse, *_distances(sparse))[1]

    def pack(self, sparse: Sparse) -> Parts:
        """See `Encoding.pack`. Padding repeats a row's last position and value, so that order cannot matter."""
        rows, _ = _grid(sparse.shape)
        row, distances = _distances(sparse)
        joint, _ = _plan(sparse, row, distances)
        if joint is not None and sparse.book is not None:
            runs, codes = _padded(sparse, rows, row, distances, joint.cap)
            return gap.pack(runs, codes, joint, sparse.book)
        runs, values = _padded(sparse, rows, row, distances, gap.BYTE)
        return {"gaps": runs} | words.pack_values(sparse, values if sparse.book is None else values.reshape(-1))

    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Encoding.unpack`."""
        rows, columns = _grid(shape)
        if "symbols" in parts:
            runs, values = gap.unpack(parts)
        else:
            runs = parts["gaps"]
            values = words.unpack_values(parts).reshape(-1)[: runs.size]
        at = np.cumsum(runs, axis=1, dtype=np.int64) + columns * np.arange(rows)[:, None]
        return at.reshape(-1), values.reshape(-1)

    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill: Array) -> str:
        """See `Encoding.emit`."""
        grid = _grid(shape)
        axis = build.constant("axis", np.int32(1))
        if "symbols" in parts:
            steps, values = gap.emit(build, parts, [grid[0], -1])
        else:
            steps = build.op("Cast", [build.constant("gaps", parts["gaps"])], to=index_type(grid[1])[0])
            values = words.emit_values(build, parts, parts["gaps"].shape, "run")
        indices = build.op("CumSum", [steps, axis])
        dense = build.scatter(build.zeros(grid, fill), indices, values, 1)
        return dense if shape == grid else build.reshape(dense, shape)


def _plan(sparse: Sparse, row: Array, distances: Array) -> tuple[gap.Joint | None, int]:
    """How codes join the gaps where that takes fewer bytes (in the widths that suit a flat run), and the bytes."""
    rows, _ = _grid(sparse.shape)
    count = rows * int(_lengths(rows, row, distances, gap.BYTE).max())
    apart = count + words.values_bytes(sparse, count)
    if sparse.book is None:
        return None, apart
    joint = gap.joint_for(distances, len(sparse.book))
    longest = int(_lengths(rows, row, distances, joint.cap).max())
    together = rows * joint.layout.nbytes(longest) + sparse.book.nbytes
    return (joint, together) if together <= apart else (None, apart)


def _padded(sparse: Sparse, rows: int, row: Array, distances: Array, cap: int) -> tuple[Array, Array]:
    """Gaps and values [rows, longest]."""
    runs, values = gap.to_gaps(distances, sparse.values, sparse.fill_stored, cap)
    lengths = _lengths(rows, row, distances, cap)
    longest = int(lengths.max())
    place = np.arange(longest) < lengths[:, None]
    steps = np.zeros(place.shape, runs.dtype)
    steps[place] = runs
    padded = np.full(place.shape, sparse.fill_stored)
    padded[place] = values
    held = np.flatnonzero(lengths)
    last = np.full(rows, sparse.fill_stored)
    last[held] = padded[held, lengths[held] - 1]
    return steps, np.where(place, padded, last[:, None])
