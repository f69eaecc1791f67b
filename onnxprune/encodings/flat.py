"""flat: one run of gaps over the whole tensor: CumSum -> ScatterElements -> Reshape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.dtypes import Array
from onnxprune.encodings import gaps as gap
from onnxprune.encodings import words
from onnxprune.encodings.base import Builder, Encoding, Parts, Sparse, index_type


class Flat(Encoding):
    """Gaps between the kept entries of the flattened tensor, apart from the values or with their codes."""

    name = "flat"
    opset = 11

    def least(self, sparse: Sparse) -> int:
        """See `Encoding.least`."""
        kept = len(sparse.positions)
        if sparse.book is None:
            return kept + words.values_bytes(sparse, kept)
        return words.layout_for(len(sparse.book) * 2, kept).nbytes(kept)

    def payload(self, sparse: Sparse) -> int:
        """See `Encoding.payload`."""
        return _plan(sparse)[2]

    def pack(self, sparse: Sparse) -> Parts:
        """See `Encoding.pack`."""
        distances, joint, _ = _plan(sparse)
        if joint is not None and sparse.book is not None:
            runs, codes = gap.to_gaps(distances, sparse.values, sparse.fill_stored, joint.cap)
            return gap.pack(runs, codes, joint, sparse.book)
        runs, values = gap.to_gaps(distances, sparse.values, sparse.fill_stored)
        return {"gaps": runs} | words.pack_values(sparse, values)

    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Encoding.unpack`."""
        if "symbols" in parts:
            runs, values = gap.unpack(parts)
            return np.cumsum(runs), values
        at = np.cumsum(parts["gaps"], dtype=np.int64)
        return at, words.unpack_values(parts).reshape(-1)[: len(at)]

    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill: Array) -> str:
        """See `Encoding.emit`."""
        size = int(np.prod(shape, dtype=np.int64))
        axis = build.constant("axis", np.int32(0))
        if "symbols" in parts:
            steps, values = gap.emit(build, parts, [-1])
            if size >= 2**31:
                steps = build.op("Cast", [steps], to=index_type(size)[0])
        else:
            steps = build.op("Cast", [build.constant("gaps", parts["gaps"])], to=index_type(size)[0])
            values = words.emit_values(build, parts, parts["gaps"].shape, "run")
        indices = build.op("CumSum", [steps, axis])
        dense = build.scatter(build.zeros([size], fill), indices, values, 0)
        return build.reshape(dense, shape)


def _plan(sparse: Sparse) -> tuple[Array, gap.Joint | None, int]:
    """The distances, how codes join the gaps where that takes fewer bytes, and the bytes."""
    distances = np.diff(sparse.positions, prepend=0)
    entries = len(distances) + int(gap.fillers(distances).sum())
    apart = entries + words.values_bytes(sparse, entries)
    if sparse.book is None:
        return distances, None, apart
    joint = gap.joint_for(distances, len(sparse.book))
    together = joint.nbytes + sparse.book.nbytes
    return (distances, joint, together) if together <= apart else (distances, None, apart)
