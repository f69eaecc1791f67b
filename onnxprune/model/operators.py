"""Which inputs of which operators are weights, along which axes they act, and what scales them before: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.model.scopes import DEFAULT_DOMAIN, Scope

_OPERANDS = 4  # of an Einsum, of which any may be a weight
_HOPS = 8  # nodes one behind the other: a batch norm leaves five
_ENTRY_BY_ENTRY = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Pow", "Cast", "Identity"})


@dataclass(frozen=True)
class Role:
    """How an operator reads a weight.

    Axes count from 0 in the operator's view of the tensor; `scale` and `zero` are the positions of
    the inputs that quantise it.
    """

    kind: str
    out_axis: int | None = None
    in_axes: tuple[int, ...] = ()
    scale: int | None = None
    zero: int | None = None


OPERAND = "operand"  # what the kind of a weight ends with that an operator without weights reads
BLOCKS = "blocks of a few bits"  # what the kind of a weight is that operators read packed, with scales of its own
PROCESSOR = "weight laid out for one processor"  # what the kind of a weight is that ONNX Runtime's optimiser reordered
Reader = Callable[[NodeProto, int], Role | None]  # (node, rank of the weight) -> role; None where it is no weight


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The node's attribute, or the default."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _conv(kind: str = "conv", **quantised: int) -> Reader:
    return lambda node, rank: Role(kind, 0, tuple(range(1, rank)), **quantised)


def _conv_transpose(node: NodeProto, rank: int) -> Role:
    return Role("conv_transpose", 1, (0, *range(2, rank)))


def _right(kind: str, transposed: str = "", **quantised: int) -> Reader:
    """The right-hand side of a matrix product: [..., in, out], or [..., out, in] where transposed."""

    def role(node: NodeProto, rank: int) -> Role:
        if rank == 1:
            return Role(kind, None, (0,), **quantised)
        swapped = bool(transposed) and bool(attribute(node, transposed, 0))
        return Role(kind, rank - 2 if swapped else rank - 1, (rank - 1 if swapped else rank - 2,), **quantised)

    return role


def _left(kind: str, transposed: str = "", **quantised: int) -> Reader:
    """The left-hand side: [..., out, in], or [..., in, out] where transposed."""

    def role(node: NodeProto, rank: int) -> Role:
        if rank == 1:
            return Role(kind, None, (0,), **quantised)
        swapped = bool(transposed) and bool(attribute(node, transposed, 0))
        return Role(kind, rank - 1 if swapped else rank - 2, (rank - 2 if swapped else rank - 1,), **quantised)

    return role


def _recurrent(kind: str, **quantised: int) -> Reader:
    return lambda node, rank: Role(kind, 1, (2,), **quantised)


def _recurrent_microsoft(kind: str, **quantised: int) -> Reader:
    # [directions, in, gates * hidden]: transposed against the standard operator
    return lambda node, rank: Role(kind, 2, (1,), **quantised)


def einsum_labels(node: NodeProto) -> tuple[list[str], str]:
    """The labels of each operand of an Einsum, and those of its result, which may start with "..."."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow:  # then those that are there once stay, in the order of the alphabet
        letters = terms.replace(",", "").replace(".", "")
        result = "..." * ("." in terms) + "".join(sorted(label for label in letters if letters.count(label) == 1))
    return terms.split(","), result


def _einsum(position: int) -> Reader:
    """An operand whose equation sums over labels that another has too; a rank of 0 is one that nothing is known of."""

    def role(node: NodeProto, rank: int) -> Role | None:
        operands, result = einsum_labels(node)
        own = operands[position] if position < len(operands) else ""
        if len(operands) < 2 or "." in own or len(own) != (rank or len(own)) or len(set(own)) < len(own):
            return None
        other = "".join(operands[:position] + operands[position + 1 :])
        inward = tuple(axis for axis, label in enumerate(own) if label in other and label not in result)
        outward = [axis for axis, label in enumerate(own) if label in result and label not in other]
        if not inward or any(label not in other + result for label in own):
            return None
        return Role("einsum", outward[0] if len(outward) == 1 else None, inward)

    return role


RECURRENT_OPERATORS = frozenset({"LSTM", "GRU", "RNN"})
_LOOKS = frozenset({("Shape", 0), ("Size", 0), ("CastLike", 1)})
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
RECURRENT = frozenset({"lstm", "gru", "rnn"})  # kinds of weights whose layer reads its own outputs
_MS = "com.microsoft"
LINEAR: dict[tuple[str, str], dict[int, Reader]] = {
    ("", "Conv"): {1: _conv()},
    ("", "DeformConv"): {1: _conv()},
    ("", "ConvTranspose"): {1: _conv_transpose},
    ("", "Gemm"): {0: _left("gemm", "transA"), 1: _right("gemm", "transB")},
    ("", "MatMul"): {0: _left("matmul"), 1: _right("matmul")},
    ("", "Einsum"): {position: _einsum(position) for position in range(_OPERANDS)},
    ("", "LSTM"): {1: _recurrent("lstm"), 2: _recurrent("lstm")},
    ("", "GRU"): {1: _recurrent("gru"), 2: _recurrent("gru")},
    ("", "RNN"): {1: _recurrent("rnn"), 2: _recurrent("rnn")},
    ("", "QLinearConv"): {3: _conv(scale=4, zero=5)},
    ("", "ConvInteger"): {1: _conv(zero=3)},
    ("", "QLinearMatMul"): {3: _right("matmul", scale=4, zero=5), 0: _left("matmul", scale=1, zero=2)},
    ("", "MatMulInteger"): {1: _right("matmul", zero=3), 0: _left("matmul", zero=2)},
    (_MS, "FusedConv"): {1: _conv()},
    (_MS, "FusedGemm"): {0: _left("gemm", "transA"), 1: _right("gemm", "transB")},
    (_MS, "FusedMatMul"): {0: _left("matmul", "transA"), 1: _right("matmul", "transB")},
    (_MS, "GemmFastGelu"): {1: _right("matmul")},
    (_MS, "FusedMatMulActivation"): {0: _left("matmul", "transA"), 1: _right("matmul", "transB")},
    (_MS, "TransposeMatMul"): {0: _left("matmul", "transA"), 1: _right("matmul", "transB")},
    (_MS, "ConvTransposeWithDynamicPads"): {1: _conv_transpose},
    (_MS, "Attention"): {1: _right("attention")},
    (_MS, "QAttention"): {1: _right("attention", scale=4, zero=7)},
    (_MS, "QGemm"): {3: _right("gemm", "transB", scale=4, zero=5)},
    (_MS, "MatMulIntegerToFloat"): {1: _right("matmul", scale=3, zero=5)},
    (_MS, "DynamicQuantizeMatMul"): {1: _right("matmul", scale=2, zero=3)},
    (_MS, "DynamicQuantizeLSTM"): {
        1: _recurrent_microsoft("lstm", scale=8, zero=9),
        2: _recurrent_microsoft("lstm", scale=10, zero=11),
    },
}

# Why the constants that other inputs read are left alone unless they are named.
BIASES: dict[tuple[str, str], frozenset[int]] = {
    ("", "Conv"): frozenset({2}),
    ("", "DeformConv"): frozenset({3}),
    ("", "ConvTranspose"): frozenset({2}),
    ("", "Gemm"): frozenset({2}),
    ("", "LSTM"): frozenset({3}),
    ("", "GRU"): frozenset({3}),
    ("", "RNN"): frozenset({3}),
    ("", "Add"): frozenset({0, 1}),
    (_MS, "FusedConv"): frozenset({2}),
    (_MS, "FusedGemm"): frozenset({2}),
    (_MS, "Attention"): frozenset({2}),
    (_MS, "BiasAdd"): frozenset({1}),
    (_MS, "BiasDropout"): frozenset({1}),
    (_MS, "BiasGelu"): frozenset({1}),
    (_MS, "ConvTransposeWithDynamicPads"): frozenset({3}),
    (_MS, "FastGelu"): frozenset({1}),
    (_MS, "GemmFastGelu"): frozenset({2}),
    (_MS, "MatMulNBits"): frozenset({5}),
    (_MS, "MultiHeadAttention"): frozenset({3}),
    (_MS, "SkipLayerNormalization"): frozenset({4}),
    (_MS, "SkipSimplifiedLayerNormalization"): frozenset({3}),
    (_MS, "DynamicQuantizeLSTM"): frozenset({3}),
}
NORMS = frozenset({
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization",
    "RMSNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
    "EmbedLayerNormalization", "GroupNorm", "SkipGroupNorm",
})  # fmt: skip
TABLES = {"Gather": (0,), "GatherND": (0,), "GatherElements": (0,), "EmbedLayerNormalization": (2, 3, 4)}
# Where operators read blocks of a few bits.
_IN_BLOCKS = {(_MS, "MatMulNBits"): 1, (_MS, "GatherBlockQuantized"): 0, (_MS, "MatMulBnb4"): 1}


_PROCESSORS = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})  # whose operators read weights in blocks


def domain(node: NodeProto) -> str:
    """The node's domain, the default one spelled one way."""
    return "" if node.domain in DEFAULT_DOMAIN else node.domain


def linear_role(node: NodeProto, position: int, rank: int) -> Role | None:
    """The role of a linear layer's weight, or None."""
    reader = LINEAR.get((domain(node), node.op_type), {}).get(position)
    return reader(node, rank) if reader is not None else None


def other_role(node: NodeProto, position: int) -> str:
    """What a constant is, in a word or two, that no linear layer reads as its weight."""
    if node.domain in _PROCESSORS or (node.domain, node.op_type) == (_MS, "QLinearConv"):
        return PROCESSOR
    if position in BIASES.get((domain(node), node.op_type), ()):
        return "bias"
    if position == _IN_BLOCKS.get((domain(node), node.op_type)):
        return BLOCKS
    if position in TABLES.get(node.op_type, ()):
        return "embedding"
    return "norm" if node.op_type in NORMS else f"{node.op_type} {OPERAND}"


def draws(node: NodeProto) -> bool:
    """Whether a node gives other numbers at each run."""
    training = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
    return node.op_type in _RANDOM or training


def looks(node: NodeProto, position: int) -> bool:
    """Whether an operator reads nothing of an input but its shape or its type."""
    return not domain(node) and (node.op_type, position) in _LOOKS


def scales(scope: Scope, node: NodeProto, position: int, shape: tuple[int | None, ...], entries: int) -> bool:
    """Whether a node multiplies or divides a value by a factor of constants that is smaller and leaves its shape.

    Args:
        scope: of the node.
        node: any of the default domain.
        position: of its inputs, at which the value stands.
        shape: of the value; None for an axis of which nothing is known.
        entries: how many the value has.
    """
    if node.op_type != "Mul" and (node.op_type, position) != ("Div", 0):
        return False
    factor = _computed_shape(scope, node.input[1 - position])
    if factor is None or not shape:
        return False
    sizes = (1,) * (len(shape) - len(factor)) + factor
    fits = len(sizes) == len(shape) and all(size in (1, known) for size, known in zip(sizes, shape, strict=True))
    return fits and prod(sizes) < entries


def _computed_shape(scope: Scope, name: str, left: int = _HOPS) -> tuple[int, ...] | None:
    """The shape of a constant, or of what constants alone are computed to entry by entry; None for everything else.

    Optimisers that fold a batch norm into the weight in front of it leave its scale as such nodes, `left` at the most.
    """
    tensor = scope.constant(name)
    if tensor is not None:
        return tuple(tensor.dims)
    owner = scope.owner(name)
    maker = None if owner is None else owner.producers.get(name)
    if owner is None or maker is None or domain(maker) or not left:
        return None
    if maker.op_type == "Unsqueeze":
        return _unsqueezed(owner, maker, left - 1)
    if maker.op_type not in _ENTRY_BY_ENTRY:
        return None
    shapes = []
    for each in maker.input:
        shape = _computed_shape(owner, each, left - 1)
        if shape is None:
            return None
        shapes.append(shape)
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _unsqueezed(scope: Scope, node: NodeProto, left: int) -> tuple[int, ...] | None:
    """The shape behind an Unsqueeze whose axes are known."""
    shape, axes = _computed_shape(scope, node.input[0], left), attribute(node, "axes", ())
    if len(node.input) > 1:
        tensor = scope.constant(node.input[1])
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        axes = numpy_helper.to_array(tensor).reshape(-1).tolist()
    if shape is None or not axes:
        return None
    rank = len(shape) + len(axes)
    new, sizes = {axis % rank for axis in axes}, iter(shape)
    return tuple(1 if at in new else next(sizes, 1) for at in range(rank))
