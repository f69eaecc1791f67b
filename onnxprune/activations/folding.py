"""What follows a convolution channel by channel, folded into its weight and bias.

A kernel for 8-bit integers takes a weight and a bias, and its outputs are rounded at once: a batch norm, a factor or a
sum that still came behind them would work on rounded numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.activations.editing import Editor
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight


@dataclass(frozen=True)
class _Affine:
    """y = factor * x + shift: float64 [channels] each."""

    factor: Array
    shift: Array

    def then(self, factor: Array | float, shift: Array | float) -> _Affine:
        """This, and another behind it."""
        return _Affine(self.factor * factor, self.shift * factor + shift)


def fold(model: Model, weight: Weight, conv: NodeProto, editor: Editor) -> int:
    """Fold the nodes behind a convolution into its weight and bias; returns how many.

    A batch norm in inference, products and sums with a constant for each channel, and Identity are folded as long as
    nothing else reads what is between them.

    Args:
        model: the model.
        weight: of the convolution [outputs, inputs, ...], which nothing else reads.
        conv: its node; its bias, if it has one, is a constant.
        editor: of the main graph, where they are.
    """
    scope, channels = weight.scope, weight.shape[0]
    whole, behind = _Affine(np.ones(channels), np.zeros(channels)), list[NodeProto]()
    for node, factor, shift in _following(model, scope, conv.output[0], len(weight.shape), channels):
        whole = whole.then(factor, shift)
        behind.append(node)
    if not behind:
        return 0
    conv.output[0] = behind[-1].output[0]
    editor.remove(behind)
    if (whole.factor != 1).any():
        array = weight.array(model).astype(np.float64)
        scaled = array * whole.factor.reshape(-1, *[1] * (array.ndim - 1))
        weight.set_array(model, scaled.astype(np.float32))
    held = scope.constant(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else None
    bias = whole.then(1.0, 0.0 if held is None else whole.factor * model.array(held).astype(np.float64)).shift
    if held is not None or bias.any():
        del conv.input[2:]
        conv.input.append(editor.constant(f"{weight.value}.bias", bias.astype(np.float32)))
    return len(behind)


def _following(
    model: Model, scope: Scope, value: str, rank: int, channels: int
) -> Iterator[tuple[NodeProto, Array | float, Array | float]]:
    """The nodes behind a value that multiply and add numbers by channel, with those."""
    while scope.reads(value) == 1 and value not in scope.outputs and value in scope.readers:
        node, position = scope.readers[value][0]
        numbers = _affine(model, scope, node, position, rank, channels)
        if numbers is None:
            return
        yield node, *numbers
        value = node.output[0]


def _affine(
    model: Model, scope: Scope, node: NodeProto, position: int, rank: int, channels: int
) -> tuple[Array | float, Array | float] | None:
    """Factor and shift of a node; None where it does something else."""
    if domain(node):
        return None
    if node.op_type == "Identity":
        return 1.0, 0.0
    if node.op_type == "BatchNormalization":
        return _batch_norm(model, scope, node) if position == 0 else None
    if node.op_type not in ("Mul", "Add"):
        return None
    tensor = scope.constant(node.input[1 - position])
    if tensor is None or tensor.data_type != TensorProto.FLOAT:
        return None
    try:
        shaped = np.broadcast_to(model.array(tensor), (1, channels, *[1] * (rank - 2)))
    except ValueError:
        return None
    numbers = shaped.reshape(-1).astype(np.float64)
    return (numbers, 0.0) if node.op_type == "Mul" else (1.0, numbers)


def _batch_norm(model: Model, scope: Scope, node: NodeProto) -> tuple[Array, Array] | None:
    """A batch norm in inference with constant numbers."""
    tensors = [scope.constant(name) for name in node.input[1:5]]
    if attribute(node, "training_mode", 0) or any(node.output[1:]) or any(tensor is None for tensor in tensors):
        return None
    gamma, beta, mean, variance = (model.array(tensor).astype(np.float64) for tensor in tensors if tensor is not None)
    factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return factor, beta - mean * factor
