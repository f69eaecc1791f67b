"""Sparse: a weight as the positions and values of what it keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from onnx import TensorProto

from onnxprune.core.chunked import ChunkedArray, RowRange
from onnxprune.core.dtypes import Array, bits_of

Made = TypeVar("Made")


@dataclass(frozen=True)
class SparseChunk:
    """The kept entries of one chunk.

    Attributes:
        rows: the chunk.
        start: flat index of its first entry.
        positions: ascending, counted from there.
        values: the entries themselves.
    """

    rows: RowRange
    start: int
    positions: Array
    values: Array


@dataclass(frozen=True)
class Sparse:
    """A tensor as its kept entries, which are looked up chunk by chunk: a large tensor's never lie side by side.

    Attributes:
        carrier: the dense tensor, of codes where there is a codebook.
        fill_value: the scalar that every entry holds that is not kept.
        kept: how many are; at least one is.
        codebook: the value of each code, its first one the fill; None where values are themselves.
        alone: whether every entry is the fill_value: the first one is kept all the same.
        chunks: the kept entries of a tensor that is a single chunk; empty for others.
        packed: the type of less than a byte in which the values of the codebook are read where all entries are stored.
        whole: the tensor that it is some rows of, see `within`.
    """

    carrier: ChunkedArray
    fill_value: Array
    kept: int
    codebook: Array | None = None
    alone: bool = False
    chunks: Sequence[SparseChunk] = ()
    packed: np.dtype | None = None
    whole: Sparse | None = None

    @classmethod
    def of(
        cls, array: Array | ChunkedArray, fill_value: Array, codebook: Array | None = None,
        packed: np.dtype | None = None,
    ) -> Sparse:  # fmt: skip
        """The kept entries of a dense tensor, of codes where there is a codebook: code 0 is not kept.

        Entries are compared bit for bit, so that -0.0 and NaN payloads come back as they were.
        """
        carrier = ChunkedArray.of(array)
        held = cls(carrier, fill_value, 0, codebook, packed=packed)
        kept = sum(carrier.each(lambda _, part: int(np.count_nonzero(held._mask(part)))))
        sparse = replace(held, kept=max(kept, 1), alone=not kept)
        return replace(sparse, chunks=list(sparse.each(lambda chunk: chunk))) if len(carrier.rows) == 1 else sparse

    def within(self, rows: RowRange) -> Sparse:
        """The tensor of some rows of the first axis."""
        carrier, first = self.carrier, rows[0]

        def read(start: int, stop: int, columns: slice) -> Array:
            return carrier.read(first + start, first + stop, columns)

        part = replace(carrier, shape=(rows[1] - first, *carrier.shape[1:]), read=read)
        return replace(Sparse.of(part, self.fill_value, self.codebook, self.packed), whole=self.whole or self)

    def _mask(self, part: Array) -> Array:
        zero = 0 if self.codebook is not None else bits_of(self.fill_value.reshape(1))[0]
        return bits_of(np.ascontiguousarray(part).reshape(-1)) != zero

    def each(self, work: Callable[[SparseChunk], Made]) -> Iterator[Made]:
        """What `work` makes of the kept entries of each chunk, in order."""

        def found(rows: RowRange, part: Array) -> Made:
            flat = np.ascontiguousarray(part).reshape(-1)
            positions = np.flatnonzero(self._mask(flat))
            if self.alone and not rows[0]:
                positions = np.zeros(1, np.int64)
            values = flat[positions]
            positions = positions.astype(index_type(flat.size)[1], copy=False)
            return work(SparseChunk(rows, rows[0] * self.carrier.row, positions, values))

        return map(work, self.chunks) if self.chunks else self.carrier.each(found)

    @cached_property
    def counts(self) -> Array:
        """[codes], how many entries have each code of the codebook."""
        assert self.codebook is not None
        codes = len(self.codebook)
        counts = np.zeros(codes, np.int64)
        for more in self.carrier.each(lambda _, part: np.bincount(part.reshape(-1), minlength=codes)):
            counts += more
        return counts

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.carrier.shape

    @property
    def size(self) -> int:
        """Number of entries, kept or not."""
        return self.carrier.size

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, decoded."""
        return self.size * (self.carrier.dtype if self.codebook is None else self.codebook.dtype).itemsize

    def zeros(self) -> int:
        """How many entries equal the fill by value."""
        return sum(self.carrier.each(lambda _, part: int(np.count_nonzero(part == self.fill_stored))))

    def keeps_nothing_of(self, axes: Sequence[int]) -> bool:
        """Whether some slice across one of the axes has no kept entry."""
        seen = [np.zeros(self.shape[axis], bool) for axis in axes]

        def look(rows: RowRange, part: Array) -> None:
            mask = self._mask(part).reshape(part.shape)
            for axis, found in zip(axes, seen, strict=True):
                some = mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))
                found[slice(*rows) if axis == 0 else slice(None)] |= some

        deque(self.carrier.each(look), 0)
        return not all(found.all() for found in seen)

    @property
    def positions(self) -> Array:
        """All flat indices of the kept entries."""
        kind = index_type(self.size)[1]
        return np.concatenate(list(self.each(lambda chunk: chunk.start + chunk.positions.astype(kind))))

    @property
    def values(self) -> Array:
        """All kept entries."""
        return np.concatenate(list(self.each(lambda chunk: chunk.values)))

    @property
    def fill_stored(self) -> Array:
        """What stands for the fill among the values: itself, or code 0."""
        return self.fill_value if self.codebook is None else np.zeros((), self.carrier.dtype)


def index_type(size: int) -> tuple[int, type]:
    """The element type for indices below `size`, for ONNX and for numpy."""
    return (TensorProto.INT32, np.int32) if size < 2**31 else (TensorProto.INT64, np.int64)
