"""int8-dynamic: a grid of 127 steps per output channel, multiplied with activations that each run rounds to 8 bits.

Kernels for AVX2 without VNNI add pairs of products u8 x s8 in 16 bits, which saturate (VPMADDUBSW). With 7 bits of a
weight they never do: 2 * 255 * 63 < 2**15.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.positions import digits
from onnxprune.encodings.values.base import DYNAMIC, Coded, Values
from onnxprune.encodings.values.integers import on_uniform_grid
from onnxprune.encodings.values.scales import computed
from onnxprune.model.weight import Weight
from onnxprune.quantization.error_feedback import Feedback

STEPS = 63
MAX_INPUTS = (2**31 - 1) // (255 * STEPS)  # the products of more may not fit into int32


@dataclass(frozen=True)
class Int8Dynamic(Values):
    """A uniform grid of 127 values with a scale per output channel, for a kernel that multiplies integers."""

    name = "int8-dynamic"

    @override
    def opset(self, fused: bool) -> int:
        return DYNAMIC if fused else digits.OPSET

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """Nothing but a product reads it."""
        wide = None if transposed is None else computed(array)
        if wide is None:
            return None
        return replace(on_uniform_grid(weight, wide, STEPS, transposed), dynamic=True)
