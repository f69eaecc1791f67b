"""rows: gaps along each row of [first axis, rest], padded to the longest row: CumSum -> ScatterElements.

Rows cost padding and save the restart between them; ONNX Runtime decodes a matrix from them in less time and
memory than from one flat run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.core.scattered import PIECE
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.positions import digits
from onnxprune.encodings.positions import gaps as gap
from onnxprune.encodings.positions.base import Encoding, pieces_of
from onnxprune.encodings.sparse import Sparse, SparseChunk, index_type


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows, int(np.prod(shape[1:], dtype=np.int64))


def _distances(sparse: Sparse, chunk: SparseChunk) -> tuple[int, Array, Array]:
    """How many rows a chunk has, the row of each kept entry, and its distance from the one before (or column 0)."""
    rows = chunk.rows[1] - chunk.rows[0]
    kind = chunk.positions.dtype.type
    row, column = np.divmod(chunk.positions, kind(_grid(sparse.shape)[1]))
    distances = np.diff(column, prepend=kind(0))
    first = np.diff(row, prepend=kind(-1)) != 0
    distances[first] = column[first]
    return rows, row, distances


def _lengths(rows: int, row: Array, distances: Array, cap: int) -> Array:
    """Entries of each row, fillers included."""
    return np.bincount(row, weights=1 + gap.fillers(distances, cap), minlength=rows).astype(np.int64)


class Rows(Encoding):
    """Gaps between the kept entries of each row, apart from the values or with their codes."""

    name = "rows"
    opset = 11

    @override
    def least(self, sparse: Sparse) -> int:
        """The longest row is no shorter than the mean one."""
        rows, _ = _grid(sparse.shape)
        count = rows * -(-sparse.kept // rows)
        if sparse.codebook is None:
            return count + digits.values_bytes(sparse, count)
        return digits.layout_for(len(sparse.codebook) * 2, count).nbytes(count)

    @override
    def payload(self, sparse: Sparse) -> int:
        return _plan(sparse)[2]

    @override
    def largest(self, sparse: Sparse) -> int:
        rows, (longest, joint, _) = _grid(sparse.shape)[0], _plan(sparse)
        if joint is not None:
            return rows * joint.layout.unpacked(longest)
        levels = 2 if sparse.codebook is None else len(sparse.codebook)
        return digits.layout_for(levels, rows * longest).unpacked(rows * longest)

    @override
    def pack(self, sparse: Sparse) -> Parts:
        """Padding repeats a row's last position and value, so that order cannot matter."""
        rows, (longest, joint, _) = _grid(sparse.shape)[0], _plan(sparse)
        if joint is not None and sparse.codebook is not None:
            cap, codebook = joint.cap, sparse.codebook
            parts = gap.pack_rows(np.zeros((0, longest), np.int64), np.zeros((0, longest), np.int64), joint)
            words = sparse.each(lambda chunk: gap.pack_rows(*_padded(sparse, chunk, longest, cap), joint)["symbols"])
            (parts["symbols"],) = digits.joined(((part,) for part in words), rows)
            return parts | gap.around(joint, codebook)
        runs, values = digits.joined(sparse.each(lambda chunk: _padded(sparse, chunk, longest, gap.BYTE)), rows)
        if sparse.codebook is None:
            return {"gaps": runs, "values": values}
        return {"gaps": runs} | digits.pack_values(sparse, pieces_of(values.reshape(-1)), runs.size)

    @override
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        rows, columns = _grid(shape)
        held = parts["symbols" if "symbols" in parts else "gaps"]
        if len(held) != rows:
            raise ValueError(f"it holds {len(held)} rows for the shape {shape}")
        width = held.size // max(1, rows)
        for start, stop in ranges(0, rows, max(1, PIECE // max(1, width))):
            if "symbols" in parts:
                symbols = digits.unpack({**parts, "symbols": held[start:stop]}, "symbols")
                runs, values = gap.taken_apart(parts, symbols)
            else:
                runs, values = held[start:stop], digits.unpack_values(parts, start * width, stop * width)
            at = np.cumsum(runs, axis=1, dtype=np.int64) + columns * np.arange(start, stop)[:, None]
            yield at.reshape(-1), values.reshape(-1)

    @override
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill_value: Array) -> str:
        grid = _grid(shape)
        axis = build.constant("axis", np.int32(1))
        if "symbols" in parts:
            steps, values = gap.emit(build, parts, [grid[0], -1])
        else:
            steps = build.op("Cast", [build.constant("gaps", parts["gaps"])], to=index_type(grid[1])[0])
            values = digits.emit_values(build, parts, parts["gaps"].shape, "run")
        indices = build.op("CumSum", [steps, axis])
        dense = build.scatter(build.zeros(grid, fill_value), indices, values, 1)
        return dense if shape == grid else build.reshape(dense, shape)


def _plan(sparse: Sparse) -> tuple[int, gap.Joint | None, int]:
    """Entries of the longest row, how codes join the gaps where that is smaller (as in a flat run), and the bytes."""
    rows, _ = _grid(sparse.shape)

    def measured(chunk: SparseChunk) -> tuple[int, gap.Distances]:
        own, row, distances = _distances(sparse, chunk)
        return int(_lengths(own, row, distances, gap.BYTE).max()), gap.Distances.of(distances)

    longest, found = 0, gap.Distances.of(np.zeros(0, np.int64))
    for most, distances in sparse.each(measured):
        longest, found = max(longest, most), found + distances
    count = rows * longest
    apart = count + digits.values_bytes(sparse, count)
    if sparse.codebook is None:
        return longest, None, apart
    joint = gap.joint_for(found, len(sparse.codebook))
    most = max(sparse.each(lambda chunk: int(_lengths(*_distances(sparse, chunk), joint.cap).max())))
    together = rows * joint.layout.nbytes(most) + sparse.codebook.nbytes
    return (most, joint, together) if together <= apart else (longest, None, apart)


def _padded(sparse: Sparse, chunk: SparseChunk, longest: int, cap: int) -> tuple[Array, Array]:
    """Gaps and values [rows of the chunk, longest]."""
    rows, row, distances = _distances(sparse, chunk)
    runs, values = gap.to_gaps(distances, chunk.values, sparse.fill_stored, cap)
    lengths = _lengths(rows, row, distances, cap)
    place = np.arange(longest) < lengths[:, None]
    steps = np.zeros(place.shape, runs.dtype)
    steps[place] = runs
    padded = np.full(place.shape, sparse.fill_stored)
    padded[place] = values
    held = np.flatnonzero(lengths)
    last = np.full(rows, sparse.fill_stored)
    last[held] = padded[held, lengths[held] - 1]
    return steps, np.where(place, padded, last[:, None])
