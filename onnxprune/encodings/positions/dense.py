"""dense: every value where it is. Exact, a plain initializer; with a codebook the zero has a code like any other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.core.dtypes import Array, packed_bytes
from onnxprune.core.override import override
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.positions import digits
from onnxprune.encodings.positions.base import Encoding
from onnxprune.encodings.sparse import Sparse


class Dense(Encoding):
    """All values, in shape."""

    name = "dense"
    opset = 1

    @override
    def payload(self, sparse: Sparse) -> int:
        if sparse.packed is not None:
            return packed_bytes(sparse.packed, sparse.size)
        return digits.values_bytes(sparse, sparse.size)

    @override
    def largest(self, sparse: Sparse) -> int:
        if sparse.codebook is None or sparse.packed is not None:
            return 0
        return digits.layout_for(len(sparse.codebook), sparse.size).unpacked(sparse.size)

    @override
    def made(self, sparse: Sparse) -> int:
        return digits.made(sparse, sparse.size) if sparse.packed is None else 0

    @override
    def pack(self, sparse: Sparse) -> Parts:
        if sparse.packed is not None and sparse.codebook is not None:
            values = sparse.codebook.astype(sparse.packed)
            return {"values": np.concatenate(list(sparse.carrier.each(lambda _, part: values[part])))}
        return digits.pack_values(sparse, sparse.carrier.each(lambda _, part: part), sparse.size)

    @override
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
        values = digits.unpack_values(parts).reshape(-1)
        size = int(np.prod(shape, dtype=np.int64))
        if not size <= values.size < size + (parts["powers"].size if "powers" in parts else 1):
            raise ValueError(f"it holds {values.size} values for the shape {shape}")
        return np.arange(size), values[:size]

    @override
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill_value: Array) -> str:
        return digits.emit_values(build, parts, shape)
