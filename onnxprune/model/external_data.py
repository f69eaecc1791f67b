"""External data: where a model keeps large tensors beside itself, checked on the way in and laid out on the way out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from onnx import ModelProto, TensorProto

from onnxprune.core.dtypes import numpy_dtype
from onnxprune.core.files import require, write
from onnxprune.errors import ModelError
from onnxprune.model import protobuf
from onnxprune.model.scopes import tensors_of
from onnxprune.model.storage import Payload, Payloads

_PAGE, _PAGED = 4096, 1 << 16  # bytes; tensors from 64 kB begin on a page, so that they can be mapped
_ALIGNMENT = 64  # bytes


def location_of(tensor: TensorProto) -> str:
    """The file, or the token of a payload, that a tensor names; "" where its values are in it."""
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def expected_nbytes(tensor: TensorProto) -> int | None:
    """Bytes that a tensor's shape and type need; None of a type that numpy cannot view, or of a negative dimension."""
    dtype = numpy_dtype(tensor.data_type)
    if dtype is None or any(d < 0 for d in tensor.dims):
        return None
    size = dtype.itemsize
    for dim in tensor.dims:
        size *= dim
    return size


def located(model: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    """The file that holds an external tensor of a model, the offset in it, and the length in bytes.

    Raises:
        ModelError: the file is missing, short or outside the model's folder, or the reference is damaged.
    """
    where = {e.key: e.value for e in tensor.external_data}
    file = _inside(model, tensor, PurePosixPath(where.get("location", "").replace("\\", "/")))
    try:
        offset = int(where.get("offset", 0))
        length = int(where["length"]) if "length" in where else None
    except ValueError as error:
        raise ModelError(f"{model}: tensor '{tensor.name}' has a damaged external reference") from error
    size, expected = file.stat().st_size, expected_nbytes(tensor)
    if length is None:
        length = expected if expected is not None else size - offset
    if expected is not None and length != expected:
        raise ModelError(f"{model}: tensor '{tensor.name}' needs {expected:,} bytes, its reference names {length:,}")
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(f"{model}: the external data of tensor '{tensor.name}' is cut short in {file}")
    return file, offset, length


def _inside(model: Path, tensor: TensorProto, location: PurePosixPath) -> Path:
    """The file of a location, which has to lie in the model's folder."""
    file = model.parent / location
    roots = {model.parent.resolve(), model.resolve().parent}  # a cache may link model and data to one store
    try:
        real, present = file.resolve(), file.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
        raise ModelError(f"{model}: tensor '{tensor.name}' has a damaged external reference") from error
    if location.is_absolute() or ".." in location.parts or not any(real.is_relative_to(r) for r in roots):
        raise ModelError(f"{model}: tensor '{tensor.name}' names data outside the model's folder: {location}")
    if not present:
        raise ModelError(f"{model}: the external data of tensor '{tensor.name}' is missing: {file}")
    return file


def write_companion(path: Path, proto: ModelProto, payloads: Payloads) -> bytes:
    """Write the payloads of a model beside `path`; returns the model that refers to them, serialised.

    The file is called `<model>.<digest>.data`: its name follows from its bytes.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    layout = list(_layout(copy, payloads))
    if not layout:  # every tensor is small enough to lie in the model
        return copy.SerializeToString(deterministic=True)
    require(path, sum(len(padding) + len(payload) for _, _, padding, payload in layout))
    total = hashlib.sha256()

    def hashed() -> Iterator[protobuf.Chunk]:
        parts = (part for _, _, padding, payload in layout for part in (padding, payload))
        for chunk in payloads.released(parts):
            total.update(chunk)
            yield chunk

    unnamed = path.with_name(f"{path.name}.data.tmp")
    write(unnamed, hashed())
    companion = path.with_name(f"{path.stem}.{total.hexdigest()[:8]}.data")
    os.replace(unnamed, companion)
    for tensor, offset, _, payload in layout:
        del tensor.external_data[:]
        for key, value in (("location", companion.name), ("offset", offset), ("length", len(payload))):
            tensor.external_data.add(key=key, value=str(value))
    return copy.SerializeToString(deterministic=True)


def _layout(proto: ModelProto, payloads: Payloads) -> Iterator[tuple[TensorProto, int, bytes, Payload]]:
    """(tensor, offset, padding before it, bytes) of the external file; large ones on page boundaries."""
    at = 0
    for tensor in tensors_of(proto):
        payload = payloads.get(location_of(tensor))
        if payload is None:
            continue
        padding = -at % (_PAGE if len(payload) >= _PAGED else _ALIGNMENT)
        yield tensor, at + padding, bytes(padding), payload
        at += padding + len(payload)
