"""Small edits of a body, and what the bytes around an entry cost."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto, TensorProto

TAG = 4  # bytes that a repeated field adds around each of its entries, at the least


def constant_node(tensor: TensorProto) -> NodeProto:
    """A Constant node that holds the tensor."""
    name, tensor.name = tensor.name, ""
    node = NodeProto(op_type="Constant", output=[name])
    attribute = node.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(tensor)
    return node


def index_of(entries: Any, name: str) -> int:
    """Where the entry of that name stands in a repeated field."""
    return next(i for i, entry in enumerate(entries) if entry.name == name)


def delete_named(entries: Any, name: str) -> None:
    """Delete the entry of that name from a repeated field."""
    del entries[index_of(entries, name)]
