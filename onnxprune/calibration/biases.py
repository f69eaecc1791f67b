"""The constant that shifts a layer's outputs: an input of its own, or what the node behind it adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.core.dtypes import Array, array_dtype
from onnxprune.model.model import Model
from onnxprune.model.operators import RECURRENT_OPERATORS, attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Bias:
    """The constant that a layer's outputs are shifted by.

    Attributes:
        weight: the constant.
        directions: of a recurrent layer, each of which has its own.
        start: where the layer's part of it begins in each direction.
        sign: -1 for the mean of a batch norm, which is subtracted.
    """

    weight: Weight
    directions: int = 1
    start: int = 0
    sign: float = 1.0

    def shift(self, model: Model, by: Array) -> None:
        """Add to it.

        Args:
            model: the model.
            by: float [groups, outputs of a group].
        """
        held = self.weight.array(model).astype(np.float64)
        rows, own = held.reshape(self.directions, -1), by.reshape(self.directions, -1)
        rows[:, self.start : self.start + own.shape[1]] += self.sign * own
        self.weight.set_array(model, held.astype(array_dtype(self.weight.element)))


def bias_of(weight: Weight, node: NodeProto, constants: Mapping[str, Weight]) -> Bias | None:
    """The bias of a layer whose weight one node reads, where nothing else reads that bias.

    Args:
        weight: the weight.
        node: a Conv, Gemm, MatMul or recurrent layer of the main graph.
        constants: of the main graph, by value.
    """
    scope = weight.scope
    assert weight.out_axis is not None
    outputs = weight.shape[weight.out_axis]
    own = 3 if node.op_type in RECURRENT_OPERATORS else 2
    given = node.input[own] if len(node.input) > own else ""
    if own == 3:
        found = _private(scope, given, constants)
        position = list(node.input).index(weight.value)
        return None if found is None else Bias(found, weight.shape[0], outputs * (position - 1))
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    if given:
        return _along(_private(scope, given, constants), outputs, 0)
    value = node.output[0]
    if scope.reads(value) != 1 or value in scope.outputs or value not in scope.readers:
        return None
    reader, position = scope.readers[value][0]
    if reader.op_type == "Add" and not domain(reader):
        behind = len(weight.shape) - 2 if node.op_type == "Conv" else 0  # axes after that of the outputs
        return _along(_private(scope, reader.input[1 - position], constants), outputs, behind)
    if reader.op_type == "BatchNormalization" and position == 0 and not attribute(reader, "training_mode", 0):
        mean = _private(scope, reader.input[3], constants)
        return None if mean is None else Bias(mean, sign=-1.0)
    return None


def _along(weight: Weight | None, outputs: int, behind: int) -> Bias | None:
    """A constant as a bias where it holds a number for each output, on an axis with so many axes behind it."""
    if weight is None or weight.size != outputs or len(weight.shape) <= behind:
        return None
    return Bias(weight) if weight.shape[len(weight.shape) - 1 - behind] == outputs else None


def _private(scope: Scope, name: str, constants: Mapping[str, Weight]) -> Weight | None:
    """The constant of a value that one node reads, and nobody from outside."""
    found = constants.get(name)
    alone = scope.reads(name) == 1 and name not in scope.outputs
    return found if alone and found is not None and found.element in FLOATS and not found.overridable else None
