"""Weights with unit dimensions in front, as matrices: ONNX Runtime's kernels of integers read nothing else.

A MatMul of a value [..., rows, inputs] with [1, inputs, outputs] computes what it does with [inputs, outputs], where
the value has as many axes as the weight or more.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import GraphProto, shape_inference

from onnxprune.encodings.graph.fusion import readers_of
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight


def as_matrix(model: Model, weight: Weight, known: bool = False) -> Weight | None:
    """A weight of the main graph as the matrix [inputs, outputs] that it may be stored as; None where it may not.

    Args:
        model: the model.
        weight: of the model.
        known: whether a copy of the model told that the value has the axes.
    """
    body, rank = weight.scope.body, len(weight.shape)
    if rank < 3 or weight.shape[:-2] != (1,) * (rank - 2) or weight.scope.path or not isinstance(body, GraphProto):
        return None
    if any(info.name == weight.value for info in body.value_info):
        return None  # which says what shape it has
    matrix = replace(weight, shape=weight.shape[-2:], out_axis=1, in_axes=(0,))
    readers = readers_of(matrix)
    if readers is None or readers.others or readers.node.op_type != "MatMul":
        return None
    return matrix if known or _rank(model, readers.node.input[0]) >= rank else None


def unit_dimensions(weight: Weight) -> int:
    """How many stand in front of a weight that is taken as a matrix: its tensor has them."""
    return len(weight.tensor.dims) - len(weight.shape)


def _rank(model: Model, name: str) -> int:
    """How many axes a value of the main graph has; 0 where that cannot be told."""
    try:
        graph = shape_inference.infer_shapes(model.proto).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError):  # a graph that ONNX finds fault with
        graph = model.proto.graph
    shapes = {info.name: info.type.tensor_type for info in (*graph.input, *graph.value_info, *graph.output)}
    return len(shapes[name].shape.dim) if name in shapes else 0
