"""flat: one run of gaps over the whole tensor: CumSum -> ScatterElements -> Reshape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.dtypes import Array
from onnxprune.encodings.base import Builder, Encoding, Parts, Sparse, index_type
from onnxprune.encodings.gaps import fillers, to_gaps


class Flat(Encoding):
    """Gaps between the kept entries of the flattened tensor."""

    name = "flat"
    opset = 11

    def least(self, sparse: Sparse, itemsize: int) -> int:
        """See `Encoding.least`."""
        return len(sparse.positions) * (1 + itemsize)

    def payload(self, sparse: Sparse, itemsize: int) -> int:
        """See `Encoding.payload`."""
        distances = np.diff(sparse.positions, prepend=0)
        return (len(distances) + int(fillers(distances).sum())) * (1 + itemsize)

    def pack(self, sparse: Sparse) -> tuple[Parts, Array]:
        """See `Encoding.pack`."""
        gaps, values = to_gaps(np.diff(sparse.positions, prepend=0), sparse.values, sparse.fill)
        return {"gaps": gaps}, values

    def unpack(self, parts: Mapping[str, Array], values: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Encoding.unpack`."""
        return np.cumsum(parts["gaps"], dtype=np.int64), values

    def emit(self, build: Builder, parts: Parts, values: str, shape: tuple[int, ...], fill: Array) -> None:
        """See `Encoding.emit`."""
        size = int(np.prod(shape, dtype=np.int64))
        element, _ = index_type(size)
        steps = build.op("Cast", [build.constant("gaps", parts["gaps"])], to=element)
        indices = build.op("CumSum", [steps, build.constant("axis", np.int32(0))])
        build.reshape(build.scatter(build.zeros([size], fill), indices, values, 0), shape)
