"""What a model costs to run: floating-point operations, counted from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.roles import attribute, domain
from onnxprune.scopes import scopes_of
from onnxprune.shapes import Value, inferred, values_of

Values = dict[str, Value]


def flops(proto: ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> int | None:
    """Twice the multiplications of all layers for one run on inputs of these shapes (Han et al. 2015 count so).

    Conv, ConvTranspose, Gemm, MatMul and recurrent layers count, each body of If, Loop and Scan once. None where the
    shapes of a layer do not follow from those of the inputs.
    """
    fixed = ModelProto()
    fixed.CopyFrom(proto)
    for info in fixed.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, inputs.get(info.name, ()), strict=False):
            dim.dim_value = size
    total = 0
    for scope in scopes_of(inferred(fixed))[0].inner():
        assert isinstance(scope.body, GraphProto)
        values = values_of(scope.body)
        for node in scope.body.node:
            if domain(node) or node.op_type not in _COUNTS:
                continue
            try:
                total += 2 * _COUNTS[node.op_type](node, values)
            except (_Unknown, IndexError):
                return None
    return total


class _Unknown(Exception):
    pass


def _sizes(values: Values, name: str) -> tuple[int, ...]:
    shape = values[name].shape if name in values else None
    if shape is None or not all(isinstance(d, int) for d in shape):
        raise _Unknown
    return tuple(d for d in shape if isinstance(d, int))


def _conv(node: NodeProto, values: Values) -> int:
    return prod(_sizes(values, node.output[0])) * prod(_sizes(values, node.input[1])[1:])


def _conv_transpose(node: NodeProto, values: Values) -> int:
    return prod(_sizes(values, node.input[0])) * prod(_sizes(values, node.input[1])[1:])


def _gemm(node: NodeProto, values: Values) -> int:
    inner = _sizes(values, node.input[0])[0 if attribute(node, "transA", 0) else 1]
    return prod(_sizes(values, node.output[0])) * inner


def _matmul(node: NodeProto, values: Values) -> int:
    return prod(_sizes(values, node.output[0])) * _sizes(values, node.input[0])[-1]


def _recurrent(node: NodeProto, values: Values) -> int:
    steps = prod(_sizes(values, node.input[0])[:2])
    return steps * (prod(_sizes(values, node.input[1])) + prod(_sizes(values, node.input[2])))


_COUNTS = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul, "LSTM": _recurrent,
    "GRU": _recurrent, "RNN": _recurrent,
}  # fmt: skip
