"""Chunks: a tensor that is read a few rows at a time, so that a weight larger than memory is worked on. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from onnxprune.core import threads

Array = np.ndarray
Made = TypeVar("Made")
RowRange = tuple[int, int]

EVERY = slice(None)
UNIT_ELEMENTS = 1 << 18  # elements whose temporaries stay near the core
CHUNK_ELEMENTS = 1 << 22  # elements: small enough for several in flight, large enough that Python's share is nothing
_SEGMENT = 512  # columns: what a block of columns reads of each row is half a page at the least
_BITS = 8


@dataclass(frozen=True)
class ChunkedArray:
    """A tensor of at least one axis.

    Attributes:
        shape: of the tensor.
        dtype: of its elements.
        read: (first row, row after the last, columns) -> these rows of the first axis, and of the second axis
            the columns that the slice names.
        computed: whether reading takes more than looking.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int, slice], Array]
    computed: bool = False

    @classmethod
    def of(cls, array: Array | ChunkedArray) -> ChunkedArray:
        """An array's own chunks."""
        if isinstance(array, ChunkedArray):
            return array
        held = array if array.ndim else array.reshape(1)
        return cls.rowwise(held.shape, held.dtype, lambda start, stop: held[start:stop])

    @classmethod
    def rowwise(cls, shape: tuple[int, ...], dtype: np.dtype, rows: Callable[[int, int], Array]) -> ChunkedArray:
        """Chunks of what yields whole rows, at no cost for what is not looked at."""
        return cls(shape, dtype, lambda start, stop, columns: picked(rows(start, stop), columns))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape[1:])

    @property
    def unit(self) -> int:
        """Rows that are worked on at once; sums of floats are taken over these, so that no chunk's size shows."""
        return ChunkedArray.unit_of(self.row)

    @staticmethod
    def unit_of(row: int) -> int:
        """How many rows of so many elements a unit has."""
        return -(-max(1, UNIT_ELEMENTS // max(1, row)) // _BITS) * _BITS

    @property
    def rows(self) -> list[RowRange]:
        """The chunks, of whole units: about `CHUNK_ELEMENTS` elements each."""
        return ChunkedArray.rows_of(self.shape)

    @staticmethod
    def rows_of(shape: tuple[int, ...]) -> list[RowRange]:
        """The chunks of a tensor of a shape."""
        row = math.prod(shape[1:])
        unit = ChunkedArray.unit_of(row)
        return ranges(0, shape[0], max(1, CHUNK_ELEMENTS // max(1, row * unit)) * unit)

    def each(self, work: Callable[[RowRange, Array], Made]) -> Iterator[Made]:
        """What `work` makes of each chunk and its rows, in order."""
        return threads.run(lambda rows: work(rows, self.read(*rows, EVERY)), self.rows)

    def map(self, dtype: np.dtype | type, change: Callable[[RowRange, slice, Array], Array]) -> ChunkedArray:
        """What `change` makes of the entries, in the same shape, whenever they are read."""
        return ChunkedArray(
            self.shape,
            np.dtype(dtype),
            lambda start, stop, columns: change((start, stop), columns, self.read(start, stop, columns)),
            computed=True,
        )

    def whole(self) -> Array:
        """All of it."""
        if not self.computed:
            return self.read(0, self.shape[0], EVERY)
        out = np.empty(self.shape, self.dtype)

        def fill(rows: RowRange, part: Array) -> None:
            out[slice(*rows)] = part

        for _ in self.each(fill):
            pass
        return out

    @property
    def columns(self) -> list[RowRange]:
        """Blocks of columns of a matrix, for what needs whole ones, in units as the rows of its transpose."""
        unit = ChunkedArray.unit_of(self.shape[0])
        return ranges(0, self.shape[1], -(-max(_SEGMENT, CHUNK_ELEMENTS // max(1, self.shape[0])) // unit) * unit)

    def block(self, start: int, stop: int) -> Array:
        """Some columns, copied from one chunk after the other."""
        block = np.empty((self.shape[0], stop - start), self.dtype)
        for rows in self.rows:
            block[slice(*rows)] = self.read(*rows, slice(start, stop))
        return block


def picked(array: Array, columns: slice) -> Array:
    """Some columns: of the second axis where there is one."""
    return array if columns == EVERY else array[:, columns]


def part_of(scale: Array, rows: RowRange) -> Array:
    """What of something that broadcasts over the tensor belongs to some of its rows."""
    return scale[slice(*rows)] if scale.ndim and scale.shape[0] > 1 else scale


def ranges(start: int, stop: int, step: int) -> list[RowRange]:
    """Steps from start to stop."""
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]
