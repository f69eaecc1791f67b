"""What an encoding is: positions and values packed into small arrays, and standard nodes that unpack them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.core.chunked import Rows, Slabs
from onnxprune.core.dtypes import Array, bits_of

Parts = dict[str, Array]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """The kept entries of one slab.

    Attributes:
        rows: the slab.
        start: flat index of its first entry.
        positions: ascending, counted from there.
        values: the entries themselves.
    """

    rows: Rows
    start: int
    positions: Array
    values: Array


@dataclass(frozen=True)
class Sparse:
    """A tensor as its kept entries, which are looked up slab by slab: a large tensor's never lie side by side.

    Attributes:
        carrier: the dense tensor, of codes where there is a book.
        fill: the scalar that every entry holds that is not kept.
        kept: how many are; at least one is.
        book: the value of each code, its first one the fill; None where values are themselves.
        alone: whether every entry is the fill: the first one is kept all the same.
        runs: the kept entries of a tensor that is a single slab.
    """

    carrier: Slabs
    fill: Array
    kept: int
    book: Array | None = None
    alone: bool = False
    runs: Sequence[Run] = ()

    @classmethod
    def of(cls, array: Array | Slabs, fill: Array, book: Array | None = None) -> Sparse:
        """The kept entries of a dense tensor, of codes where there is a book: code 0 is not kept.

        Entries are compared bit for bit, so that -0.0 and NaN payloads come back as they were.
        """
        carrier = Slabs.of(array)
        held = cls(carrier, fill, 0, book)
        kept = sum(carrier.each(lambda _, part: int(np.count_nonzero(held._mask(part)))))
        sparse = replace(held, kept=max(kept, 1), alone=not kept)
        return replace(sparse, runs=list(sparse.each(lambda run: run))) if len(carrier.rows) == 1 else sparse

    def _mask(self, part: Array) -> Array:
        zero = 0 if self.book is not None else bits_of(self.fill.reshape(1))[0]
        return bits_of(np.ascontiguousarray(part).reshape(-1)) != zero

    def each(self, work: Callable[[Run], Made]) -> Iterator[Made]:
        """What `work` makes of the kept entries of each slab, in order."""

        def found(rows: Rows, part: Array) -> Made:
            flat = np.ascontiguousarray(part).reshape(-1)
            positions = np.flatnonzero(self._mask(flat))
            if self.alone and not rows[0]:
                positions = np.zeros(1, np.int64)
            values = flat[positions]
            positions = positions.astype(index_type(flat.size)[1], copy=False)
            return work(Run(rows, rows[0] * self.carrier.row, positions, values))

        return map(work, self.runs) if self.runs else self.carrier.each(found)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.carrier.shape

    @property
    def size(self) -> int:
        """Number of entries, kept or not."""
        return self.carrier.size

    def zeros(self) -> int:
        """How many entries equal the fill by value."""
        return sum(self.carrier.each(lambda _, part: int(np.count_nonzero(part == self.fill_stored))))

    @property
    def positions(self) -> Array:
        """All flat indices of the kept entries."""
        kind = index_type(self.size)[1]
        return np.concatenate(list(self.each(lambda run: run.start + run.positions.astype(kind))))

    @property
    def values(self) -> Array:
        """All kept entries."""
        return np.concatenate(list(self.each(lambda run: run.values)))

    @property
    def fill_stored(self) -> Array:
        """What stands for the fill among the values: itself, or code 0."""
        return self.fill if self.book is None else np.zeros((), self.carrier.dtype)


@dataclass
class Builder:
    """Collects the nodes and constants that decode one weight.

    Every name that it makes begins with `prefix`; the last node writes `output` and carries `mark`
    as its name, which is how `decode` finds the group again.
    """

    prefix: str
    output: str
    mark: str
    opset: int
    constants: Parts = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    declared: list[ValueInfoProto] = field(default_factory=list)

    def constant(self, name: str, array: Array | np.generic | Sequence[int]) -> str:
        """A stored array; the same name stands for the same array."""
        made = np.asarray(array)
        kept = self.constants.setdefault(self.prefix + name, made)
        assert kept is made or (kept.dtype == made.dtype and np.array_equal(kept, made)), name
        return self.prefix + name

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output."""
        name = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def declare(self, value: str, element: int, shape: Sequence[int]) -> None:
        """State a shape that inference cannot know: ONNX Runtime from 1.27 on folds no node whose size is unknown."""
        self.declared.append(helper.make_tensor_value_info(value, element, shape))

    def zeros(self, shape: Sequence[int], fill: Array) -> str:
        """A dense tensor of `fill`."""
        fill = fill.reshape(1)
        default = fill.dtype == np.float32 and bits_of(fill)[0] == 0
        extra = {} if default else {"value": numpy_helper.from_array(fill)}
        return self.op("ConstantOfShape", [self.constant("size", np.array(shape, np.int64))], **extra)

    def scatter(self, into: str, indices: str, values: str, axis: int) -> str:
        """Write values at indices along an axis."""
        kind = "ScatterElements" if self.opset >= SCATTER_ELEMENTS else "Scatter"
        return self.op(kind, [into, indices, values], **({"axis": axis} if axis else {}))

    def reshape(self, value: str, shape: Sequence[int], name: str = "shape") -> str:
        """The same entries in another shape."""
        return self.op("Reshape", [value, self.constant(name, np.array(shape, np.int64))])

    def finish(self) -> None:
        """Let the last node write the weight."""
        self.nodes[-1].output[0] = self.output
        self.nodes[-1].name = self.mark


SCATTER_ELEMENTS = 11  # the opset that renamed Scatter


class Encoding(ABC):
    """One way to store the positions and the values of a sparse tensor.

    `pack` and `unpack` are numpy and inverse to each other; `emit` writes the nodes that do what
    `unpack` does inside ONNX Runtime, from the same parts.
    """

    name: ClassVar[str]
    opset: ClassVar[int]  # the lowest opset whose operators it needs
    declares: ClassVar[bool] = False  # needs `Builder.declare`, which has no effect inside a function

    @abstractmethod
    def payload(self, sparse: Sparse) -> int:
        """Bytes of the packed arrays, without packing."""

    def least(self, sparse: Sparse) -> int:
        """A bound below `payload` that costs no pass over the positions."""
        return self.payload(sparse)

    @abstractmethod
    def pack(self, sparse: Sparse) -> Parts:
        """Every stored array by name."""

    @abstractmethod
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
        """(flat positions, values) to write over a tensor of the fill value."""

    @abstractmethod
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill: Array) -> str:
        """The nodes that decode `parts`; returns the name of the dense tensor."""


def index_type(size: int) -> tuple[int, type]:
    """The element type for indices below `size`, for ONNX and for numpy."""
    return (TensorProto.INT32, np.int32) if size < 2**31 else (TensorProto.INT64, np.int64)
