"""What an encoding is: positions and values packed into small arrays, and standard nodes that unpack them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.scattered import PIECE
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.sparse import Sparse


def pieces_of(array: Array) -> Iterator[Array]:
    """An array of one axis in such pieces."""
    return (array[start:stop] for start, stop in ranges(0, len(array), PIECE))


class Packing(ABC):
    """Arrays that hold a tensor: `pack` and `unpack` are numpy and inverse to each other."""

    name: ClassVar[str]
    opset: ClassVar[int]  # the lowest opset whose operators its nodes need

    @abstractmethod
    def payload(self, sparse: Sparse) -> int:
        """Bytes of the packed arrays, without packing."""

    @abstractmethod
    def pack(self, sparse: Sparse) -> Parts:
        """Every stored array by name."""

    @abstractmethod
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        """Pieces (flat positions, values) to write over a tensor of the fill value; positions never descend.

        Raises:
            ValueError: the parts do not fit the shape.
        """


class Encoding(Packing):
    """One way to store the positions and the values of a sparse tensor.

    `emit` writes the nodes that do what `unpack` does inside ONNX Runtime, from the same parts.
    """

    declares: ClassVar[bool] = False  # needs `Builder.declare`, which has no effect inside a function

    def fits(self, codebook: Array | None) -> bool:
        """Whether it stores a tensor of such codes; None: of values. Here any."""
        return True

    def least(self, sparse: Sparse) -> int:
        """A bound below `payload` that costs no pass over the positions."""
        return self.payload(sparse)

    def largest(self, sparse: Sparse) -> int:
        """Bytes of the largest tensor that its nodes make on the way to the carrier; here an int64 for each entry."""
        return 8 * sparse.size

    def made(self, sparse: Sparse) -> int:
        """Bytes of all tensors that its nodes make, about: ONNX Runtime holds each until all of them are folded."""
        return 6 * self.largest(sparse) + 3 * sparse.nbytes

    @abstractmethod
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill_value: Array) -> str:
        """Make the nodes that decode.

        Args:
            build: where nodes and constants go.
            parts: what `pack` returned.
            shape: of the tensor.
            fill_value: the scalar of all entries that are not kept.

        Returns:
            The name of the dense tensor.
        """
