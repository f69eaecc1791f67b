"""dense: every value where it is. Exact, a plain initializer; with a codebook the zero has a code like any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array, packed_bytes
from onnxprune.core.override import override
from onnxprune.core.scattered import PIECE
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
        parts = sparse.carrier.each(lambda _, part: part)
        return digits.pack_values(sparse, parts, sparse.size if sparse.codebook is not None else sparse.shape[0])

    @override
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        size = int(np.prod(shape, dtype=np.int64))
        held = digits.count_of(parts, "codes" if "book" in parts else "values")
        if not size <= held < size + (parts["powers"].size if "powers" in parts else 1):
            raise ValueError(f"it holds {held} values for the shape {shape}")
        for start, stop in ranges(0, size, PIECE):
            yield np.arange(start, stop), digits.unpack_values(parts, start, stop)

    @override
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill_value: Array) -> str:
        return digits.emit_values(build, parts, shape)
