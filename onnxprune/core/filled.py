"""Arrays that are filled piece by piece: small ones in memory, large ones in a file without a name."""

from __future__ import annotations

import contextlib
import copy
import math
import mmap
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.files import Handle, require, unnamed
from onnxprune.errors import OutputError

IN_MEMORY = 256 << 20  # bytes of an array up to which memory holds it
_WINDOW = 1 << 24  # bytes of the file that are mapped at once to be written

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextlib.contextmanager
def beside(folder: Path | None) -> Iterator[None]:
    """Let the files lie in a folder; None is the system's own for such files."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


class FilledArray:
    """An array of at least one axis whose entries are set some rows, or some columns of all rows, at a time.

    A file is mapped only while it is written or looked at, so that resident memory holds what is being worked on.

    Args:
        shape: of the array.
        dtype: of its elements.

    Raises:
        OutputError: there is no room for the file.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row = math.prod(shape[1:]) * self.dtype.itemsize
        size = shape[0] * self._row
        self._held = np.empty(shape, self.dtype) if size <= IN_MEMORY else None
        self._file = _file_of(size) if self._held is None else None

    def put(self, rows: RowRange, columns: slice, part: Array) -> None:
        """Set some rows of the first axis, and of the second axis the columns that the slice names.

        Raises:
            ValueError: the part has another shape.
        """
        if self._held is not None:
            _set(self._held[slice(*rows)], columns, part)
            return
        for start, stop in ranges(*rows, max(1, _WINDOW // max(1, self._row))):
            _set(self._window(start, stop, mmap.ACCESS_WRITE), columns, part[start - rows[0] : stop - rows[0]])

    def chunked(self, shape: tuple[int, ...] | None = None) -> ChunkedArray:
        """What was set, to be read, in another shape where one is given."""
        if self._held is not None:
            return ChunkedArray.of(self._held if shape is None else self._held.reshape(shape))
        if shape is not None and shape != self.shape:
            return self._reshaped(shape).chunked()
        return ChunkedArray.rowwise(self.shape, self.dtype, lambda start, stop: self._window(start, stop))

    def _reshaped(self, shape: tuple[int, ...]) -> FilledArray:
        """The same file in another shape."""
        twin = copy.copy(self)
        twin.shape, twin._row = shape, math.prod(shape[1:]) * self.dtype.itemsize
        return twin

    def _window(self, start: int, stop: int, access: int = mmap.ACCESS_READ) -> Array:
        """Some rows of the file, mapped until they are let go."""
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        assert self._file is not None
        first = start * self._row
        before = first % mmap.ALLOCATIONGRANULARITY
        length = before + (stop - start) * self._row
        mapped = mmap.mmap(self._file.descriptor, length, access=access, offset=first - before)
        return np.frombuffer(mapped, np.uint8)[before:].view(self.dtype).reshape(stop - start, *self.shape[1:])


def filled(chunked: ChunkedArray) -> ChunkedArray:
    """The same entries, computed once."""
    held = FilledArray(chunked.shape, chunked.dtype)
    deque(chunked.each(lambda rows, part: held.put(rows, EVERY, part)), 0)
    return held.chunked()


def _set(rows: Array, columns: slice, part: Array) -> None:
    target = rows if columns == EVERY else rows[:, columns]
    if target.shape != part.shape:  # which would be broadcast
        raise ValueError(f"a part of shape {part.shape} does not fit into {target.shape}")
    target[...] = part


def _file_of(size: int) -> Handle:
    """A file of so many bytes whose room is taken: a full disk ends a process that writes to a mapped file."""
    folder = _folder.get()
    try:
        require(Path(folder or tempfile.gettempdir()) / "scratch file", size)
        file = unnamed(folder)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.descriptor, 0, size)
        else:
            os.truncate(file.descriptor, size)
    except OSError as error:
        raise OutputError(f"cannot keep {size:,} bytes in a scratch file: {error.strerror or error}") from error
    return file
