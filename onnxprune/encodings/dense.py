"""dense: every value where it is. Exact, it is a plain initializer; with half values a Cast follows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.dtypes import Array
from onnxprune.encodings.base import Builder, Encoding, Parts, Sparse


class Dense(Encoding):
    """All values, in shape."""

    name = "dense"
    opset = 1

    def payload(self, sparse: Sparse, itemsize: int) -> int:
        """See `Encoding.payload`."""
        return sparse.size * itemsize

    def pack(self, sparse: Sparse) -> tuple[Parts, Array]:
        """See `Encoding.pack`."""
        return {}, sparse.expand()

    def unpack(self, parts: Mapping[str, Array], values: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Encoding.unpack`."""
        return np.arange(values.size), values.reshape(-1)

    def emit(self, build: Builder, parts: Parts, values: str, shape: tuple[int, ...], fill: Array) -> None:
        """See `Encoding.emit`: the node that restores the values has done it all."""
