"""flat: one run of gaps over the whole tensor: CumSum -> ScatterElements -> Reshape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from onnxprune.core.chunked import RowRange, ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.core.scattered import PIECE
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.positions import digits
from onnxprune.encodings.positions import gaps as gap
from onnxprune.encodings.positions.base import Encoding, pieces_of
from onnxprune.encodings.sparse import Sparse, SparseChunk, index_type


class Flat(Encoding):
    """Gaps between the kept entries of the flattened tensor, apart from the values or with their codes."""

    name = "flat"
    opset = 11

    @override
    def least(self, sparse: Sparse) -> int:
        kept = sparse.kept
        if sparse.codebook is None:
            return kept + digits.values_bytes(sparse, kept)
        return digits.layout_for(len(sparse.codebook) * 2, kept).nbytes(kept)

    @override
    def payload(self, sparse: Sparse) -> int:
        return _plan(sparse)[2]

    @override
    def largest(self, sparse: Sparse) -> int:
        _, joint, _, entries = _plan(sparse)
        unpacked = joint.layout.unpacked(joint.entries) if joint is not None else _unpacked(sparse, entries)
        return unpacked * np.dtype(index_type(sparse.size)[1]).itemsize // 4

    @override
    def pack(self, sparse: Sparse) -> Parts:
        before, joint, _, entries = _plan(sparse)
        cap = gap.BYTE if joint is None else joint.cap

        def gaps(chunk: SparseChunk) -> tuple[Array, Array]:
            distances = np.diff(chunk.positions, prepend=chunk.positions.dtype.type(0))
            if len(distances):
                first = chunk.start + int(chunk.positions[0]) - before[chunk.rows]
                distances = distances if first <= np.iinfo(distances.dtype).max else distances.astype(np.int64)
                distances[0] = first
            return gap.to_gaps(distances, chunk.values, sparse.fill_stored, cap)

        if joint is not None and sparse.codebook is not None:
            symbols = sparse.each(lambda chunk: gap.symbols_of(*gaps(chunk), joint))
            packed = digits.pack_run(symbols, joint.entries, joint.layout, "symbols", partial(gap.filling, joint))
            return packed | gap.around(joint, sparse.codebook)
        runs, values = digits.joined(sparse.each(gaps), entries)
        return {"gaps": runs} | digits.pack_values(sparse, pieces_of(values), entries)

    @override
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        joint, last = "symbols" in parts, 0
        for start, stop in ranges(0, digits.count_of(parts, "symbols") if joint else parts["gaps"].size, PIECE):
            if joint:
                runs, values = gap.taken_apart(parts, digits.unpack_run(parts, "symbols", start, stop))
            else:
                runs, values = parts["gaps"][start:stop], digits.unpack_values(parts, start, stop)
            at = np.cumsum(runs, dtype=np.int64) + last
            last = int(at[-1])
            yield at, values

    @override
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill_value: Array) -> str:
        size = int(np.prod(shape, dtype=np.int64))
        axis = build.constant("axis", np.int32(0))
        if "symbols" in parts:
            steps, values = gap.emit(build, parts, [-1])
            if size >= 2**31:
                steps = build.op("Cast", [steps], to=index_type(size)[0])
        else:
            steps = build.op("Cast", [build.constant("gaps", parts["gaps"])], to=index_type(size)[0])
            values = digits.emit_values(build, parts, parts["gaps"].shape, "run")
        indices = build.op("CumSum", [steps, axis])
        dense = build.scatter(build.zeros([size], fill_value), indices, values, 0)
        return build.reshape(dense, shape)


def _unpacked(sparse: Sparse, entries: int) -> int:
    """Bytes of gaps as int32, and of codes where there are such."""
    return (
        4 * entries if sparse.codebook is None else digits.layout_for(len(sparse.codebook), entries).unpacked(entries)
    )


def _plan(sparse: Sparse) -> tuple[dict[RowRange, int], gap.Joint | None, int, int]:
    """The kept position before each chunk, how codes join the gaps where that is smaller, bytes, and entries."""

    def distances(chunk: SparseChunk) -> tuple[SparseChunk, gap.Distances]:
        return replace(chunk, positions=chunk.positions[[0, -1]] if len(chunk.positions) else chunk.positions,
                       values=chunk.values[:0]), gap.Distances.of(np.diff(chunk.positions))  # fmt: skip

    last, before, found = 0, {}, gap.Distances.of(np.zeros(0, np.int64))
    for chunk, inner in sparse.each(distances):
        before[chunk.rows] = last
        if len(chunk.positions):
            first = np.array([chunk.start + int(chunk.positions[0]) - last])
            found, last = found + inner + gap.Distances.of(first), chunk.start + int(chunk.positions[1])
    entries = found.entries()
    apart = entries + digits.values_bytes(sparse, entries)
    if sparse.codebook is None:
        return before, None, apart, entries
    joint = gap.joint_for(found, len(sparse.codebook))
    together = joint.nbytes + sparse.codebook.nbytes
    return (before, joint, together, entries) if together <= apart else (before, None, apart, entries)
