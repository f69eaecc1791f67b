"""The table of rules: an operator is one entry."""

from __future__ import annotations

from onnx import NodeProto

from onnxprune.coupling import elementwise, layers, moves
from onnxprune.coupling.wiring import At, Rule
from onnxprune.model.operators import domain

_ELEMENTWISE = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_MICROSOFT = ("FastGelu", "Gelu", "QuickGelu")


def _nothing(at: At) -> None:
    """Constants of one kind or another: no input has slots."""


def _always(at: At) -> bool:
    return True


def _never(at: At) -> bool:
    return False


_RULES: dict[tuple[str, str], Rule] = {
    **{("", name): elementwise.broadcast for name in _ELEMENTWISE},
    **{("", name): elementwise.unary for name in _UNARY},
    **{("com.microsoft", name): elementwise.unary for name in _MICROSOFT},
    ("", "Softmax"): elementwise.mixing(elementwise.softmax_axes),
    ("", "LogSoftmax"): elementwise.mixing(elementwise.softmax_axes),
    ("", "Hardmax"): elementwise.mixing(elementwise.softmax_axes),
    ("", "CumSum"): elementwise.mixing(elementwise.cumsum_axes),
    ("", "LayerNormalization"): elementwise.mixing(elementwise.layer_norm_axes),
    ("", "RMSNormalization"): elementwise.mixing(elementwise.layer_norm_axes),
    ("", "BatchNormalization"): elementwise.per_channel(1, 2, 3, 4, known=True),
    ("", "InstanceNormalization"): elementwise.per_channel(1, 2, known=False),
    ("", "GroupNormalization"): elementwise.group_norm,
    ("", "QuantizeLinear"): elementwise.quantise,
    ("", "DequantizeLinear"): elementwise.quantise,
    ("com.microsoft", "QuantizeLinear"): elementwise.quantise,
    ("com.microsoft", "DequantizeLinear"): elementwise.quantise,
    ("", "Transpose"): moves.transpose,
    ("", "Squeeze"): moves.squeeze,
    ("", "Unsqueeze"): moves.unsqueeze,
    ("", "Flatten"): moves.flatten,
    ("", "Reshape"): moves.reshape,
    ("", "Concat"): moves.concat,
    ("", "Split"): moves.split,
    ("", "Slice"): moves.cut,
    ("", "Gather"): moves.gather,
    ("", "Shape"): moves.shape,
    ("", "ConstantOfShape"): moves.constant_of_shape,
    ("", "Constant"): _nothing,
    ("", "Expand"): moves.expand,
    ("", "Tile"): moves.tile,
    ("", "DepthToSpace"): moves.depth_to_space,
    ("", "SpaceToDepth"): moves.space_to_depth,
    ("", "MaxPool"): moves.pool(_never),
    ("", "GlobalMaxPool"): moves.pool(_never),
    ("", "AveragePool"): moves.pool(moves.counts_borders),
    ("", "GlobalAveragePool"): moves.pool(_never),
    ("", "LpPool"): moves.pool(_always),
    ("", "GlobalLpPool"): moves.pool(_always),
    ("", "ReduceMax"): moves.reduce(),
    ("", "ReduceMin"): moves.reduce(),
    ("", "ReduceMean"): moves.reduce(),
    ("", "ReduceSum"): moves.reduce(zero_only=True),
    ("", "ReduceL1"): moves.reduce(zero_only=True),
    ("", "ReduceL2"): moves.reduce(zero_only=True),
    ("", "ReduceSumSquare"): moves.reduce(zero_only=True),
    ("", "ReduceProd"): moves.reduce(known=False),
    ("", "ReduceLogSum"): moves.reduce(known=False),
    ("", "ReduceLogSumExp"): moves.reduce(known=False),
    ("", "ArgMax"): moves.arg,
    ("", "ArgMin"): moves.arg,
    ("", "Pad"): moves.pad,
    ("", "Resize"): moves.resize,
    ("", "Upsample"): moves.resize,
    ("", "Conv"): layers.conv,
    ("", "ConvTranspose"): layers.conv_transpose,
    ("", "Gemm"): layers.gemm,
    ("", "MatMul"): layers.matmul,
    ("", "LSTM"): layers.recurrent(4, 3),
    ("", "GRU"): layers.recurrent(3, 2),
    ("", "RNN"): layers.recurrent(1, 0),
}


def rule_of(node: NodeProto) -> Rule | None:
    """The node's rule, or None where its operator has none."""
    return _RULES.get((domain(node), node.op_type))
