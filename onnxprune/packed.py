"""The packed form: a model and its external data as one small file for storage and transport. See PACKED.md.

Every large tensor is a stream of its own, all other bytes form the skeleton; a stream is coded in
chunks, so that neither side holds more than a few of them. What unpacking restores is the same bytes.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from onnxprune import streams
from onnxprune.dtypes import numpy_dtype
from onnxprune.errors import OutputError, PackedError
from onnxprune.files import staged, write
from onnxprune.model import Model, replacing
from onnxprune.payloads import Payloads, Stored
from onnxprune.scopes import tensors_of
from onnxprune.streams import CHUNK, Layout, Plan
from onnxprune.wire import varint

MAGIC = b"\x89ONNXZ\r\n"  # not text, and damaged by whoever takes it for text
VERSION = 1
MOST = 1024  # bytes restored per byte of the file: what a small hostile file can cost is bounded
INDEX_LIMIT = 2 << 20  # bytes; a tensor takes about 15 of them, and 100 times as much in memory

_HEADER = struct.Struct("<8sH")
_FOOTER = struct.Struct("<IQ32s")  # bytes of the index and of the file, digest; a CRC follows
_CRC = struct.Struct("<I")
_ENDING = _FOOTER.size + _CRC.size


@dataclass(frozen=True)
class Sizes:
    """What packing or unpacking did, in bytes, external data included."""

    before: int
    after: int


@dataclass(frozen=True)
class File:
    """A file in the pack.

    Attributes:
        name: "" is the model; the others are its external data, beside it.
        size: in bytes.
        cuts: for each stream in it: bytes of the skeleton before it, its own bytes.
    """

    name: str
    size: int
    cuts: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Chunk:
    size: int
    plan: Plan
    runs: list[tuple[int, memoryview]]
    crc: int


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like a packed model; False where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


# packing ----------------------------------------------------------------------------------------


def pack(source: Path, target: Path, layouts: Mapping[str, Layout] | None = None) -> Sizes:
    """Write the model at `source`, external data included, as one packed file.

    Args:
        source: an ONNX file.
        target: the file to write.
        layouts: how symbols lie in tensors, by tensor name: tried beside the general layouts.

    Raises:
        ModelError: the source is not a model.
        PackedError: it is packed already, or its external data is in another folder.
        OutputError: the target is one of the sources or cannot be written.
    """
    if is_packed(source):
        raise PackedError(f"{source} is packed already")
    model = Model.load(source)
    _refuse_overwriting(target, model.payloads.files, source)
    writer = _Writer(model, layouts or {})
    with staged(target) as place:
        write(place, writer.chunks())
        after = place.stat().st_size
    return Sizes(writer.size, after)


def _refuse_overwriting(target: Path, files: Sequence[Path], source: Path) -> None:
    for file in files:
        if target.exists() and target.samefile(file):
            raise OutputError(f"{target} is {'the input' if file == source else f'external data of {source}'}")


@dataclass(frozen=True)
class _Cut:
    """The bytes of a large tensor in a file."""

    start: int
    end: int
    name: str
    itemsize: int


class _Writer:
    def __init__(self, model: Model, layouts: Mapping[str, Layout]) -> None:
        self._payloads = model.payloads
        self._layouts = layouts
        self._data = [model.payloads.map(file) for file in model.payloads.files]
        self.size = sum(map(len, self._data))
        self._cuts = [_cuts(model, file) for file in model.payloads.files]
        self._names = [_name(file, model) for file in model.payloads.files]
        if len({name.casefold() for name in self._names}) < len(self._names):
            raise PackedError(f"{model.path}: files of its external data differ only in upper and lower case")
        self._index = bytearray()
        self._level = streams.THOROUGH if self.size <= 4 * CHUNK else streams.FAST

    def chunks(self) -> Iterator[bytes]:
        """The packed file, piece by piece."""
        written = _HEADER.size
        yield _HEADER.pack(MAGIC, VERSION)
        self._describe_files()
        for chunk, itemsize, hints in chain(self._skeleton(), self._tensors()):
            coded = streams.encode(chunk, itemsize, hints, self._level)
            self._describe(coded)
            for _, body in coded.runs:
                written += len(body)
                yield body
            if len(chunk) > 1 << 20:
                self._payloads.forget_pages()
        if len(self._index) > INDEX_LIMIT:
            raise PackedError("the model has too many tensors to pack")
        written += len(self._index) + _ENDING
        padding = max(0, -(-self.size // MOST) - written)
        yield bytes(padding)
        ending = bytes(self._index) + _FOOTER.pack(len(self._index), written + padding, self._digest())
        yield ending + _CRC.pack(zlib.crc32(ending))

    def _digest(self) -> bytes:
        digest = hashlib.blake2b(digest_size=32)
        for part in self._payloads.released(chain.from_iterable(map(streams.chunks, self._data))):
            digest.update(part)
        return digest.digest()

    def _skeleton(self) -> Iterator[tuple[memoryview, int, list[Layout]]]:
        """What no tensor's stream holds, of all files, in chunks."""
        held = bytearray()
        for data, cuts in zip(self._data, self._cuts, strict=True):
            starts, ends = [0, *(c.end for c in cuts)], [*(c.start for c in cuts), len(data)]
            for start, end in zip(starts, ends, strict=True):
                for part in streams.chunks(data[start:end]):
                    held += part
                    while len(held) >= CHUNK:
                        yield memoryview(bytes(held[:CHUNK])), 1, []
                        del held[:CHUNK]
        if held:
            yield memoryview(bytes(held)), 1, []

    def _tensors(self) -> Iterator[tuple[memoryview, int, list[Layout]]]:
        for data, cuts in zip(self._data, self._cuts, strict=True):
            for cut in cuts:
                hints = [self._layouts[cut.name]] if cut.name in self._layouts else []
                for chunk in streams.chunks(data[cut.start : cut.end]):
                    yield chunk, cut.itemsize, hints

    def _put(self, *numbers: int) -> None:
        for number in numbers:
            self._index += varint(number)

    def _describe_files(self) -> None:
        self._put(len(self._data))
        for name, data, cuts in zip(self._names, self._data, self._cuts, strict=True):
            self._put(len(name.encode()))
            self._index += name.encode()
            self._put(len(data), len(cuts))
            at = 0
            for cut in cuts:
                self._put(cut.start - at, cut.end - cut.start)
                at = cut.end

    def _describe(self, coded: streams.Coded) -> None:
        layout = coded.plan.layout
        if coded.plan == Plan():
            self._put(0)
        else:
            self._put(2 * layout.word + coded.plan.shared, layout.base, layout.count)
        crc = 0
        for coding, body in coded.runs:
            self._put(coding, len(body))
            crc = zlib.crc32(body, crc)
        self._index += _CRC.pack(crc)


def _cuts(model: Model, file: Path) -> list[_Cut]:
    """The large tensors whose bytes lie in a file, in order; of those that overlap only the first."""
    found = []
    for tensor in tensors_of(model.proto):
        payload = model.payloads.get(next((e.value for e in tensor.external_data if e.key == "location"), ""))
        if isinstance(payload, Stored) and payload.handle.path == file:
            dtype = numpy_dtype(tensor.data_type)
            end = payload.offset + len(payload)
            found.append(_Cut(payload.offset, end, tensor.name, dtype.itemsize if dtype else 1))
    out: list[_Cut] = []
    at = 0
    for cut in sorted(found, key=lambda c: (c.start, c.end)):
        if cut.start >= at:
            out.append(cut)
            at = cut.end
    return out


def _name(file: Path, model: Model) -> str:
    assert model.path is not None
    if file == model.path:
        return ""
    name = str(file.relative_to(model.path.parent))
    if not _plain(name):
        raise PackedError(f"{model.path}: external data that is not beside the model cannot be packed: {file}")
    return name


def _plain(name: str) -> bool:
    """Whether a name means a visible file in the folder at hand, on every system."""
    short = 0 < len(name.encode(errors="replace")) <= 255
    return short and name.isprintable() and name[0] != "." and not set(name) & set('/\\:<>"|?*')


# unpacking --------------------------------------------------------------------------------------


def unpack(source: Path, target: Path) -> Sizes:
    """Restore the model at `target`, and its external data beside it under its own names.

    Raises:
        PackedError: the source is not a packed model, or it is damaged; nothing is written.
        OutputError: the target is the source or cannot be written, there is no room, or other data
            has the name of the external data.
    """
    packed = Packed(source)
    _refuse_overwriting(target, [source], source)
    if any(file.name.casefold() == target.name.casefold() for file in packed.files):
        raise OutputError(f"cannot write {target}: the model's external data has that name")
    with replacing(target) as place:
        free = shutil.disk_usage(place.parent).free
        if packed.nbytes > free:
            raise OutputError(f"cannot write {target}: it takes {packed.nbytes:,} bytes, {free:,} are free")
        for file, content in packed.contents():
            write(place.with_name(file.name or place.name), content)
        for name in (file.name for file in packed.files if file.name):
            there = target.with_name(name)
            if there.exists() and not (there.is_file() and filecmp.cmp(place.with_name(name), there, shallow=False)):
                raise OutputError(f"cannot write {target}: other data is in the way: {there}")
    return Sizes(packed.packed_nbytes, packed.nbytes)


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
        if data[: len(MAGIC)] != MAGIC:
            raise PackedError(f"{path} is not a packed model")
        if len(data) < _HEADER.size + _ENDING:
            raise self._damaged("it is cut short")
        version = _HEADER.unpack_from(data)[1]
        if version != VERSION:
            raise PackedError(f"{path} has version {version} of the packed form, this onnxprune reads {VERSION}")
        length, size, self._digest = _FOOTER.unpack_from(data, len(data) - _ENDING)
        start = len(data) - _ENDING - length
        if start < _HEADER.size or zlib.crc32(data[start : -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
            raise self._damaged("it is cut short, or its index is")
        if size != len(data) or length > INDEX_LIMIT:
            raise self._damaged("its sizes contradict each other")
        try:
            self._read(_Cursor(bytes(data[start:-_ENDING])), data[_HEADER.size : start])
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> PackedError:
        return PackedError(f"{self._path} is damaged: {why}")

    def _read(self, index: _Cursor, body: memoryview) -> None:
        self.files = [self._file(index, first=not number) for number in range(index.count())]
        names = [file.name.casefold() for file in self.files]
        if not names or len(set(names)) < len(names):
            raise ValueError("two files have one name, or there is none")
        self.nbytes = sum(file.size for file in self.files)
        if self.nbytes > MOST * self.packed_nbytes:
            raise ValueError(f"it claims to hold {self.nbytes:,} bytes")
        lengths = [length for file in self.files for _, length in file.cuts]
        self._streams: list[list[_Chunk]] = []
        for length in [self.nbytes - sum(lengths), *lengths]:
            chunks = []
            for at in range(0, length, CHUNK):
                chunk, body = _chunk(index, body, min(CHUNK, length - at))
                chunks.append(chunk)
            self._streams.append(chunks)
        if not index.done() or any(bytes(part).strip(b"\0") for part in streams.chunks(body)):
            raise ValueError("it holds bytes that nothing refers to")

    @staticmethod
    def _file(index: _Cursor, first: bool) -> File:
        name = index.take(index.count()).decode()
        if first != (name == "") or not (first or _plain(name)):
            raise ValueError(f"a file has the forbidden name {name!r}")
        size = index.number()
        cuts = [(index.number(), index.number()) for _ in range(index.count())]
        if sum(map(sum, cuts)) > size or not all(length for _, length in cuts):
            raise ValueError("a stream is outside its file")
        return File(name, size, cuts)

    def contents(self) -> Iterator[tuple[File, Iterator[memoryview]]]:
        """Each file with its bytes, to be read in this order; what was read is right only when it ends.

        Raises:
            PackedError: a chunk is damaged, or the files are not what was packed.
        """
        digest = hashlib.blake2b(digest_size=32)
        numbers = iter(range(1, len(self._streams)))
        skeleton = _Tap(self._decoded(0))

        def content(file: File) -> Iterator[memoryview]:
            left = file.size
            for skip, length in file.cuts:
                yield from skeleton.take(skip)
                yield from self._decoded(next(numbers))
                left -= skip + length
            yield from skeleton.take(left)

        def watched(file: File) -> Iterator[memoryview]:
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
                yield streams.decode(chunk.plan, chunk.runs, chunk.size).data
            except ValueError as error:
                raise self._damaged(f"stream {number}: {error}") from error
            if chunk.size > 1 << 20:
                self._payloads.forget_pages()


def _chunk(index: _Cursor, body: memoryview, size: int) -> tuple[_Chunk, memoryview]:
    """The next chunk of `size` bytes, and what of the body comes after it."""
    code = index.number()
    plan = Plan(Layout(code >> 1, index.number(), index.number()), bool(code & 1)) if code else Plan()
    runs = []
    for _ in plan.runs(size):
        coding, length = index.number(), index.number()
        if length > len(body):
            raise ValueError("a stream is longer than the file")
        runs.append((coding, body[:length]))
        body = body[length:]
    return _Chunk(size, plan, runs, _CRC.unpack(index.take(_CRC.size))[0]), body


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
