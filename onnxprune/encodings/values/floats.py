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
        """Values beyond 65,504 do not fit."""

        def halved(rows: RowRange, columns: slice, part: Array) -> Array:
            with np.errstate(over="ignore"):
                return part.astype(np.float16)

        half = ChunkedArray.of(array).map(np.float16, halved)
        finite = all(half.each(lambda _, part: bool(np.isfinite(part).all())))
        return Coded(half, np.zeros((), np.float16)) if finite else None
