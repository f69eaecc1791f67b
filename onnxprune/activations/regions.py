"""Which nodes compute with integers: convolutions that gain, and what stands between them.

The choice goes by structure alone, so that the same model gives the same file. Whether the whole gains is timed.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight

LEAST_INPUTS = 48  # of an output of a convolution: with fewer, rounding takes what the kernel saves
_SAME_GRID = frozenset({"MaxPool", "Resize"})  # what they give is among what they read
_INTEGER = frozenset({"Add", "Sum", "Mul", "Sigmoid", "Concat"}) | _SAME_GRID  # have kernels for uint8
_VANISHING = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class IntegerNode:
    """A node of the main graph whose output is rounded to uint8.

    Attributes:
        node: the node.
        weight: of a convolution, which nothing else reads.
        activation: the Relu, or the Clip from 0 on, that alone reads the node: rounding to uint8 does what it does.
    """

    node: NodeProto
    weight: Weight | None = None
    activation: NodeProto | None = None

    @property
    def output(self) -> str:
        """What later nodes read."""
        return (self.activation or self.node).output[0]

    @property
    def same_grid(self) -> bool:
        """Whether its output is rounded like its input."""
        return self.node.op_type in _SAME_GRID


def dense_convolutions(model: Model) -> list[tuple[Weight, NodeProto]]:
    """The 2-D convolutions without groups that sum over enough inputs, with their weights, in the order of these."""
    found = []
    for weight in find(model):
        scope, readers = weight.scope, weight.scope.readers.get(weight.value, [])
        alone = not scope.path and isinstance(scope.body, GraphProto) and scope.reads(weight.value) == 1
        if not alone or weight.value in scope.outputs or weight.element != TensorProto.FLOAT or len(readers) != 1:
            continue
        node, position = readers[0]
        bias = node.input[2] if len(node.input) > 2 else ""
        dense = node.op_type == "Conv" and not domain(node) and position == 1 and attribute(node, "group", 1) == 1
        constant = not weight.overridable and not scope.shadows(weight.value)
        if bias:
            overridable = bias in scope.inputs and model.proto.ir_version >= 4
            constant = constant and not overridable and scope.constant(bias) is not None
        if dense and constant and len(weight.shape) == 4 and math.prod(weight.shape[1:]) >= LEAST_INPUTS:
            found.append((weight, node))
    return found


def integer_nodes(model: Model) -> list[IntegerNode]:
    """The nodes to compute with integers, in the order of the graph.

    Convolutions whose outputs are read by such nodes and by other convolutions, but for the last on each way: what is
    rounded there would be the outputs. And what they give to each other through: sums, products, Sigmoid, Concat and
    pooling, which read nothing but rounded values.
    """
    convolutions = {id(node): (weight, node) for weight, node in dense_convolutions(model)}
    if not convolutions:
        return []
    scope = next(iter(convolutions.values()))[0].scope
    leading = _leading(scope, convolutions.keys())
    found, rounded = list[IntegerNode](), set[str]()
    for node in scope.body.node:
        weight = convolutions[id(node)][0] if id(node) in convolutions else None
        if weight is None and not _takes_integers(node, rounded):
            continue
        candidate = IntegerNode(node, weight, _activation(scope, node))
        output = candidate.output
        readers = [reader for inner in scope.inner() for reader, _ in inner.readers.get(output, ())]
        if output not in leading or output in scope.outputs:
            continue
        if weight is None or all(id(reader) in convolutions or _integer(reader) for reader in readers):
            found.append(candidate)
            rounded.add(output)
    return found if any(each.weight is not None for each in found) else []


def _leading(scope: Scope, convolutions: Container[int]) -> set[str]:
    """The values from which a way leads to one of the convolutions, which are given by their ids."""
    found = set[str]()
    for node in reversed(scope.body.node):
        if id(node) in convolutions or any(name in found for name in node.output):
            found.update(node.input)
    return found


def _integer(node: NodeProto) -> bool:
    """Whether a node may compute with integers, or vanishes when they are rounded."""
    return not domain(node) and node.op_type in _INTEGER | _VANISHING


def _takes_integers(node: NodeProto, rounded: Container[str]) -> bool:
    """Whether a node that is no convolution can compute with integers: it reads nothing but rounded values."""
    if domain(node) or node.op_type not in _INTEGER or len([name for name in node.output if name]) != 1:
        return False
    if node.op_type == "Resize" and attribute(node, "mode", b"nearest") != b"nearest":
        return False
    read = node.input[:1] if node.op_type in _SAME_GRID else node.input
    pair = node.op_type in ("Add", "Sum", "Mul")
    return all(name in rounded for name in read) and (not pair or len(read) == 2)


def _activation(scope: Scope, node: NodeProto) -> NodeProto | None:
    """The Relu, or Clip from 0 on, that alone reads a node."""
    value = node.output[0]
    if scope.reads(value) != 1 or value in scope.outputs or value not in scope.readers:
        return None
    reader, position = scope.readers[value][0]
    if domain(reader) or position or reader.op_type not in _VANISHING:
        return None
    if reader.op_type == "Relu":
        return reader
    least = scope.constant(reader.input[1]) if len(reader.input) > 1 and reader.input[1] else None
    return reader if least is not None and not numpy_helper.to_array(least).any() else None
