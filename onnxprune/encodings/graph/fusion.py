"""Where ONNX Runtime reads a weight as small integers, and the graph in the form that lets it do so.

Its optimiser turns DequantizeLinear + MatMul or Gemm into one kernel (MatMulNBits; 8 bits from release 1.25 on, 4 bits
in front of a MatMul from 1.23). Measured with 1.32, two things stand in its way, and both have exact equivalents:

- Gemm that reads the transpose: the weight is stored transposed. With a bias that is no vector of constants it becomes
  MatMul + Add.
- Relu or Clip that alone reads the product: a Max takes the place of Relu, and stands in front of Clip.

The kernel rounds what it multiplies with to 8 bits, block by block: beside a large value small ones vanish. Products of
which a logarithm, a root or a quotient is taken (filter banks of sounds) are left to floats. So are products with what
was dequantised: the optimiser takes both for integers then, and the scales of blocks for those of rows.

What is added or changed carries a mark in its name, so that `undo` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight

MIN_FUSED_ELEMENTS = 1 << 12  # elements; below this a kernel of its own saves nothing
_LOOK = 8  # nodes behind a product, one after the other
_SINGULAR = frozenset({"Log", "Sqrt", "Reciprocal"})  # steep near 0
_PASSING = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Flatten", "Identity", "Max", "Min", "Mul", "Neg", "Relu", "Reshape", "Slice",
     "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)  # fmt: skip
_MOVING = frozenset(  # operators past which ONNX Runtime may pull DequantizeLinear
    {"Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze",
     "Transpose", "Unsqueeze"}
)  # fmt: skip
_GEMM, _RELU, _CLIP = "onnxprune:gemm:", "onnxprune:relu:", "onnxprune:clip:"
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Readers:
    """The node whose kernel can read a weight's integers.

    Attributes:
        node: a MatMul or Gemm in the weight's own body.
        transposed: whether it reads the weight's transpose.
        others: whether something else reads the weight too.
    """

    node: NodeProto
    transposed: bool
    others: bool


def readers_of(weight: Weight) -> Readers | None:
    """The fusing reader of a weight, or None: integers that two nodes read are not fused but decoded at every run."""
    if len(weight.shape) != 2 or weight.element != TensorProto.FLOAT or weight.size < MIN_FUSED_ELEMENTS:
        return None  # MatMulNBits takes matrices of float32
    readers = weight.scope.readers.get(weight.value, [])
    ways = [(node, _transposed(node, position)) for node, position in readers]
    fusing = [(node, way) for node, way in ways if way is not None]
    if len(fusing) != 1:
        return None
    node = fusing[0][0]
    if _singular(weight.scope, node.output[0]) or _dequantised(weight.scope, node.input[0]):
        return None
    inner = any(weight.value in s.readers for s in weight.scope.inner() if s is not weight.scope)
    others = inner or len(ways) > 1 or weight.value in weight.scope.outputs
    return Readers(*fusing[0], others)


def _transposed(node: NodeProto, position: int) -> bool | None:
    """Whether a reader wants the transpose; None where its kernel cannot fuse."""
    if domain(node) or position != 1 or node.input[0] == node.input[1] or not node.output[0]:
        return None
    if node.op_type == "MatMul":
        return False
    if node.op_type != "Gemm" or attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1:
        return None
    if attribute(node, "beta", 1.0) != 1 or any(a.ref_attr_name for a in node.attribute):
        return None
    return bool(attribute(node, "transB", 0))


def _singular(scope: Scope, product: str) -> bool:
    """Whether something is computed of a product, entry by entry, that is steep where it is near 0."""
    values = {product}
    for _ in range(_LOOK):
        further = set()
        for value in values:
            for node, position in scope.readers.get(value, ()):
                if domain(node):
                    continue
                if node.op_type in _SINGULAR or (node.op_type == "Div" and position == 1):
                    return True
                if node.op_type == "Pow" and position == 0 and not _whole(scope, node.input[1]):
                    return True
                if node.op_type in _PASSING or node.op_type == "Div":
                    further.add(node.output[0])
        values = further
    return False


def _dequantised(scope: Scope, value: str) -> bool:
    """Whether a value is what DequantizeLinear gives, or was only moved since."""
    values = {value}
    for _ in range(_LOOK):
        makers = [maker for value in values if (maker := scope.producers.get(value)) is not None and not domain(maker)]
        if any(maker.op_type == "DequantizeLinear" for maker in makers):
            return True
        values = {name for maker in makers if maker.op_type in _MOVING for name in maker.input}
    return False


def _whole(scope: Scope, exponent: str) -> bool:
    """Whether an exponent is a whole number above 0."""
    held = scope.constant(exponent)
    if held is None or held.data_location == TensorProto.EXTERNAL:
        return False
    number = numpy_helper.to_array(held)
    return bool(((number > 0) & (number == np.rint(number))).all())


def apply(scope: Scope, node: NodeProto, value: str, prefix: str, outputs: int) -> None:
    """Let a node read a dequantised weight in a form that ONNX Runtime fuses.

    Args:
        scope: the body of the node.
        node: a MatMul or Gemm.
        value: the name of the dequantised weight.
        prefix: what new names begin with.
        outputs: how many the node has.
    """
    node.input[1] = value
    if node.op_type == "Gemm" and not _adds_vector(scope, node, outputs):
        split(scope, node, prefix)
    else:
        _set_transposed(node, 0)
    _unclip(scope, node.output[0], prefix)


def _adds_vector(scope: Scope, node: NodeProto, outputs: int) -> bool:
    """Whether a Gemm adds nothing, or one constant for each output."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    bias = scope.constant(node.input[2])
    return bias is not None and list(bias.dims) == [outputs]


def split(scope: Scope, node: NodeProto, prefix: str) -> None:
    """Gemm as MatMul and Add: for a bias that no kernel takes, and for products of integers."""
    given = ",".join([a.name for a in node.attribute] + ["C"] * (len(node.input) > 2))
    name = f"{_GEMM}{prefix}:{given}:{node.name}"
    node.op_type = "MatMul"
    del node.attribute[:]
    if len(node.input) < 3 or not node.input[2]:
        del node.input[2:]
        node.name = name
        return
    bias = node.input[2]
    del node.input[2:]
    output = node.output[0]
    node.output[0] = f"{prefix}m"
    add = helper.make_node("Add", [node.output[0], bias], [output], name=name)
    scope.body.node.insert(_place(scope, node) + 1, add)


def _unclip(scope: Scope, product: str, prefix: str) -> None:
    """Whatever alone reads the product (or its sum with a bias) is no Relu or Clip afterwards."""
    reader = _only_reader(scope, product)
    while reader is not None and reader.op_type == "Add" and not domain(reader) and _biases(scope, reader, product):
        product = reader.output[0]
        reader = _only_reader(scope, product)
    if reader is None or domain(reader):
        return
    if reader.op_type == "Relu":
        reader.op_type, reader.name = "Max", f"{_RELU}{prefix}:{reader.name}"
        reader.input.append(_constant(scope, f"{prefix}zero", 0.0))
    elif reader.op_type in ("Add", "Clip"):  # of an Add onnxruntime would make Gemm, which it fuses with a bias only
        _guard(scope, reader, product, prefix)


def _only_reader(scope: Scope, product: str) -> NodeProto | None:
    """The node of the body that alone reads a value, which nobody else is handed."""
    reading = [] if product in scope.outputs else _readers(scope, product)
    return reading[0] if len(reading) == 1 and any(n is reading[0] for n in scope.body.node) else None


def _biases(scope: Scope, add: NodeProto, product: str) -> bool:
    """Whether an Add adds a constant vector to the product."""
    other = [name for name in add.input if name != product]
    bias = scope.constant(other[0]) if other else None
    return bias is not None and len(bias.dims) == 1


def _guard(scope: Scope, reader: NodeProto, product: str, prefix: str) -> None:
    """A Max with the lowest number between the product and its reader."""
    reader.input[list(reader.input).index(product)] = f"{prefix}c"
    low = _constant(scope, f"{prefix}low", _LOWEST)
    node = helper.make_node("Max", [product, low], [f"{prefix}c"], name=f"{_CLIP}{prefix}:")
    scope.body.node.insert(_place(scope, reader), node)


def _readers(scope: Scope, value: str) -> list[NodeProto]:
    """The present readers of a value in this body and below it."""
    return [n for s in scope.inner() for n in s.body.node for name in n.input if name == value]


def _constant(scope: Scope, name: str, value: float) -> str:
    """A scalar in a node of its own."""
    tensor = numpy_helper.from_array(np.array(value, np.float32))
    scope.body.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
    return name


def _place(scope: Scope, node: NodeProto) -> int:
    return next(i for i, n in enumerate(scope.body.node) if n is node)


# the way back ----------------------------------------------------------------------------------------------


def undo(scope: Scope, prefix: str, value: str, transposed: bool) -> None:
    """Undo `apply` for all nodes that read a weight.

    Args:
        scope: the body of the nodes.
        prefix: what the names that `apply` made begin with.
        value: the name of the weight.
        transposed: whether the nodes read the weight's transpose.
    """
    body = scope.body
    for node in list(body.node):
        if node.op_type == "Max" and node.name.startswith(_RELU) and node.input[1].startswith(prefix):
            node.op_type, node.name = "Relu", _original(node)
            del node.input[1:]
        elif node.op_type == "Max" and node.name.startswith(_CLIP) and node.output[0].startswith(prefix):
            for reader in _readers(scope, node.output[0]):
                reader.input[list(reader.input).index(node.output[0])] = node.input[0]
            body.node.remove(node)
    products = [node for node in body.node if node.op_type in ("MatMul", "Gemm")]
    for node in [n for n in products if n.input[1].startswith(f"{prefix}r")] or [
        n for n in products if n.input[1] == value
    ]:
        node.input[1] = value
        _set_transposed(node, int(transposed))
        _join(scope, node, prefix, transposed)


def _set_transposed(node: NodeProto, transposed: int) -> None:
    """Let a Gemm read the transpose or not; one that says nothing does not, and no MatMul does."""
    for entry in node.attribute:
        if entry.name == "transB":
            entry.i = transposed


def _original(node: NodeProto) -> str:
    """The name that the node had before it was marked: onnxprune:<kind>:<prefix>:<name>."""
    return node.name.split(":", 3)[3]


def _join(scope: Scope, node: NodeProto, prefix: str, transposed: bool) -> None:
    """MatMul and its marked Add as Gemm."""
    reading = _readers(scope, node.output[0])
    add = reading[0] if len(reading) == 1 and node.output[0].startswith(prefix) else None
    if add is not None and add.op_type == "Add" and add.name.startswith(_GEMM + prefix):
        mark, bias = add.name, add.input[1]
        node.output[0] = add.output[0]
        scope.body.node.remove(add)
    elif node.name.startswith(_GEMM + prefix):
        mark, bias = node.name, ""
    else:
        return
    _, _, _, given, node.name = mark.split(":", 4)
    node.op_type = "Gemm"
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": int(transposed)}
    for name in given.split(","):
        if name == "C":
            node.input.append(bias)
        elif name in defaults:
            node.attribute.append(helper.make_attribute(name, defaults[name]))
