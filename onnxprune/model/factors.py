"""Factors: what a weight is multiplied by before a layer reads it."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope

_ENTRY_BY_ENTRY = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Pow", "Cast", "Identity"})
Shape = tuple[int, ...]


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


def _computed_shape(scope: Scope, name: str) -> Shape | None:
    """The shape of a constant, or of what constants alone are computed to entry by entry; None for everything else.

    Optimisers that fold a batch norm into the weight in front of it leave its scale as such nodes.
    """
    tensor = scope.constant(name)
    if tensor is not None:
        return tuple(tensor.dims)
    owner = scope.owner(name)
    maker = None if owner is None else owner.producers.get(name)
    if owner is None or maker is None or domain(maker):
        return None
    if maker.op_type == "Unsqueeze":
        return _unsqueezed(owner, maker)
    if maker.op_type not in _ENTRY_BY_ENTRY:
        return None
    shapes = [_computed_shape(owner, each) for each in maker.input]
    try:
        known = [shape for shape in shapes if shape is not None]
        return np.broadcast_shapes(*known) if len(known) == len(shapes) else None
    except ValueError:
        return None


def _unsqueezed(scope: Scope, node: NodeProto) -> Shape | None:
    """The shape behind an Unsqueeze whose axes are known."""
    shape, axes = _computed_shape(scope, node.input[0]), attribute(node, "axes", ())
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
