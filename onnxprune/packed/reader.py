"""The packed form: a model and its external data as one small file for storage and transport.

Every large tensor is a stream of its own, all other bytes form the skeleton; a stream is coded in
chunks, so that neither side holds more than a few of them. What unpacking restores is the same bytes.
`writer` writes it, this module reads it; docs/formats/packed.md describes it.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxprune.core.files import write
from onnxprune.core.signatures import PACKED, head
from onnxprune.errors import OutputError, PackedError
from onnxprune.model.model import replacing
from onnxprune.model.storage import Payloads
from onnxprune.packed import coder
from onnxprune.packed.coder import CHUNK, CodeLayout, CodingPlan

VERSION = 1
MAX_EXPANSION = 1024  # bytes restored per byte of the file: what a small hostile file can cost is bounded
PATH_LIMIT = 1024  # bytes
INDEX_LIMIT = 2 << 20  # bytes; a tensor takes about 15 of them, and 100 times as much in memory

HEADER = struct.Struct("<8sH")
FOOTER = struct.Struct("<IQ32s")  # bytes of the index and of the file, digest; a CRC follows
CRC = struct.Struct("<I")
ENDING = FOOTER.size + CRC.size


@dataclass(frozen=True)
class Sizes:
    """What packing or unpacking did, in bytes, external data included."""

    before: int
    after: int


@dataclass(frozen=True)
class PackedFile:
    """A file in the pack.

    Attributes:
        name: "" is the model; the others are its external data, by their paths from its folder, with `/`.
        size: in bytes.
        boundaries: for each stream in it: bytes of the skeleton before it, its own bytes.
    """

    name: str
    size: int
    boundaries: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Chunk:
    size: int
    plan: CodingPlan
    runs: list[tuple[int, memoryview]]
    crc: int


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like a packed model; False where it cannot be read."""
    return head(Path(path)).startswith(PACKED)


def refuse_overwriting(target: Path, files: Sequence[Path], source: Path) -> None:
    """OutputError where the target is one of the files of the source."""
    for file in files:
        if target.exists() and target.samefile(file):
            raise OutputError(f"{target} is {'the input' if file == source else f'external data of {source}'}")


def inside(path: str) -> bool:
    """Whether a path of `/` and plain visible names means a file below the folder at hand, on every system."""
    return len(path.encode(errors="replace")) <= PATH_LIMIT and all(map(_plain, path.split("/")))


def _plain(name: str) -> bool:
    short = 0 < len(name.encode(errors="replace")) <= 255
    return short and name.isprintable() and name[0] != "." and not set(name) & set('/\\:<>"|?*')


def in_each_others_way(names: Sequence[str]) -> bool:
    """Whether two paths are one where case does not count, or one is a folder of another."""
    folded = {name.casefold() for name in names}
    folders = {"/".join(parts[:end]) for parts in (name.split("/") for name in folded) for end in range(1, len(parts))}
    return len(folded) < len(names) or bool(folded & folders)


def unpack(source: Path, target: Path) -> Sizes:
    """Restore the model at `target`, and its external data in the same folder under its own names.

    Raises:
        PackedError: the source is not a packed model, or it is damaged; nothing is written.
        OutputError: the target is the source or cannot be written, there is no room, other data has the name of the
            external data, or a link leads it out of the folder.
    """
    packed = Packed(source)
    refuse_overwriting(target, [source], source)
    if any(file.name.split("/")[0].casefold() == target.name.casefold() for file in packed.files):
        raise OutputError(f"cannot write {target}: the model's external data has that name")
    with replacing(target) as place:
        free = shutil.disk_usage(place.parent).free
        if packed.nbytes > free:
            raise OutputError(f"cannot write {target}: it takes {packed.nbytes:,} bytes, {free:,} are free")
        for file, content in packed.contents():
            made = place.parent / (file.name or place.name)
            made.parent.mkdir(parents=True, exist_ok=True)
            write(made, content)
        for name in (file.name for file in packed.files if file.name):
            _check_free(target, name, place.parent / name)
    return Sizes(packed.packed_nbytes, packed.nbytes)


def _check_free(target: Path, name: str, made: Path) -> None:
    """Refuse external data in the place of other data, or out of the folder, where a link is among its folders."""
    there = target.parent / name
    if not there.parent.resolve().is_relative_to(target.parent.resolve()):
        raise OutputError(f"cannot write {target}: a link leads {there} out of the folder")
    taken = next((folder for folder in there.parents if folder.exists()), target.parent)
    if not taken.is_dir() or (there.exists() and not (there.is_file() and filecmp.cmp(made, there, shallow=False))):
        raise OutputError(f"cannot write {target}: other data is in the way: {there}")


class Packed:
    """A packed file whose index has been read and found plausible.

    Attributes:
        files: the model, then its external data.
        nbytes: bytes of all of them.
        packed_nbytes: bytes of the packed file.

    Raises:
        PackedError: the file is not a packed model, is damaged, or makes claims out of bounds.
        ModelError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._payloads = Payloads()
        data = self._payloads.map(path)
        self.packed_nbytes = len(data)
        if data[: len(PACKED)] != PACKED:
            raise PackedError(f"{path} is not a packed model")
        if len(data) < HEADER.size + ENDING:
            raise self._damaged("it is cut short")
        version = HEADER.unpack_from(data)[1]
        if version != VERSION:
            raise PackedError(f"{path} has version {version} of the packed form, this onnxprune reads {VERSION}")
        length, size, self._digest = FOOTER.unpack_from(data, len(data) - ENDING)
        start = len(data) - ENDING - length
        if start < HEADER.size or zlib.crc32(data[start : -CRC.size]) != CRC.unpack(data[-CRC.size :])[0]:
            raise self._damaged("it is cut short, or its index is")
        if size != len(data) or length > INDEX_LIMIT:
            raise self._damaged("its sizes contradict each other")
        try:
            self._read(_Cursor(bytes(data[start:-ENDING])), data[HEADER.size : start])
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> PackedError:
        return PackedError(f"{self._path} is damaged: {why}")

    def _read(self, index: _Cursor, body: memoryview) -> None:
        self.files = [self._file(index, first=not number) for number in range(index.count())]
        names = [file.name for file in self.files]
        if not names or in_each_others_way(names):
            raise ValueError("two files have one name, or there is none")
        self.nbytes = sum(file.size for file in self.files)
        if self.nbytes > MAX_EXPANSION * self.packed_nbytes:
            raise ValueError(f"it claims to hold {self.nbytes:,} bytes")
        lengths = [length for file in self.files for _, length in file.boundaries]
        self._streams: list[list[_Chunk]] = []
        for length in [self.nbytes - sum(lengths), *lengths]:
            chunks = []
            for at in range(0, length, CHUNK):
                chunk, body = _chunk(index, body, min(CHUNK, length - at))
                chunks.append(chunk)
            self._streams.append(chunks)
        if not index.done() or any(bytes(part).strip(b"\0") for part in coder.chunks(body)):
            raise ValueError("it holds bytes that nothing refers to")

    @staticmethod
    def _file(index: _Cursor, first: bool) -> PackedFile:
        name = index.take(index.count()).decode()
        if first != (name == "") or not (first or inside(name)):
            raise ValueError(f"a file has the forbidden name {name!r}")
        size = index.number()
        boundaries = [(index.number(), index.number()) for _ in range(index.count())]
        if sum(map(sum, boundaries)) > size or not all(length for _, length in boundaries):
            raise ValueError("a stream is outside its file")
        return PackedFile(name, size, boundaries)

    def contents(self) -> Iterator[tuple[PackedFile, Iterator[memoryview]]]:
        """Each file with its bytes, to be read in this order; what was read is right only when it ends.

        Raises:
            PackedError: a chunk is damaged, or the files are not what was packed.
        """
        digest = hashlib.blake2b(digest_size=32)
        numbers = iter(range(1, len(self._streams)))
        skeleton = _Tap(self._decoded(0))

        def content(file: PackedFile) -> Iterator[memoryview]:
            left = file.size
            for skip, length in file.boundaries:
                yield from skeleton.take(skip)
                yield from self._decoded(next(numbers))
                left -= skip + length
            yield from skeleton.take(left)

        def watched(file: PackedFile) -> Iterator[memoryview]:
            for part in content(file):
                digest.update(part)
                yield part

        for file in self.files:
            yield file, watched(file)
        if digest.digest() != self._digest:
            raise self._damaged("the restored files do not match their digest")

    def model_bytes(self) -> bytes:
        """The model's own file.

        Raises:
            PackedError: see `contents`; also where it has external data.
        """
        if len(self.files) > 1:
            raise PackedError(f"{self._path} holds external data")
        return b"".join(part for _, content in self.contents() for part in content)

    def _decoded(self, number: int) -> Iterator[memoryview]:
        for chunk in self._streams[number]:
            crc = 0
            for _, body in chunk.runs:
                crc = zlib.crc32(body, crc)
            if crc != chunk.crc:
                raise self._damaged(f"stream {number} does not match its checksum")
            try:
                yield coder.decode(chunk.plan, chunk.runs, chunk.size).data
            except ValueError as error:
                raise self._damaged(f"stream {number}: {error}") from error
            if chunk.size > 1 << 20:
                self._payloads.forget_pages()


def _chunk(index: _Cursor, body: memoryview, size: int) -> tuple[_Chunk, memoryview]:
    """The next chunk of `size` bytes, and what of the body comes after it."""
    code = index.number()
    plan = CodingPlan(CodeLayout(code >> 1, index.number(), index.number()), bool(code & 1)) if code else CodingPlan()
    runs = []
    for _ in plan.runs(size):
        coding, length = index.number(), index.number()
        if length > len(body):
            raise ValueError("a stream is longer than the file")
        runs.append((coding, body[:length]))
        body = body[length:]
    return _Chunk(size, plan, runs, CRC.unpack(index.take(CRC.size))[0]), body


class _Cursor:
    """Reads the index: ValueError where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """A variable-length integer below 2**63."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number in the index does not end")

    def count(self) -> int:
        """A number of things, each of which takes a byte of the index at least."""
        value = self.number()
        if value > len(self._data) - self._at:
            raise ValueError("the index ends too early")
        return value

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self._data) - self._at:
            raise ValueError("the index ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def done(self) -> bool:
        """Whether all was read."""
        return self._at == len(self._data)


class _Tap:
    """Bytes of an iterator of chunks, as many at a time as are asked for."""

    def __init__(self, source: Iterator[memoryview]) -> None:
        self._source = source
        self._held = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, in parts."""
        while size:
            if not self._held:
                self._held = next(self._source)
            part, self._held = self._held[:size], self._held[size:]
            size -= len(part)
            yield part
