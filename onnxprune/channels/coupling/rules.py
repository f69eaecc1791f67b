"""The table of rules, one entry for an operator."""

from __future__ import annotations

from onnx import NodeProto

from onnxprune.channels.coupling import elementwise_rules, layer_rules, shape_rules
from onnxprune.channels.coupling.rule_context import Rule, RuleContext
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
_MICROSOFT = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")  # some of them with a bias
_SKIPPING = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")  # of a sum of two inputs


def _no_inputs(ctx: RuleContext) -> None:
    """Constant: there is no input to couple."""


def _always(ctx: RuleContext) -> bool:
    return True


def _never(ctx: RuleContext) -> bool:
    return False


_RULES: dict[tuple[str, str], Rule] = {
    **{("", name): elementwise_rules.broadcast for name in _ELEMENTWISE},
    **{("", name): elementwise_rules.unary for name in _UNARY},
    **{("com.microsoft", name): elementwise_rules.biased for name in _MICROSOFT},
    **{("com.microsoft", name): elementwise_rules.mixing(elementwise_rules.all_axes) for name in _SKIPPING},
    ("", "Softmax"): elementwise_rules.mixing(elementwise_rules.softmax_axes),
    ("", "LogSoftmax"): elementwise_rules.mixing(elementwise_rules.softmax_axes),
    ("", "Hardmax"): elementwise_rules.mixing(elementwise_rules.softmax_axes),
    ("", "CumSum"): elementwise_rules.mixing(elementwise_rules.cumsum_axes),
    ("", "LayerNormalization"): elementwise_rules.mixing(elementwise_rules.layer_norm_axes),
    ("", "RMSNormalization"): elementwise_rules.mixing(elementwise_rules.layer_norm_axes),
    ("", "SimplifiedLayerNormalization"): elementwise_rules.mixing(elementwise_rules.layer_norm_axes),
    ("", "BatchNormalization"): elementwise_rules.per_channel(1, 2, 3, 4, known=True),
    ("", "InstanceNormalization"): elementwise_rules.per_channel(1, 2, known=False),
    ("", "GroupNormalization"): elementwise_rules.group_norm,
    ("", "QuantizeLinear"): elementwise_rules.quantise,
    ("", "DequantizeLinear"): elementwise_rules.quantise,
    ("com.microsoft", "QuantizeLinear"): elementwise_rules.quantise,
    ("com.microsoft", "DequantizeLinear"): elementwise_rules.quantise,
    ("", "Transpose"): shape_rules.transpose,
    ("", "Squeeze"): shape_rules.squeeze,
    ("", "Unsqueeze"): shape_rules.unsqueeze,
    ("", "Flatten"): shape_rules.flatten,
    ("", "Reshape"): shape_rules.reshape,
    ("", "Concat"): shape_rules.concat,
    ("", "Split"): shape_rules.split,
    ("", "Slice"): shape_rules.slice_,
    ("", "Gather"): shape_rules.gather,
    ("", "Shape"): shape_rules.shape,
    ("", "ConstantOfShape"): shape_rules.constant_of_shape,
    ("", "Constant"): _no_inputs,
    ("", "Expand"): shape_rules.expand,
    ("", "Tile"): shape_rules.tile,
    ("", "DepthToSpace"): shape_rules.depth_to_space,
    ("", "SpaceToDepth"): shape_rules.space_to_depth,
    ("", "MaxPool"): shape_rules.pool(_never),
    ("", "GlobalMaxPool"): shape_rules.pool(_never),
    ("", "AveragePool"): shape_rules.pool(shape_rules.counts_borders),
    ("", "GlobalAveragePool"): shape_rules.pool(_never),
    ("", "LpPool"): shape_rules.pool(_always),
    ("", "GlobalLpPool"): shape_rules.pool(_always),
    ("", "ReduceMax"): shape_rules.reduce(),
    ("", "ReduceMin"): shape_rules.reduce(),
    ("", "ReduceMean"): shape_rules.reduce(),
    ("", "ReduceSum"): shape_rules.reduce(zero_only=True),
    ("", "ReduceL1"): shape_rules.reduce(zero_only=True),
    ("", "ReduceL2"): shape_rules.reduce(zero_only=True),
    ("", "ReduceSumSquare"): shape_rules.reduce(zero_only=True),
    ("", "ReduceProd"): shape_rules.reduce(known=False),
    ("", "ReduceLogSum"): shape_rules.reduce(known=False),
    ("", "ReduceLogSumExp"): shape_rules.reduce(known=False),
    ("", "ArgMax"): shape_rules.arg,
    ("", "ArgMin"): shape_rules.arg,
    ("", "Pad"): shape_rules.pad,
    ("", "Resize"): shape_rules.resize,
    ("", "Upsample"): shape_rules.resize,
    ("", "Conv"): layer_rules.conv,
    ("", "ConvTranspose"): layer_rules.conv_transpose,
    ("", "Gemm"): layer_rules.gemm,
    ("", "MatMul"): layer_rules.matmul,
    ("", "Einsum"): layer_rules.einsum,
    ("", "LSTM"): layer_rules.recurrent(4, 3),
    ("", "GRU"): layer_rules.recurrent(3, 2),
    ("", "RNN"): layer_rules.recurrent(1, 0),
}


def rule_of(node: NodeProto) -> Rule | None:
    """The node's rule, or None where its operator has none."""
    return _RULES.get((domain(node), node.op_type))
