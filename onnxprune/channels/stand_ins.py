"""Standard nodes in place of ONNX Runtime's own ones, which ONNX's shape inference does not know.

Only shapes are asked of them: they stand in a copy that is never run. Inputs and outputs of the operators are those of
onnxruntime 1.32 (docs/ContribOperators.md of its sources).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope, scopes_of

_MS = "com.microsoft"
Sizes = tuple[int | None, int | None]
# The outputs that have the shape of the first input, by operator, or that of the rows which it looks up.
_OUTPUTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "SimplifiedLayerNormalization"): (0,),
    (_MS, "BiasGelu"): (0,),
    (_MS, "EmbedLayerNormalization"): (0, 2),
    (_MS, "FastGelu"): (0,),
    (_MS, "Gelu"): (0,),
    (_MS, "QuickGelu"): (0,),
    (_MS, "RotaryEmbedding"): (0,),
    (_MS, "SkipLayerNormalization"): (0, 3),
    (_MS, "SkipSimplifiedLayerNormalization"): (0, 3),
}


def stand_in(proto: ModelProto) -> None:
    """Put standard nodes with outputs of the same shapes in place of ONNX Runtime's own, where one is known."""
    for scope in reversed(list(scopes_of(proto)[0].inner())):  # what encloses a body copies it
        new = {at: list(_stand_ins(scope, node)) for at, node in enumerate(scope.body.node)}
        if any(new.values()):
            nodes = [NodeProto.FromString(node.SerializeToString()) for node in scope.body.node]
            del scope.body.node[:]
            scope.body.node.extend(each for at, node in enumerate(nodes) for each in new[at] or [node])


def _stand_ins(scope: Scope, node: NodeProto) -> Iterator[NodeProto]:
    kind = domain(node), node.op_type
    for place in _OUTPUTS.get(kind, ()):
        if place < len(node.output) and node.output[place]:
            rows = node.op_type == "EmbedLayerNormalization"
            read = [node.input[2], node.input[0]] if rows else node.input[:1]
            yield helper.make_node("Gather" if rows else "Identity", read, [node.output[place]])
    sizes = _PRODUCTS[kind](scope, node) if kind in _PRODUCTS else None
    if sizes is not None:
        yield _product(scope, node, sizes)


def _product(scope: Scope, node: NodeProto, sizes: Sizes) -> NodeProto:
    """The first input times a matrix of which there is no more than its shape."""
    name = f"{node.output[0]}:factor"
    scope.body.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    return helper.make_node("MatMul", [node.input[0], name], node.output[:1])


def _attention(scope: Scope, node: NodeProto) -> Sizes:
    """Three projections at once, of equal widths unless an attribute says others."""
    hidden, weight = attribute(node, "qkv_hidden_sizes", ()), scope.constant(node.input[1])
    if hidden:
        return None, hidden[2]
    return (None, None) if weight is None else (weight.dims[0], weight.dims[1] // 3)


def _in_blocks(scope: Scope, node: NodeProto) -> Sizes:
    return attribute(node, "K", None), attribute(node, "N", None)


def _of_heads(scope: Scope, node: NodeProto) -> Sizes | None:
    """Queries of three axes give as many; of which width, the values say."""
    return (None, None) if len(node.input) > 2 and node.input[1] and node.input[2] else None


def _grouped(scope: Scope, node: NodeProto) -> Sizes:
    return None, None


_PRODUCTS: dict[tuple[str, str], Callable[[Scope, NodeProto], Sizes | None]] = {
    (_MS, "Attention"): _attention,
    (_MS, "GroupQueryAttention"): _grouped,
    (_MS, "MatMulNBits"): _in_blocks,
    (_MS, "MultiHeadAttention"): _of_heads,
    (_MS, "QAttention"): _attention,
}
