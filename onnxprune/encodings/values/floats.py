"""exact and half: the values themselves, and IEEE half precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxprune.core.chunked import ChunkedArray, RowRange
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.values.base import Coded, Values
from onnxprune.model.weight import Weight
from onnxprune.quantization.error_feedback import Feedback

_LOST = 2.0**-16  # of the energy of a weight, at the most: halves in their normal range lose 2**-24 of it


@dataclass(frozen=True)
class Exact(Values):
    """The values themselves."""

    name = "exact"

    @override
    def fits(self, element: int) -> bool:
        return True

    @override
    def opset(self, fused: bool) -> int:
        return 1

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded:
        return Coded(array, weight.zero_value)


@dataclass(frozen=True)
class Half(Values):
    """IEEE half precision: 11 significant bits, relative error at most 2**-11 in the normal range."""

    name = "half"

    @override
    def fits(self, element: int) -> bool:
        return element in (TensorProto.FLOAT, TensorProto.DOUBLE)

    @override
    def opset(self, fused: bool) -> int:
        return 1

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """Values beyond 65,504 do not fit, nor weights that become 0 or hold few bits: those far below 2**-14."""

        def halved(rows: RowRange, columns: slice, part: Array) -> Array:
            return part.astype(np.float16)

        def sums(_: RowRange, part: Array) -> Array:
            with np.errstate(over="ignore", invalid="ignore"):  # beyond halves, or in its square beyond float64
                wide = part.reshape(-1).astype(np.float64)
                lost = wide - part.reshape(-1).astype(np.float16)
                return np.array([lost @ lost, wide @ wide, wide.any()])

        chunked = ChunkedArray.of(array)
        lost, energy, some = sum(chunked.each(sums), np.zeros(3))
        if not np.isfinite(lost) or lost > _LOST * energy or (some and not energy):  # squares may vanish, too
            return None
        return Coded(chunked.map(np.float16, halved), np.zeros((), np.float16))
