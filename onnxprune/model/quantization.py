"""The quantisation of integer weights: the scale and the zero point that their readers give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxprune.core.dtypes import Array, array_dtype
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Kind, Reason, Weight

# What exporters put between a recurrent layer and the framework's own gate order: the entries stay, the axes move.
REARRANGED = frozenset({"Slice", "Split", "Concat", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
# The inputs that are followed by their scale and their zero point, as operators between integers take them.
_OPERANDS = {
    "DequantizeLinear": (0,), "QLinearAdd": (0, 3), "QLinearMul": (0, 3), "QLinearMatMul": (0, 3), "QLinearConv": (0,),
}  # fmt: skip
Axes = tuple[int | None, ...]  # for each axis of a view of a constant the constant's own one, where it is known


@dataclass(frozen=True)
class Quantisation:
    """What a reader says.

    Attributes:
        scale, zero: as it holds them; None where it has none.
        axis: the weight's own one that they follow.
        error: why they are not known.
    """

    scale: Array | None
    zero: Array | None
    axis: int | None
    error: str = ""


def quantisation_by(
    model: Model, scope: Scope, node: NodeProto, scale: int | None, zero: int, axes: Axes, axis: int | None
) -> Quantisation:
    """Scale and zero point as constants, and the weight's own axis that they follow."""

    def constant(position: int | None) -> tuple[Array | None, str]:
        if position is None or position >= len(node.input) or not node.input[position]:
            return None, ""
        tensor = scope.constant(node.input[position])
        if tensor is None:
            return None, "its quantisation is computed at run time"
        return model.array(tensor), ""

    (scales, no_scale), (zeros, no_zero) = constant(scale), constant(zero)
    error = no_scale or no_zero
    if attribute(node, "block_size", 0):
        error = "it is quantised in blocks"
    own = axes[axis] if axis is not None and -len(axes) <= axis < len(axes) else None
    return Quantisation(scales, zeros, own, error)


def quantisation_behind(model: Model, scope: Scope, node: NodeProto) -> Quantisation | None:
    """What is said behind a node that takes rows of a table: quantisers leave these integers, and dequantise them then.

    None where one of the readers says nothing.
    """
    found: list[Quantisation] = []
    waiting = [(scope, node.output[0])]
    while waiting:
        within, name = waiting.pop()
        if name in within.outputs:
            return None
        for inner in within.inner():
            if inner is not within and (name in inner.outputs or inner.owner(name) is not within):
                return None
            for reader, position in inner.readers.get(name, ()):
                if _counts(reader, position):
                    found.append(quantisation_by(model, inner, reader, position + 1, position + 2, (), None))
                elif position == 0 and not domain(reader) and reader.op_type in REARRANGED | {"Transpose", "Identity"}:
                    waiting += [(inner, output) for output in reader.output]
                else:
                    return None
    alike = found and all(_same(each, found[0]) for each in found)
    return found[0] if alike else None


def _counts(node: NodeProto, position: int) -> bool:
    """Whether the two inputs behind one of a node's are its scale and its zero point."""
    if node.op_type == "QLinearConcat":
        return position % 3 == 2
    return position in _OPERANDS.get(node.op_type, ())


def settle(weight: Weight, quants: Sequence[Quantisation | None]) -> Reason | None:
    """Find the scale and the zero point of a quantised weight; the reason why there are none that fit."""
    first = quants[0] if quants else None
    if first is None or any(q is None for q in quants):
        text = f"{weight.dtype} without a known zero point"
        return Reason(Kind.QUANTIZATION, f"is {text}", text)
    error = next((q.error for q in quants if q is not None and q.error), "")
    if error or any(not _same(q, first) for q in quants if q is not None):
        return Reason(Kind.QUANTIZATION, error or "its readers disagree on its zero point")
    zero = first.zero if first.zero is not None else np.zeros(1, array_dtype(weight.element))
    weight.zero = _aligned(weight, zero, first.axis)
    weight.scale = None if first.scale is None else _aligned(weight, first.scale, first.axis)
    if weight.zero is None:
        return Reason(Kind.QUANTIZATION, "its zero point does not fit its shape")
    if (weight.scale is None) != (first.scale is None):
        return Reason(Kind.QUANTIZATION, "its scale does not fit its shape")
    if weight.zero.size and (weight.zero == weight.zero.flat[0]).all():  # symmetric: one for all channels
        weight.zero = weight.zero.reshape(-1)[0]
    return None


def _aligned(weight: Weight, values: Array, axis: int | None) -> Array | None:
    """Scales or zero points in a shape that broadcasts over the weight, or None where they do not fit."""
    if values.size == 1:
        return values.reshape(())
    recurrent = weight.kind in ("lstm", "gru", "rnn") and len(weight.shape) == 3  # [directions, in, gates]
    if recurrent and values.shape in ((weight.shape[0],), (weight.shape[0], weight.shape[2])):
        return values.reshape(weight.shape[0], 1, -1)
    if axis is None or values.size != weight.shape[axis]:
        return None
    return values.reshape([-1 if a == axis else 1 for a in range(len(weight.shape))])


def _same(a: Quantisation, b: Quantisation) -> bool:
    return a.axis == b.axis and all(
        (x is None) == (y is None) and (x is None or y is None or np.array_equal(x, y))
        for x, y in ((a.scale, b.scale), (a.zero, b.zero))
    )
