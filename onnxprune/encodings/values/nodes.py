"""From the decoded carrier to the weight: the nodes in the graph, and the same in numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxprune.core.chunked import RowRange, part_of
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
            if coded.packed is not None and dense not in build.constants:
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


@dataclass(frozen=True)
class CarrierScale:
    """How a decoded carrier becomes the weight: what `emit`'s nodes compute, for some rows at a time.

    Attributes:
        grid: the shape in which the scale applies to the carrier.
        target: the type of the weight's elements.
        scale: what the entries are multiplied by; it broadcasts over the grid. None: nothing is.
        block: rows that share a row of the scale, 0 for none.
        transposed: whether the weight is the carrier's transpose.
    """

    grid: tuple[int, ...]
    target: np.dtype
    scale: Array | None
    block: int
    transposed: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], parts: Mapping[str, Array], flags: str, element: int) -> CarrierScale:
        """That of an encoded weight.

        Args:
            shape: of the carrier.
            parts: the constants of the encoded weight by name: scale, view ...
            flags: of its mark.
            element: the weight's element type.

        Raises:
            ValueError: the parts do not fit.
        """
        target = numpy_dtype(element)
        assert target is not None
        if "scale" not in parts:
            return cls(shape, target, None, 0, False)
        marks = dict((f[:1], f[1:]) for f in flags.split(".") if f)
        scale = parts["scale"].astype(np.float64 if target == np.float64 else np.float32)
        block = int(marks.get("b", 0))
        grid = tuple(int(d) for d in parts["view"]) if "view" in parts and not block else shape
        if math.prod(grid) != math.prod(shape):
            raise ValueError(f"a view of shape {grid} does not fit {shape}")
        return cls(grid, target, scale, block, "t" in marks)

    def applied(self, rows: RowRange, carrier: Array) -> Array:
        """The entries of the weight that some rows of the grid become, in the shape of the grid."""
        if self.scale is None:
            return carrier.astype(self.target, copy=False)
        if self.block:
            scale = self.scale[np.arange(*rows) // self.block]
        else:
            scale = part_of(self.scale, rows) if self.scale.ndim == len(self.grid) else self.scale
        return (carrier.astype(self.scale.dtype) * scale).astype(self.target, copy=False)
