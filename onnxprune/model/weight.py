"""Weight: a constant of the model, what its consumers make of it, and the reason to leave it alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from onnx import SparseTensorProto, TensorProto

from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, part_of, ranges
from onnxprune.core.dtypes import Array, array_dtype, name_of
from onnxprune.core.filled import FilledArray, beside
from onnxprune.core.scattered import PIECE, slabs
from onnxprune.errors import ModelError, WeightError
from onnxprune.model.model import Model, copy_notes
from onnxprune.model.operators import OPERAND
from onnxprune.model.scopes import CONSTANT_NODE, Scope

SMALL = 256  # elements; below this, what a mask saves is less than what it costs
Store = Literal["initializer", "constant", "sparse"]


class Kind(Enum):
    """Why a weight is left alone.

    The model says the first five, passes the others. Of TYPE and QUANTIZATION no option prunes a weight; a weight that
    is left alone for another reason is pruned if it is named in full.
    """

    UNUSED = auto()  # nothing reads it
    ROLE = auto()  # a bias, a norm, an embedding, an operand: not, or not only, the weight of a linear layer
    SMALL = auto()  # a mask saves less than it costs
    TYPE = auto()  # numpy does not compute with its type
    QUANTIZATION = auto()  # its zero point is unknown or does not fit
    SKIPPED = auto()  # an option says so
    NO_RULE = auto()  # no option says how to prune it
    AXES = auto()  # a pattern needs output and input axes
    ENCODED = auto()  # its values are encoded
    DENSE = auto()  # nothing but a dense tensor may stand in its place
    NOT_FOUND = auto()  # no parameter of a checkpoint holds its values
    UNMATCHED = auto()  # which parameter of a checkpoint it is cannot be told


@dataclass(frozen=True)
class Reason:
    """Why a weight is left alone.

    Attributes:
        kind: for the code.
        text: for the user, half a sentence about the weight: "is small: 96 elements, fewer than 256".
        label: for counts ("12 small"); the text where it is empty.
    """

    kind: Kind
    text: str
    label: str = ""

    def __str__(self) -> str:
        """The text."""
        return self.text


@dataclass
class Weight:
    """A constant tensor of the model with what its consumers make of it.

    Attributes:
        name: unique in the model; a tensor in a body carries the path to it.
        kind: conv, gemm, matmul, lstm ..., or what else it is (bias, norm, embedding ...).
        linear: whether a layer multiplies with it.
        out_axis, in_axes: the axes of its own shape along which outputs and inputs lie, where known.
        consumers: the nodes that read it, behind Identity, Cast, Transpose and QDQ.
        reason: why it is left alone unless it is named in full; None for what is pruned by default.
        overridable: a caller may pass another value for it, so it has to stay a plain initializer.
        scale, zero: the quantisation of an integer weight, in shapes that broadcast over it.
    """

    name: str
    value: str
    scope: Scope
    store: Store
    tensor: TensorProto | SparseTensorProto
    shape: tuple[int, ...]
    element: int
    kind: str = "unknown"
    linear: bool = False
    out_axis: int | None = None
    in_axes: tuple[int, ...] = ()
    consumers: tuple[str, ...] = ()
    reason: Reason | None = None
    overridable: bool = False
    scale: Array | None = None
    zero: Array | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> str:
        """Element type in the field's words."""
        return name_of(self.element)

    @property
    def prunable(self) -> bool:
        """Whether options can have it pruned: its zeros can be told from other values."""
        return self.reason is None or self.reason.kind not in (Kind.TYPE, Kind.QUANTIZATION)

    @property
    def is_operand(self) -> bool:
        """Whether an operator without weights reads it first: a constant of the computation, such as an epsilon."""
        return self.kind.endswith(OPERAND)

    def array(self, model: Model) -> Array:
        """The dense values; a sparse initializer is expanded.

        Raises:
            ModelError: the bytes do not fit the shape, or indices and values do not fit each other.
        """
        return model.array(self.tensor) if isinstance(self.tensor, TensorProto) else self.chunked(model).whole()

    def set_array(self, model: Model, array: Array | ChunkedArray) -> None:
        """Give it new values of the same shape, see `Model.replace`; a sparse initializer becomes a dense one."""
        if isinstance(self.tensor, SparseTensorProto):
            body = self.scope.body
            dense = model.tensor(self.value, array, self.element)
            copy_notes(self.tensor.values, dense)
            model.drop(self.tensor.values)
            model.drop(self.tensor.indices)
            body.sparse_initializer.remove(self.tensor)
            body.initializer.append(dense)
            self.tensor, self.store = body.initializer[-1], "initializer"
        else:
            model.replace(self.tensor, array)

    def nbytes(self, model: Model) -> int:
        """Bytes that it takes in the file."""
        if isinstance(self.tensor, TensorProto):
            around = CONSTANT_NODE + len(self.value) if self.store == "constant" else 0
            return model.nbytes(self.tensor) + around
        return model.nbytes(self.tensor.values) + model.nbytes(self.tensor.indices)

    @property
    def zero_value(self) -> Array:
        """What a pruned entry holds, in the weight's own type: 0, or the zero point (broadcastable)."""
        dtype = array_dtype(self.element)
        return np.zeros((), dtype) if self.zero is None else self.zero.astype(dtype)

    def chunked(self, model: Model) -> ChunkedArray:
        """The dense values to be read in chunks; see `array`."""
        if isinstance(self.tensor, TensorProto):
            return model.chunked(self.tensor)
        values, indices = model.chunked(self.tensor.values), model.chunked(self.tensor.indices)
        try:
            with beside(model.payloads.scratch):
                return _expanded(indices, values, self.shape)
        except (ValueError, IndexError, TypeError, MemoryError) as error:
            raise ModelError(f"the sparse initializer '{self.name}' is damaged: {error}") from error

    def zeros(self, array: Array | ChunkedArray) -> int:
        """How many entries are zero (or the zero point)."""
        return sum(ChunkedArray.of(array).each(lambda rows, part: self.zeros_of(part, rows)))

    def zeros_of(self, part: Array, rows: RowRange) -> int:
        """`zeros` among some rows."""
        if self.zero is None:
            return int(part.size - np.count_nonzero(part != 0))  # four times as fast as to count floats
        return int(np.count_nonzero(part == part_of(self.zero_value, rows)))


def ways(weights: Sequence[Weight]) -> list[list[int]]:
    """Which of the weights may run together, by their numbers: all but those in other branches of an If.

    Whatever a run of the model reads is in one of the ways, and every weight is in one.
    """
    found: list[set[int]] = []
    for weight in weights:
        rivals = [body for branch, bodies in weight.scope.branches() for body in bodies if body is not branch]
        never = {id(scope) for body in rivals for scope in body.inner()}
        found.append({number for number, other in enumerate(weights) if id(other.scope) not in never})
    least = [way for way in found if not any(other < way for other in found)]
    return [sorted(way) for number, way in enumerate(least) if way not in least[:number]]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a weight: in full, or as a glob."""
    return name == pattern or fnmatchcase(name, pattern)


def check_patterns(weights: Sequence[Weight], patterns: Iterable[str]) -> None:
    """Refuse patterns that no weight matches.

    Raises:
        WeightError: with the first of them.
    """
    for pattern in patterns:
        if not any(matches(w.name, pattern) for w in weights):
            raise WeightError(f"no weight matches '{pattern}'; `onnxprune inspect` lists the names")


def _expanded(indices: ChunkedArray, values: ChunkedArray, shape: tuple[int, ...]) -> ChunkedArray:
    """The dense values of a sparse initializer.

    Args:
        indices: int64 [entries], of the flattened tensor, or [entries, rank].
        values: [entries].
        shape: of the tensor.

    Raises:
        ValueError: they do not fit each other.
    """

    def flat(start: int, stop: int) -> Array:
        part = indices.read(start, stop, EVERY)
        return np.ravel_multi_index(tuple(part.T), shape) if part.ndim == 2 else part

    count = indices.shape[0]
    if values.shape != (count,):
        raise ValueError(f"values of shape {values.shape} stand for {count} indices")
    pieces: Iterable[tuple[Array, Array]]
    pieces = ((flat(*part), values.read(*part, EVERY)) for part in ranges(0, count, PIECE))
    if any((np.diff(flat(start, min(stop + 1, count))) < 0).any() for start, stop in ranges(0, count, PIECE)):
        at = flat(0, count)
        order = np.argsort(at, kind="stable")
        pieces = [(at[order], values.whole()[order])]
    dense, rows = FilledArray(shape, values.dtype), ChunkedArray.rows_of(shape)
    for part, slab in zip(rows, slabs(pieces, shape, rows, np.zeros(1, values.dtype)), strict=True):
        dense.put(part, EVERY, slab)
    return dense.chunked()
