"""Take the big tensors out of a serialised ONNX model, and put them back, without parsing them.

A protobuf message is a list of (field, length, bytes). Walking only the fields on the way from the
model to its tensors finds where each weight's bytes lie in the file, so that a weight is a view of
the mapped file and the parsed `ModelProto` holds only the graph. While its bytes are elsewhere, a
tensor is an external one whose location is a token (`TOKEN` + a number).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import TypeVar

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx import SparseTensorProto as Sparse
from onnx import TrainingInfoProto as Training

TOKEN = f"onnxprune:{secrets.token_hex(4)}:"  # no file can name the bytes of another tensor
_MANY = 1000  # fields of an attribute that are walked before it is parsed
INLINE = 1024  # bytes; smaller tensors stay in the graph, where shape inference wants to read them

Chunk = bytes | memoryview
Body = TypeVar("Body", bound=Sized)

_LENGTH_DELIMITED = 2
_RAW = TensorProto.RAW_DATA_FIELD_NUMBER
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {
        ModelProto.GRAPH_FIELD_NUMBER: "graph",
        ModelProto.FUNCTIONS_FIELD_NUMBER: "function",
        ModelProto.TRAINING_INFO_FIELD_NUMBER: "training",
    },
    "training": {Training.INITIALIZATION_FIELD_NUMBER: "graph", Training.ALGORITHM_FIELD_NUMBER: "graph"},
    "graph": {
        GraphProto.NODE_FIELD_NUMBER: "node",
        GraphProto.INITIALIZER_FIELD_NUMBER: "tensor",
        GraphProto.SPARSE_INITIALIZER_FIELD_NUMBER: "sparse",
    },
    "function": {FunctionProto.NODE_FIELD_NUMBER: "node"},
    "node": {NodeProto.ATTRIBUTE_FIELD_NUMBER: "attribute"},
    "attribute": {
        AttributeProto.T_FIELD_NUMBER: "tensor",
        AttributeProto.G_FIELD_NUMBER: "graph",
        AttributeProto.TENSORS_FIELD_NUMBER: "tensor",
        AttributeProto.GRAPHS_FIELD_NUMBER: "graph",
        AttributeProto.SPARSE_TENSOR_FIELD_NUMBER: "sparse",
        AttributeProto.SPARSE_TENSORS_FIELD_NUMBER: "sparse",
    },
    "sparse": {Sparse.VALUES_FIELD_NUMBER: "tensor", Sparse.INDICES_FIELD_NUMBER: "tensor"},
    "tensor": {},
}


def varint(value: int) -> bytes:
    """`value` as a protobuf variable-length integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a variable-length integer does not end")


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """(field number or 0 where it has no length, start of the field, start of its body, end)."""
    at, size = 0, len(data)
    while at < size:
        start = at
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == _LENGTH_DELIMITED:
            length, at = _read_varint(data, at)
            yield key >> 3, start, at, at + length
            at += length
        else:
            if wire == 0:
                _, at = _read_varint(data, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire} is not used by ONNX")
            yield 0, start, start, at
        if at > size:
            raise ValueError("a field is longer than its message")


def _field(number: int, chunks: Sequence[Chunk | Body]) -> list[Chunk | Body]:
    return [varint(number << 3 | _LENGTH_DELIMITED) + varint(sum(map(len, chunks))), *chunks]


def raw_field(payload: Body) -> list[Chunk | Body]:
    """The serialised field that holds a tensor's raw bytes, as head and body."""
    return _field(_RAW, [payload])


def reference(location: str) -> bytes:
    """The serialised fields that make a tensor an external one."""
    tensor = TensorProto(data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor.SerializeToString()


def take_out(data: memoryview, keep: Callable[[int, int], str], kind: str = "model", at: int = 0) -> list[Chunk]:
    """A message without the raw bytes of its tensors above `INLINE` bytes.

    Args:
        data: the message.
        keep: (where the bytes begin in the file, their length) -> the location that stands for them.
        kind: of the message: model, graph, tensor ...
        at: where the message begins in its file.

    Raises:
        ValueError, IndexError: the bytes are not a protobuf message.
    """
    children = _CHILDREN[kind]
    out: list[Chunk] = []
    last: list[Chunk] = []
    copied = 0
    for count, (number, start, body, end) in enumerate(_fields(data)):
        if count == _MANY and kind == "attribute" and not _holds_tensors(data):
            break
        if end - body <= INLINE:
            continue
        if kind == "tensor" and number == _RAW:
            replaced: list[Chunk] = []
            last = [reference(keep(at + body, end - body))]  # of a field that is there twice the last one counts
        elif number in children:
            replaced = _field(number, take_out(data[body:end], keep, children[number], at + body))
        else:
            continue
        out += [data[copied:start], *replaced]
        copied = end
    return [*out, data[copied:], *last]


def _holds_tensors(attribute: memoryview) -> bool:
    """Whether a serialised attribute holds tensors or graphs; trees of a forest are lists of millions of numbers."""
    parsed = AttributeProto.FromString(bytes(attribute))
    return any(field.message_type is not None for field, _ in parsed.ListFields())


def put_back(data: memoryview, payload: Callable[[str], Body], kind: str = "model") -> list[Chunk | Body]:
    """The inverse of `take_out`: the serialised model as chunks, with the payloads in place, not copied."""
    if TOKEN.encode() not in bytes(data):
        return [data]
    if kind == "tensor":
        tensor = TensorProto.FromString(bytes(data))
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if not location.startswith(TOKEN):
            return [data]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        return [tensor.SerializeToString(), *raw_field(payload(location))]
    children = _CHILDREN[kind]
    out: list[Chunk | Body] = []
    copied = 0
    for number, start, body, end in _fields(data):
        if number in children:
            out.append(data[copied:start])
            out += _field(number, put_back(data[body:end], payload, children[number]))
            copied = end
    out.append(data[copied:])
    return out
