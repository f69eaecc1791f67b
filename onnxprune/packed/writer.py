"""The writer of packed models; see `reader`, and docs/formats/packed.md for the format."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from onnxprune.core.dtypes import numpy_dtype
from onnxprune.core.files import staged, write
from onnxprune.core.signatures import PACKED
from onnxprune.errors import PackedError
from onnxprune.model.model import Model
from onnxprune.model.protobuf import varint
from onnxprune.model.scopes import tensors_of
from onnxprune.model.storage import Stored
from onnxprune.packed import coder
from onnxprune.packed.coder import CHUNK, CodeLayout, CodingPlan
from onnxprune.packed.reader import (
    CRC,
    ENDING,
    FOOTER,
    HEADER,
    INDEX_LIMIT,
    MAX_EXPANSION,
    VERSION,
    Sizes,
    in_each_others_way,
    inside,
    is_packed,
    refuse_overwriting,
)


def pack(source: Path, target: Path, layouts: Mapping[str, CodeLayout] | None = None) -> Sizes:
    """Write the model at `source`, external data included, as one packed file.

    Args:
        source: an ONNX file.
        target: the file to write.
        layouts: how symbols lie in tensors, by tensor name: tried beside the general layouts.

    Raises:
        ModelError: the source is not a model.
        PackedError: it is packed already, or its external data has a name that not every system takes.
        OutputError: the target is one of the sources or cannot be written.
    """
    if is_packed(source):
        raise PackedError(f"{source} is packed already")
    model = Model.load(source)
    refuse_overwriting(target, model.payloads.files, source)
    writer = _Writer(model, layouts or {})
    with staged(target) as place:
        write(place, writer.chunks())
        after = place.stat().st_size
    return Sizes(writer.size, after)


@dataclass(frozen=True)
class _Cut:
    """The bytes of a large tensor in a file."""

    start: int
    end: int
    name: str
    itemsize: int


class _Writer:
    def __init__(self, model: Model, layouts: Mapping[str, CodeLayout]) -> None:
        self._payloads = model.payloads
        self._layouts = layouts
        self._data = [model.payloads.map(file) for file in model.payloads.files]
        self.size = sum(map(len, self._data))
        self._cuts = [_cuts(model, file) for file in model.payloads.files]
        self._names = [_name(file, model) for file in model.payloads.files]
        if in_each_others_way(self._names):
            raise PackedError(f"{model.path}: files of its external data differ only in upper and lower case")
        self._index = bytearray()
        self._level = coder.THOROUGH if self.size <= 4 * CHUNK else coder.FAST

    def chunks(self) -> Iterator[bytes]:
        """The packed file, piece by piece."""
        written = HEADER.size
        yield HEADER.pack(PACKED, VERSION)
        self._describe_files()
        for chunk, itemsize, hints in chain(self._skeleton(), self._tensors()):
            coded = coder.encode(chunk, itemsize, hints, self._level)
            self._describe(coded)
            for _, body in coded.runs:
                written += len(body)
                yield body
            if len(chunk) > 1 << 20:
                self._payloads.forget_pages()
        if len(self._index) > INDEX_LIMIT:
            raise PackedError("the model has too many tensors to pack")
        written += len(self._index) + ENDING
        padding = max(0, -(-self.size // MAX_EXPANSION) - written)
        yield bytes(padding)
        ending = bytes(self._index) + FOOTER.pack(len(self._index), written + padding, self._digest())
        yield ending + CRC.pack(zlib.crc32(ending))

    def _digest(self) -> bytes:
        digest = hashlib.blake2b(digest_size=32)
        for part in self._payloads.released(chain.from_iterable(map(coder.chunks, self._data))):
            digest.update(part)
        return digest.digest()

    def _skeleton(self) -> Iterator[tuple[memoryview, int, list[CodeLayout]]]:
        """What no tensor's stream holds, of all files, in chunks."""
        held = bytearray()
        for data, boundaries in zip(self._data, self._cuts, strict=True):
            starts, ends = [0, *(c.end for c in boundaries)], [*(c.start for c in boundaries), len(data)]
            for start, end in zip(starts, ends, strict=True):
                for part in coder.chunks(data[start:end]):
                    held += part
                    while len(held) >= CHUNK:
                        yield memoryview(bytes(held[:CHUNK])), 1, []
                        del held[:CHUNK]
        if held:
            yield memoryview(bytes(held)), 1, []

    def _tensors(self) -> Iterator[tuple[memoryview, int, list[CodeLayout]]]:
        for data, boundaries in zip(self._data, self._cuts, strict=True):
            for cut in boundaries:
                hints = [self._layouts[cut.name]] if cut.name in self._layouts else []
                for chunk in coder.chunks(data[cut.start : cut.end]):
                    yield chunk, cut.itemsize, hints

    def _put(self, *numbers: int) -> None:
        for number in numbers:
            self._index += varint(number)

    def _describe_files(self) -> None:
        self._put(len(self._data))
        for name, data, boundaries in zip(self._names, self._data, self._cuts, strict=True):
            self._put(len(name.encode()))
            self._index += name.encode()
            self._put(len(data), len(boundaries))
            at = 0
            for cut in boundaries:
                self._put(cut.start - at, cut.end - cut.start)
                at = cut.end

    def _describe(self, coded: coder.CodedStream) -> None:
        layout = coded.plan.layout
        if coded.plan == CodingPlan():
            self._put(0)
        else:
            self._put(2 * layout.word + coded.plan.shared, layout.base, layout.count)
        crc = 0
        for coding, body in coded.runs:
            self._put(coding, len(body))
            crc = zlib.crc32(body, crc)
        self._index += CRC.pack(crc)


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
    name = file.relative_to(model.path.parent).as_posix()
    if not inside(name):
        raise PackedError(f"{model.path}: external data of such a name cannot be packed: {file}")
    return name
