"""Payloads: the bytes of large tensors, wherever they lie: mapped files, memory, or unnamed scratch files."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from onnxprune import wire
from onnxprune.errors import ModelError, OutputError

RESIDENT = 256 << 20  # bytes of new payloads that stay in memory; what comes on top goes to scratch files


class Payloads:
    """Bytes by token.

    Attributes:
        scratch: the folder for new payloads that memory should not hold, or None for the system's own.
    """

    def __init__(self) -> None:
        self.scratch: Path | None = None
        self._held: dict[str, wire.Chunk] = {}
        self._files: dict[Path, mmap.mmap] = {}
        self._spilled: dict[str, mmap.mmap] = {}
        self._resident: dict[str, int] = {}  # bytes of new payloads that are in memory
        self._number = count()

    def __getitem__(self, token: str) -> wire.Chunk:
        """The bytes of a token."""
        return self._held[token]

    def get(self, token: str) -> wire.Chunk | None:
        """The bytes of a token, or None."""
        return self._held.get(token)

    def keep(self, data: wire.Chunk) -> str:
        """Remember bytes that lie in a mapped file; returns their token."""
        token = f"{wire.TOKEN}{next(self._number)}"
        self._held[token] = data
        return token

    def keep_new(self, data: wire.Chunk) -> str:
        """Remember bytes that are new: in memory while there is room, then in a file."""
        token = self.keep(data)
        self._resident[token] = len(data)
        if sum(self._resident.values()) > RESIDENT:
            self._spill(token)
        return token

    def _spill(self, token: str) -> None:
        payload = self._held[token]
        try:
            with tempfile.TemporaryFile(dir=self.scratch) as file:
                file.write(payload)
                file.flush()
                mapped = mmap.mmap(file.fileno(), len(payload), access=mmap.ACCESS_READ)  # keeps the file alive
        except OSError as error:
            raise OutputError(f"cannot keep new tensors in a scratch file: {error.strerror or error}") from error
        self._spilled[token] = mapped
        self._held[token] = memoryview(mapped)
        del self._resident[token]

    def drop(self, token: str) -> None:
        """Forget a token, if it is one."""
        for table in (self._held, self._spilled, self._resident):
            table.pop(token, None)

    def map(self, file: Path) -> memoryview:
        """A file's bytes, mapped once.

        Raises:
            ModelError: the file is missing, empty, not a regular file or not readable.
        """
        if file not in self._files:
            try:
                if file.exists() and not file.is_file():  # a pipe would be waited for
                    raise ModelError(f"cannot read {file}: it is not a regular file")
                with file.open("rb") as handle:
                    if file.stat().st_size == 0:
                        raise ModelError(f"{file} is empty")
                    self._files[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
        return memoryview(self._files[file])

    @property
    def files(self) -> list[Path]:
        """The files that are mapped."""
        return list(self._files)

    @property
    def nbytes(self) -> int:
        """Bytes of all payloads."""
        return sum(map(len, self._held.values()))

    def forget_pages(self) -> None:
        """Let the system reclaim the pages of mapped files that were read: they can be read again."""
        for mapped in (*self._files.values(), *self._spilled.values()):
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def released(self, chunks: Iterable[wire.Chunk]) -> Iterator[wire.Chunk]:
        """The chunks, with the pages of each large one given back once it was used."""
        for chunk in chunks:
            yield chunk
            if len(chunk) > 1 << 20:
                self.forget_pages()
