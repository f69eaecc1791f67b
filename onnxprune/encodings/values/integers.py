"""int8 and int4: uniform grids, with a scale per output channel or per block."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from onnxprune.core import threads
from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, part_of, ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.filled import filled
from onnxprune.core.override import override
from onnxprune.encodings.positions import digits
from onnxprune.encodings.values.base import DEQUANTISE_AXIS, INT4, Coded, Values, check_bits
from onnxprune.encodings.values.rounding import on_grid, oriented
from onnxprune.encodings.values.scales import computed, inner_axes, live_channels, tidy_scale, unit_scale
from onnxprune.model.weight import Weight
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.entropy_constrained import constrained
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.quantization.histogram import Histogram

_LARGE = 1 << 20
_DEAD = 1e-30  # a largest value below it is nothing
BLOCKS = (32, 64, 128, 16)


@dataclass(frozen=True)
class Int8(Values):
    """A uniform grid of 255 values with a scale per output channel; with bits a codebook of 2**bits of them."""

    name = "int8"
    bits: int = 8
    excess: float = 0.0  # see `entropy.constrained`; a whole grid has none

    def __post_init__(self) -> None:
        """Check the bits."""
        check_bits(self.name, self.bits)

    def __str__(self) -> str:
        return self.name if self.bits == 8 else f"{self.name}:{self.bits}"

    @override
    def opset(self, fused: bool) -> int:
        return DEQUANTISE_AXIS if fused else digits.OPSET

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
        return on_uniform_grid(weight, wide, 127, transposed)


@dataclass(frozen=True)
class Int4(Values):
    """A uniform grid of 15 values in blocks of 16 to 128 entries along the input, the scale with the least error."""

    name = "int4"

    @override
    def opset(self, fused: bool) -> int:
        return INT4 if fused else digits.OPSET

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        wide = computed(array)
        if wide is None:
            return None
        if transposed is not None:
            codes, scale, block = _blocks_down(wide, transposed)
            return Coded(codes, np.zeros((), np.int8), INT4_CODEBOOK, scale, (), True, block, transposed)
        held = wide.whole()
        axes = inner_axes(weight)
        inside = math.prod(wide.shape[a] for a in axes)
        block = next((b for b in BLOCKS if axes and inside % b == 0), inside)
        contiguous = bool(axes) and axes == tuple(range(axes[0], axes[-1] + 1))
        if not contiguous or block == inside:
            axes = axes or tuple(range(wide.ndim))
            scale = _least_error(held, axes)
            return Coded(_grid15(held, scale), np.zeros((), np.int8), INT4_CODEBOOK, scale)
        view = (*wide.shape[: axes[0]], inside // block, block, *wide.shape[axes[-1] + 1 :])
        blocked = held.reshape(view)
        scale = _least_error(blocked, (axes[0] + 1,))
        return Coded(_grid15(blocked, scale).reshape(wide.shape), np.zeros((), np.int8), INT4_CODEBOOK, scale, view)


INT4_CODEBOOK = np.array([0, *range(-7, 0), *range(1, 8)], np.int8)


def on_uniform_grid(weight: Weight, wide: ChunkedArray, steps: int, transposed: bool | None) -> Coded:
    """A weight as int8 up to `steps`, which stands for the largest magnitude of each output channel.

    Args:
        weight: its axes.
        wide: its values as `computed` gives them.
        steps: on either side of 0, at most 127.
        transposed: see `oriented`.
    """
    axes = inner_axes(weight, transposed) or tuple(range(wide.ndim))
    tops = list(wide.each(lambda _, part: np.abs(part).max(axes, keepdims=True)))
    top = (np.maximum.reduce(tops) if 0 in axes else np.concatenate(tops)) / steps
    scale = tidy_scale(np.where(top > _DEAD, top, 1.0), up=True)
    divisor = scale.astype(wide.dtype)

    def coded(rows: RowRange, columns: slice, part: Array) -> Array:
        return np.rint(part / part_of(divisor, rows)).clip(-steps, steps).astype(np.int8)

    return oriented(filled(wide.map(np.int8, coded)), None, scale, transposed)


def _least_error(wide: Array, axes: tuple[int, ...]) -> Array:
    """The scale (axes kept as 1) of a grid from -7 to 7 with the least squared error among eight."""
    top = np.abs(wide).max(axes, keepdims=True)
    best, least = np.where(top > _DEAD, top / 7, 1.0), None
    for share in np.linspace(1.0, 0.65, 8):
        scale = np.where(top > _DEAD, top * (share / 7), 1.0).astype(wide.dtype)
        error = np.square(wide - np.rint(wide / scale).clip(-7, 7) * scale).sum(axes, keepdims=True)
        if least is None:
            best, least = scale, error
        else:
            best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return tidy_scale(best)


def _grid15(wide: Array, scale: Array) -> Array:
    """Codes into `INT4_BOOK`."""
    grid = np.rint(wide / scale.astype(wide.dtype)).clip(-7, 7).astype(np.int8)
    return np.where(grid < 0, grid + 8, np.where(grid > 0, grid + 7, 0)).astype(np.uint8)


def _blocks_down(wide: ChunkedArray, transposed: bool) -> tuple[Array, Array, int]:
    """Codes [in, out], scales [blocks, out] and the block: 64 unless the input is shorter."""
    rows, columns = wide.shape[::-1] if transposed else wide.shape
    block = 64 if rows >= 64 else 32 if rows >= 32 else 16
    count = -(-rows // block)
    codes, scales = np.empty((count, block, columns), np.uint8), np.empty((count, 1, columns), np.float32)

    def coded(part: RowRange) -> None:
        start, stop = part[0] * block, min(part[1] * block, rows)
        read = wide.block(start, stop).T if transposed else wide.read(start, stop, EVERY)
        short = (part[1] - part[0]) * block - len(read)
        padded = np.pad(read, ((0, short), (0, 0))) if short else np.ascontiguousarray(read)
        blocked = padded.reshape(-1, block, columns)
        scales[slice(*part)] = found = _least_error(blocked, (1,))
        codes[slice(*part)] = _grid15(blocked, found)

    deque(threads.run(coded, ranges(0, count, max(1, _LARGE // (block * columns)))), 0)
    return codes.reshape(-1, columns)[:rows], tidy_scale(scales[:, 0]), block
