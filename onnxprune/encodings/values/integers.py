"""int8: a uniform grid with a scale per output channel, or for each block of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.positions import digits
from onnxprune.encodings.values.base import DEAD, DEQUANTISE_AXIS, INT4, Coded, Values, check_bits
from onnxprune.encodings.values.blocks import Grid, blocks_down
from onnxprune.encodings.values.rounding import on_grid, oriented, rounded
from onnxprune.encodings.values.scales import computed, inner_axes, live_channels, tidy_scale, unit_scale
from onnxprune.model.weight import Weight
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.entropy_constrained import constrained
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.quantization.histogram import Histogram

WHOLE = Grid(-127, 127, (1.0,), np.dtype(np.int8))


@dataclass(frozen=True)
class Int8(Values):
    """A uniform grid of 255 values with a scale per output channel; with bits a codebook of 2**bits of them.

    Attributes:
        bits: of a code; 8 for the whole grid.
        excess: see `entropy_constrained.constrained`; a whole grid has none.
        block: inputs that share a scale where a kernel reads the whole grid; 0: all of them.
    """

    name = "int8"
    bits: int = 8
    excess: float = 0.0
    block: int = 0

    def __post_init__(self) -> None:
        """Check the bits."""
        check_bits(self.name, self.bits)

    def __str__(self) -> str:
        return self.name if self.bits == 8 else f"{self.name}:{self.bits}"

    @override
    def opset(self, fused: bool) -> int:
        return (INT4 if self.block else DEQUANTISE_AXIS) if fused else digits.OPSET

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        wide = computed(array)
        if wide is None:
            return None
        if self.bits < 8:
            wide, scale = live_channels(weight, wide, transposed)
            if scale is None:
                scale = unit_scale(wide)
            histogram = Histogram.of(wide, scale)
            codebook = constrained(histogram, fit_codebook(histogram, 2**self.bits, prune=False), self.excess)
            return on_grid(weight, wide, scale, codebook, False, transposed, feedback)
        if self.block and transposed is not None:
            codes, scale, _ = blocks_down(wide, transposed, WHOLE, self.block, balanced=True)
            values = WHOLE.codebook.take(codes)
            return Coded(values, np.zeros((), np.int8), None, scale, (), True, self.block, transposed)
        return on_uniform_grid(weight, wide, 127, transposed, feedback)


def on_uniform_grid(
    weight: Weight, wide: ChunkedArray, steps: int, transposed: bool | None, feedback: Feedback | None = None
) -> Coded:
    """A weight as int8 up to `steps`, which stands for the largest magnitude of each output channel.

    Args:
        weight: its axes.
        wide: its values as `computed` gives them.
        steps: on either side of 0, at most 127.
        transposed: see `oriented`.
        feedback: how rounding errors are passed on.
    """
    axes = inner_axes(weight, transposed) or tuple(range(wide.ndim))
    tops = list(wide.each(lambda _, part: np.abs(part).max(axes, keepdims=True)))
    top = (np.maximum.reduce(tops) if 0 in axes else np.concatenate(tops)) / steps
    scale = tidy_scale(np.where(top > DEAD, top, 1.0), up=True)
    levels = np.concatenate([[0], np.arange(-steps, 0), np.arange(1, steps + 1)]).astype(np.int8)
    codes = rounded(weight, wide, scale, levels.astype(np.float64), feedback)
    return oriented(codes.map(np.int8, lambda rows, columns, part: levels.take(part)), None, scale, transposed)
