"""Model: the graph as a `ModelProto`, its weights as views of mapped files. The only place that touches .onnx files."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array, numpy_dtype
from onnxprune.core.files import digest, require, staged, write
from onnxprune.core.filled import IN_MEMORY
from onnxprune.core.signatures import no_model
from onnxprune.errors import ModelError, OutputError
from onnxprune.model import external_data, protobuf
from onnxprune.model.encoded_names import restore_names
from onnxprune.model.external_data import expected_nbytes, location_of
from onnxprune.model.order import Order, sort_nodes, unsort_nodes
from onnxprune.model.provenance import Coding
from onnxprune.model.scopes import DEFAULT_DOMAIN, scopes_of, tensors_of
from onnxprune.model.storage import Computed, Payload, Payloads, Stored, bytes_of

PROTOBUF_LIMIT = 2**31 - 1
_VALUE_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data")


class Model:
    """A model whose large tensors stay where they are until somebody asks for them.

    Attributes:
        proto: the graph; a large tensor in it is a reference, read with `array`.
        path: the file it came from, or None.
        external: whether large tensors live in a file of their own.
        payloads: where the bytes of large tensors are.
        codings: what the weights were coded in that were decoded, by name.
        spent: the loss that those have already; see `rate_distortion.recover`.
    """

    def __init__(self, proto: ModelProto, path: Path | None = None) -> None:
        self.proto = proto
        self.path = path
        self.external = False
        self.payloads = Payloads()
        self.codings: dict[str, Coding] = {}
        self.spent = 0.0
        self._order: Order = {}  # of the nodes in the file, where that is not topological

    def copy(self) -> Model:
        """The same model, to be changed by itself: the graph is copied, the bytes of large tensors are shared."""
        twin = Model(ModelProto(), self.path)
        twin.proto.CopyFrom(self.proto)
        twin.external, twin.payloads = self.external, self.payloads.copy()
        twin.codings, twin.spent, twin._order = dict(self.codings), self.spent, self._order
        return twin

    # reading ------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Open an ONNX file.

        Raises:
            ModelError: no such file, not an ONNX model, damaged, or external data is missing, short
                or outside the model's folder.
        """
        model = cls._parsed(Path(path))
        for tensor in model._external():
            model._attach(tensor)
        return model

    @classmethod
    def _parsed(cls, file: Path) -> Model:
        """A model that knows nothing of its external data yet."""
        model = cls(ModelProto(), file)
        foreign = no_model(file)
        if foreign:
            raise ModelError(f"{file} is not an ONNX model but {foreign}")
        try:
            whole = model.payloads.file(file)
            model._parse(whole.view(0, len(whole)), lambda at, size: Stored(whole.handle, at, size))
        except (DecodeError, ValueError, IndexError, RecursionError, TypeError) as error:  # a name may be bytes
            raise ModelError(f"{file} is not an ONNX model, or it is damaged") from error
        if not model.proto.HasField("graph") or not model.proto.opset_import:
            raise ModelError(f"{file} is not an ONNX model: it holds no graph or names no opset")
        if not _readable(model.proto):
            raise ModelError(f"{file} is damaged: a name in it is not UTF-8 text")
        for tensor in tensors_of(model.proto):
            if tensor.data_type not in TensorProto.DataType.values():
                raise ModelError(f"{file}: tensor '{tensor.name}' has the unknown element type {tensor.data_type}")
        return model

    def _external(self) -> Iterator[TensorProto]:
        for tensor in tensors_of(self.proto):
            if tensor.data_location == TensorProto.EXTERNAL and not location_of(tensor).startswith(protobuf.TOKEN):
                yield tensor

    def _parse(self, data: memoryview, payload: Callable[[int, int], Payload]) -> None:
        """Take in a serialised model; `payload` gives the bytes of large tensors by offset and size."""
        skeleton = protobuf.take_out(data, lambda at, size: self.payloads.keep(payload(at, size)))
        self.proto.ParseFromString(b"".join(skeleton))
        restore_names(self.proto)
        self._order = sort_nodes(self.proto)
        self._drop_duplicates()

    def _drop_duplicates(self) -> None:
        """Of initializers with the same name the last counts, as in ONNX Runtime; no other is read."""
        for graph in (scope.body for top in scopes_of(self.proto) for scope in top.inner()):
            seen: set[str] = set()
            for place, tensor in reversed(list(enumerate(getattr(graph, "initializer", ())))):
                if tensor.name in seen:
                    self.drop(tensor)
                    del graph.initializer[place]
                seen.add(tensor.name)

    def _in_order(self) -> ModelProto:
        """The graph with its nodes in the order of the file that it came from."""
        if not self._order:
            return self.proto
        copy = ModelProto()
        copy.CopyFrom(self.proto)
        unsort_nodes(copy, self._order)
        return copy

    @classmethod
    def of_bytes(cls, data: bytes) -> Model:
        """What `to_bytes` gave."""
        model = cls(ModelProto())
        whole = memoryview(data)
        model._parse(whole, lambda at, size: whole[at : at + size])
        return model

    def to_bytes(self) -> bytes:
        """The file that `write` would write, external data inside.

        Raises:
            OutputError: that is more than protobuf's 2 GB.
        """
        try:
            data = self._in_order().SerializeToString(deterministic=True)
        except EncodeError:
            data = b""
        if not data or len(data) + self.payloads.nbytes > PROTOBUF_LIMIT - 2**20:
            raise OutputError("the model is larger than protobuf's 2 GB: it does not fit one message")
        return b"".join(self.payloads.released(protobuf.put_back(memoryview(data), self.payloads.__getitem__)))

    def _attach(self, tensor: TensorProto) -> None:
        """Let an external tensor refer to its mapped bytes."""
        assert self.path is not None
        file, offset, length = external_data.located(self.path, tensor)
        self.external = True
        self._set_payload(tensor, self.payloads.stored(file, offset, length) if length else b"")

    def array(self, tensor: TensorProto) -> Array:
        """The tensor's values, read-only and not copied where they are stored as raw bytes.

        Raises:
            ModelError: the bytes do not fit the shape.
        """
        chunked = self._lazy(tensor)
        if chunked is not None:
            return chunked.whole().reshape(tuple(tensor.dims))
        raw = self.payloads.get(location_of(tensor))
        assert raw is None or isinstance(raw, bytes | memoryview | Stored)
        if isinstance(raw, Stored):
            raw = raw.view(0, len(raw))
        if raw is None and tensor.HasField("raw_data"):
            raw = tensor.raw_data
        dtype = numpy_dtype(tensor.data_type)
        try:
            if raw is not None and dtype is not None:
                self._check_size(tensor, len(raw))
                return np.frombuffer(raw, dtype).reshape(tuple(tensor.dims))
            return numpy_helper.to_array(self._whole(tensor, raw))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"tensor '{tensor.name}' cannot be read: {error}") from error

    def chunked(self, tensor: TensorProto) -> ChunkedArray:
        """The tensor's values to be read in chunks; a scalar has one of its own.

        Raises:
            ModelError: the bytes do not fit the shape.
        """
        return self._lazy(tensor) or ChunkedArray.of(self.array(tensor))

    def _lazy(self, tensor: TensorProto) -> ChunkedArray | None:
        """The chunks of what is computed or lies in a file, in a type that numpy can view."""
        held = self.payloads.get(location_of(tensor))
        if isinstance(held, Computed):
            return held.chunked
        dtype, shape = numpy_dtype(tensor.data_type), tuple(tensor.dims)
        if not isinstance(held, Stored) or dtype is None:
            return None
        self._check_size(tensor, len(held))
        if not shape:
            return None
        row = math.prod(shape[1:]) * dtype.itemsize

        def rows(start: int, stop: int) -> Array:
            return np.frombuffer(held.view(start * row, stop * row), dtype).reshape(stop - start, *shape[1:])

        return ChunkedArray.rowwise(shape, dtype, rows)

    @staticmethod
    def _check_size(tensor: TensorProto, size: int) -> None:
        expected = expected_nbytes(tensor)
        if expected is None:
            raise ModelError(f"tensor '{tensor.name}' has a negative dimension: {list(tensor.dims)}")
        if size != expected:
            raise ModelError(f"tensor '{tensor.name}' holds {size:,} bytes, its shape needs {expected:,}")

    def _whole(self, tensor: TensorProto, raw: protobuf.Chunk | None) -> TensorProto:
        """The tensor with its bytes in it, for the types that numpy cannot view."""
        if not tensor.external_data or raw is None:
            return tensor
        return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(raw))

    def replace(self, tensor: TensorProto, array: Array | ChunkedArray) -> None:
        """Give the tensor new values; the shape follows them.

        Chunks are kept as such where memory has no room for what they hold: read whenever it is wanted.
        """
        packed = numpy_dtype(tensor.data_type) is None
        if isinstance(array, ChunkedArray):
            size = array.size * array.dtype.itemsize
            least = protobuf.INLINE if array.computed else IN_MEMORY
            keep = size > least and not self.payloads.room(size) and not packed
            array = array if keep else array.whole()
        del tensor.dims[:]
        tensor.dims.extend(array.shape)
        if isinstance(array, ChunkedArray):
            self._set_payload(tensor, Computed(array))
        else:
            self._set_payload(tensor, numpy_helper.from_array(array).raw_data if packed else bytes_of(array))

    def tensor(self, name: str, array: Array | ChunkedArray, element: int) -> TensorProto:
        """A new tensor of element type `element` that holds the array."""
        made = TensorProto(name=name, data_type=element)
        self.replace(made, array)
        return made

    def _set_payload(self, tensor: TensorProto, data: Payload) -> None:
        self.drop(tensor)
        for name in (*_VALUE_FIELDS, "external_data", "data_location"):
            tensor.ClearField(name)
        if len(data) > protobuf.INLINE:
            new = isinstance(data, bytes | memoryview)
            token = self.payloads.keep_new(data) if new else self.payloads.keep(data)  # type: ignore[arg-type]
            tensor.MergeFromString(protobuf.reference(token))
        else:
            tensor.raw_data = b"".join(self.payloads.released([data]))

    def drop(self, tensor: TensorProto) -> None:
        """Forget the values of a tensor that leaves the graph."""
        self.payloads.drop(location_of(tensor))

    def nbytes(self, tensor: TensorProto) -> int:
        """Bytes that the tensor takes in the file, its name and shape included."""
        location = location_of(tensor)
        if (held := self.payloads.get(location)) is None:
            return tensor.ByteSize()
        return tensor.ByteSize() - len(protobuf.reference(location)) + len(protobuf.raw_field(held)[0]) + len(held)

    def large_initializers(self) -> dict[str, TensorProto] | None:
        """The initializers that the graph refers to, by name; None where it refers to other tensors too.

        A reference reads as external data, which ONNX Runtime never looks for once it was given the array.
        """
        large = [t for t in self.proto.graph.initializer if location_of(t).startswith(protobuf.TOKEN)]
        others = sum(location_of(t).startswith(protobuf.TOKEN) for t in tensors_of(self.proto)) - len(large)
        return None if others else {tensor.name: tensor for tensor in large}

    # writing ------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write to `path` as it is; see `save` for the atomic form.

        External data goes to a companion whose name holds its digest, so that the rename of the
        model switches both at once and an older model never meets newer data.
        """
        proto = self._in_order()
        try:
            data = proto.SerializeToString(deterministic=True)
        except EncodeError as error:
            raise OutputError(f"cannot write {path}: the graph itself is larger than protobuf's 2 GB") from error
        if self.external or len(data) + self.payloads.nbytes > PROTOBUF_LIMIT - 2**20:
            data = external_data.write_companion(path, proto, self.payloads)
            write(path, [data])
        else:
            chunks = protobuf.put_back(memoryview(data), self.payloads.__getitem__)
            require(path, sum(map(len, chunks)))
            write(path, self.payloads.released(chunks))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model atomically: a reader sees the old file or the whole new one.

        Raises:
            OutputError: the target cannot be written; nothing is left behind.
        """
        with replacing(Path(path)) as place:
            self.write(place)

    @contextlib.contextmanager
    def edited(self) -> Iterator[ModelProto]:
        """A copy of the graph in place of it, to change and to write; afterwards the graph is as it was."""
        original = self.proto
        self.proto = ModelProto()
        self.proto.CopyFrom(original)
        try:
            yield self.proto
        finally:
            self.proto = original

    # facts --------------------------------------------------------------------------------------

    @property
    def opset(self) -> int:
        """The version of the default domain; 1 where the model names none."""
        return next((o.version for o in self.proto.opset_import if o.domain in DEFAULT_DOMAIN), 1)

    @opset.setter
    def opset(self, version: int) -> None:
        for entry in self.proto.opset_import:
            if entry.domain in DEFAULT_DOMAIN:
                entry.version = version

    def sha256(self) -> str:
        """SHA-256 of the file; of those of the file and its external data where there is some."""
        assert self.path is not None
        found = [digest(file) for file in (self.path, *self.companions())]
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    def companions(self) -> list[Path]:
        """The external data files that the model was loaded with."""
        return [file for file in self.payloads.files if file != self.path]


def references(path: Path) -> list[str]:
    """The external data files that a model names, there or not; relative to its folder.

    Raises:
        ModelError: it is not a model, or it is damaged.
    """
    named = (location_of(tensor).replace("\\", "/") for tensor in Model._parsed(path)._external())
    return sorted({name for name in named if name})


def copy_notes(source: TensorProto | NodeProto, target: TensorProto | NodeProto) -> None:
    """The doc string and the metadata of one entry for another that takes its place."""
    if source.doc_string:
        target.doc_string = source.doc_string
    target.metadata_props.extend(source.metadata_props)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """`files.staged` for a model; external data that only the replaced model used goes with it.

    Raises:
        OutputError: the target cannot be written; nothing is left behind.
    """
    old = _companions_of(target)
    with staged(target) as place:
        yield place
        old -= {companion.name for companion in place.parent.iterdir()}
    for name in old:
        target.with_name(name).unlink(missing_ok=True)


def _companions_of(target: Path) -> set[str]:
    """Names of the external data files that a former output at `target` wrote under its own name."""
    ours = re.compile(re.escape(target.stem) + r"\.[0-9a-f]{8}\.data")
    if not any(ours.fullmatch(p.name) for p in target.parent.glob(f"{glob.escape(target.stem)}.*.data")):
        return set()
    try:
        names = {file.name for file in Model.load(target).companions()}
    except ModelError:  # whatever stood there, it is about to be replaced
        return set()
    return {name for name in names if ours.fullmatch(name)}


def _readable(message: Message) -> bool:
    """Whether every name is text: protobuf hands out as bytes what is not."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and field.name != "doc_string":
            if isinstance(value, bytes) or (not isinstance(value, str) and any(isinstance(v, bytes) for v in value)):
                return False
        elif field.type == field.TYPE_MESSAGE and not all(
            map(_readable, [value] if isinstance(value, Message) else value)
        ):
            return False
    return True
