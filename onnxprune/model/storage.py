"""Payloads: the bytes of large tensors, wherever they lie: in files, in memory, or yet to be computed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from onnxprune.core.chunked import EVERY, ChunkedArray
from onnxprune.core.files import Handle, unnamed
from onnxprune.errors import ModelError, OutputError
from onnxprune.model import protobuf

RESIDENT = 256 << 20  # bytes of new payloads that stay in memory; what comes on top goes to a scratch file
PIECE = 1 << 24  # bytes that are read or written at once
_COPIED = 1 << 15  # bytes up to which reading takes less time than mapping


class Stored:
    """Bytes in a file, which are mapped only while somebody looks at them.

    Address space and resident memory thus hold what is being worked on, however large the file is.
    """

    def __init__(self, handle: Handle, offset: int, length: int) -> None:
        self.handle = handle
        self.offset = offset
        self._length = length

    def __len__(self) -> int:
        return self._length

    def view(self, start: int, stop: int) -> memoryview:
        """Some of the bytes: a copy of few, others mapped until the view is gone."""
        if start >= stop:
            return memoryview(b"")
        if stop - start <= _COPIED and hasattr(os, "pread"):
            data = os.pread(self.handle.descriptor, stop - start, self.offset + start)
            if len(data) == stop - start:  # else the file was cut: mapping says so
                return memoryview(data)
        first = self.offset + start
        before = first % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(
            self.handle.descriptor, before + stop - start, access=mmap.ACCESS_READ, offset=first - before
        )
        return memoryview(mapped)[before:]

    def pieces(self) -> Iterator[memoryview]:
        """The bytes, a piece at a time."""
        for start in range(0, self._length, PIECE):
            yield self.view(start, min(start + PIECE, self._length))


class Computed:
    """Bytes that are computed from other payloads whenever they are read: cheaper than to keep them in a file."""

    def __init__(self, chunked: ChunkedArray) -> None:
        self.chunked = chunked

    def __len__(self) -> int:
        return self.chunked.size * self.chunked.dtype.itemsize

    def pieces(self) -> Iterator[memoryview]:
        """The bytes, a piece at a time."""
        for rows in self.chunked.rows:
            yield bytes_of(self.chunked.read(*rows, EVERY))


Payload = bytes | memoryview | Stored | Computed


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array, which are copied only where they do not follow each other."""
    held = np.ascontiguousarray(array)
    return held.reshape(-1).view(np.uint8).data if held.size else memoryview(b"")


class Payloads:
    """Bytes by token.

    Attributes:
        scratch: the folder for new payloads that memory should not hold, or None for the system's own.
    """

    def __init__(self) -> None:
        self.scratch: Path | None = None
        self._held: dict[str, Payload] = {}
        self._handles: dict[Path, Handle] = {}
        self._files: dict[Path, mmap.mmap] = {}
        self._spilled: tuple[Handle, int] | None = None  # the scratch file and its length
        self._resident: dict[str, int] = {}  # bytes of new payloads that are in memory
        self._number = 0  # of the next token

    def copy(self) -> Payloads:
        """The same bytes under the same tokens: shared until one of the two drops or replaces them."""
        twin = Payloads()
        twin.scratch, twin._number = self.scratch, self._number
        twin._held, twin._handles, twin._files = dict(self._held), dict(self._handles), dict(self._files)
        twin._resident = dict(self._resident)
        return twin  # with a scratch file of its own: both would write at the same place

    def __getitem__(self, token: str) -> Payload:
        """The bytes of a token."""
        return self._held[token]

    def get(self, token: str) -> Payload | None:
        """The bytes of a token, or None."""
        return self._held.get(token)

    def keep(self, data: Payload) -> str:
        """Remember bytes that need no room; returns their token."""
        token = f"{protobuf.TOKEN}{self._number}"
        self._number += 1
        self._held[token] = data
        return token

    def keep_new(self, data: protobuf.Chunk) -> str:
        """Remember bytes that are new: in memory while there is room, then in a file."""
        if not self.room(len(data)):
            return self.keep(self._spill(data))
        token = self.keep(data)
        self._resident[token] = len(data)
        return token

    def room(self, size: int) -> bool:
        """Whether memory has room for so many new bytes."""
        return sum(self._resident.values()) + size <= RESIDENT

    def _spill(self, data: protobuf.Chunk) -> Stored:
        try:
            if self._spilled is None:
                self._spilled = unnamed(self.scratch), 0
            handle, at = self._spilled
            view = memoryview(data)
            os.lseek(handle.descriptor, at, os.SEEK_SET)
            written = 0
            while written < len(view):  # a call writes no more than 2 GB
                written += os.write(handle.descriptor, view[written : written + PIECE])
        except OSError as error:
            raise OutputError(f"cannot keep new tensors in a scratch file: {error.strerror or error}") from error
        self._spilled = handle, at + len(view)
        return Stored(handle, at, len(view))

    def drop(self, token: str) -> None:
        """Forget a token, if it is one."""
        for table in (self._held, self._resident):
            table.pop(token, None)

    def stored(self, file: Path, offset: int, length: int) -> Stored:
        """Bytes of a file.

        Raises:
            ModelError: the file is missing, empty, not a regular file or not readable.
        """
        if file not in self._handles:
            self._handles[file] = self._open(file)
        return Stored(self._handles[file], offset, length)

    @staticmethod
    def _open(file: Path) -> Handle:
        try:
            if file.exists() and not file.is_file():  # a pipe would be waited for
                raise ModelError(f"cannot read {file}: it is not a regular file")
            handle = Handle(os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0)), file)
            if os.fstat(handle.descriptor).st_size == 0:
                raise ModelError(f"{file} is empty")
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
        return handle

    def file(self, file: Path) -> Stored:
        """All bytes of a file; see `stored` for what is raised."""
        whole = self.stored(file, 0, 0)
        return Stored(whole.handle, 0, os.fstat(whole.handle.descriptor).st_size)

    def map(self, file: Path) -> memoryview:
        """A file's bytes, mapped once and for good; see `stored` for what is raised."""
        if file not in self._files:
            whole = self.file(file)
            self._files[file] = mmap.mmap(whole.handle.descriptor, 0, access=mmap.ACCESS_READ)
        return memoryview(self._files[file])

    @property
    def files(self) -> list[Path]:
        """The files that are open."""
        return list(self._handles)

    @property
    def nbytes(self) -> int:
        """Bytes of all payloads."""
        return sum(map(len, self._held.values()))

    def forget_pages(self) -> None:
        """Let the system reclaim the pages of mapped files that were read: they can be read again."""
        for mapped in self._files.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def released(self, chunks: Iterable[Payload]) -> Iterator[protobuf.Chunk]:
        """The chunks in pieces, with the pages of each large one given back once it was used."""
        for chunk in chunks:
            if isinstance(chunk, bytes | memoryview):
                yield chunk
                if len(chunk) > 1 << 20:
                    self.forget_pages()
            else:
                yield from chunk.pieces()
