"""From the decoded carrier to the weight: the nodes in the graph, and the same in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from onnxprune.core.dtypes import Array, numpy_dtype
from onnxprune.encodings.nodes import Builder
from onnxprune.encodings.values.base import INT4, Coded

# inputs: ONNX Runtime spreads a scale for each column over blocks of 32, with a slower kernel than longer ones have
_LONG_BLOCKS = (256, 128)


def emit(build: Builder, dense: str, coded: Coded, element: int) -> str:
    """Make the nodes between the decoded carrier and the weight.

    Args:
        build: where nodes and constants go.
        dense: the name of the decoded carrier.
        coded: the weight in its value form.
        element: the weight's element type.

    Returns:
        The name of the weight.
    """
    dtype = coded.decoded
    if coded.scale is None:
        target = numpy_dtype(element)
        return dense if dtype == target else build.op("Cast", [dense], to=element)
    scale = build.constant("scale", coded.scale)
    wide = TensorProto.DOUBLE if element == TensorProto.DOUBLE else TensorProto.FLOAT
    if coded.scale.dtype != numpy_dtype(wide):
        scale = build.op("Cast", [scale], to=wide)
    if coded.fused:
        if coded.block:
            if dense not in build.constants:
                dense = build.op("Cast", [dense], to=TensorProto.INT4)
            return build.op("DequantizeLinear", [dense, scale], axis=0, block_size=coded.block)
        inputs, outputs = coded.carrier.shape
        block = next((size for size in _LONG_BLOCKS if inputs % size == 0), 0)
        if not block or build.opset < INT4:
            return build.op("DequantizeLinear", [dense, scale], axis=1)
        if inputs > block:
            scale = build.op("Expand", [scale, build.constant("blocks", np.array([inputs // block, outputs]))])
        else:
            scale = build.reshape(scale, [1, outputs], "blocks")
        return build.op("DequantizeLinear", [dense, scale], axis=0, block_size=block)
    if dtype != numpy_dtype(wide):
        dense = build.op("Cast", [dense], to=wide)
    if coded.block:
        scale = build.reshape(scale, [coded.view[0], 1, coded.view[2]], "blocks")
    if coded.view:
        dense = build.reshape(dense, coded.view, "view")
    dense = build.op("Mul", [dense, scale])
    if coded.view:
        dense = build.reshape(dense, coded.carrier.shape, "shape")
    return dense if wide == element else build.op("Cast", [dense], to=element)


def weight_of_carrier(carrier: Array, parts: Mapping[str, Array], flags: str, element: int) -> Array:
    """The weight of a decoded carrier: what `emit`'s nodes compute.

    Args:
        carrier: the decoded carrier.
        parts: the constants of the encoded weight by name: scale, view ...
        flags: of its mark.
        element: the weight's element type.

    Raises:
        ValueError: the parts do not fit.
    """
    target = numpy_dtype(element)
    assert target is not None
    if "scale" not in parts:
        return carrier.astype(target, copy=False)
    marks = dict((f[:1], f[1:]) for f in flags.split(".") if f)
    wide = np.float64 if target == np.float64 else np.float32
    values: Array = carrier.astype(wide)
    scale: Array = parts["scale"].astype(wide)
    if "b" in marks:
        values = values * np.repeat(scale, int(marks["b"]), axis=0)[: len(values)]
    elif "view" in parts:
        values = (values.reshape(parts["view"]) * scale).reshape(carrier.shape)
    else:
        values = values * scale
    if "t" in marks:
        values = np.ascontiguousarray(values.T)
    return values.astype(target, copy=False)
