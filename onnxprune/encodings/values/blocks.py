"""Uniform grids with a scale for each block of inputs: int4 and int2, and the blocks of int8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np

from onnxprune.core import threads
from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.positions import digits
from onnxprune.encodings.values.base import DEAD, INT2, INT4, Coded, Values
from onnxprune.encodings.values.scales import computed, inner_axes, tidy_scale
from onnxprune.model.weight import Weight
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.quantization.rounding import balance

BLOCKS = (32, 64, 128, 16)
_LARGE = 1 << 20
_ALIKE = 1.02  # times the squared error that blocks twice as long may have


@dataclass(frozen=True)
class Grid:
    """Whole numbers from `low` to `high`.

    Attributes:
        low: the lowest, below 0.
        high: the highest.
        shares: of the scale at which the largest magnitude of a block is `high`: those that are tried.
        dtype: in which a kernel reads them.
    """

    low: int
    high: int
    shares: tuple[float, ...]
    dtype: np.dtype

    @property
    def codebook(self) -> Array:
        """The values of the codes: 0, then ascending."""
        return np.array([0, *range(self.low, 0), *range(1, self.high + 1)], np.int8)

    def codes(self, wide: Array, scale: Array) -> Array:
        """Codes of the values over a scale that broadcasts over them."""
        grid = np.rint(wide / scale.astype(wide.dtype)).clip(self.low, self.high).astype(np.int8)
        return np.where(grid < 0, grid - self.low + 1, np.where(grid > 0, grid - self.low, 0)).astype(np.uint8)

    def fitted(self, wide: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """The scale (axes kept as 1) with the least squared error of those that are tried, and that error."""
        top = np.abs(wide).max(axes, keepdims=True)
        best, least = np.where(top > DEAD, top / self.high, 1.0), None
        for share in self.shares:
            scale = np.where(top > DEAD, top * (share / self.high), 1.0).astype(wide.dtype)
            rounded = np.rint(wide / scale).clip(self.low, self.high) * scale
            error = np.square(wide - rounded).sum(axes, keepdims=True)
            if least is None:
                best, least = scale, error
            else:
                best, least = np.where(error < least, scale, best), np.minimum(error, least)
        assert least is not None
        return tidy_scale(best), least


@dataclass(frozen=True)
class BlockIntegers(Values):
    """A grid in blocks along the input."""

    grid: ClassVar[Grid]
    lengths: ClassVar[tuple[int, ...]]  # of the blocks that a kernel reads fast, ascending

    @override
    def code(
        self, weight: Weight, array: Array | ChunkedArray, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        wide = computed(array)
        if wide is None:
            return None
        fill_value, codebook = np.zeros((), np.int8), self.grid.codebook
        if transposed is not None:
            codes, scale, block = self._down(wide, transposed)
            return Coded(codes, fill_value, codebook, scale, (), True, block, transposed, packed=self.grid.dtype)
        held = wide.whole()
        axes = inner_axes(weight)
        inside = math.prod(wide.shape[a] for a in axes)
        block = next((b for b in BLOCKS if axes and inside % b == 0), inside)
        contiguous = bool(axes) and axes == tuple(range(axes[0], axes[-1] + 1))
        if not contiguous or block == inside:
            axes = axes or tuple(range(wide.ndim))
            scale, _ = self.grid.fitted(held, axes)
            return Coded(self.grid.codes(held, scale), fill_value, codebook, scale)
        view = (*wide.shape[: axes[0]], inside // block, block, *wide.shape[axes[-1] + 1 :])
        blocked = held.reshape(view)
        scale, _ = self.grid.fitted(blocked, (axes[0] + 1,))
        return Coded(self.grid.codes(blocked, scale).reshape(wide.shape), fill_value, codebook, scale, view)

    def _down(self, wide: ChunkedArray, transposed: bool) -> tuple[Array, Array, int]:
        """Codes [in, out], scales [blocks, out] and the block: longer ones where they lose hardly more."""
        rows = wide.shape[1 if transposed else 0]
        fitting = [length for length in self.lengths if length <= rows] or [32 if rows >= 32 else 16]
        codes, scale, lost = blocks_down(wide, transposed, self.grid, fitting[0])
        block = fitting[0]
        for length in fitting[1:]:
            longer = blocks_down(wide, transposed, self.grid, length)
            if longer[2] <= _ALIKE * lost:
                codes, scale, _ = longer
                block = length
        return codes, scale, block


@dataclass(frozen=True)
class Int4(BlockIntegers):
    """A uniform grid of 15 values in blocks of 16 to 128 entries along the input."""

    name = "int4"
    grid = Grid(-7, 7, tuple(np.linspace(1.0, 0.65, 8)), np.dtype(ml_dtypes.int4))
    lengths = (64,)

    @override
    def opset(self, fused: bool) -> int:
        return INT4 if fused else digits.OPSET


@dataclass(frozen=True)
class Int2(BlockIntegers):
    """The values -2 to 1 in blocks of up to 128 entries along the input, for weights that were trained to bear it.

    The scales that are tried have those among them at which ternary weights, and weights from -2 to 1, are exact.
    """

    name = "int2"
    grid = Grid(-2, 1, tuple(np.linspace(1.0, 0.25, 16)), np.dtype(ml_dtypes.int2))
    lengths = (64, 128)
    stored = True

    @override
    def opset(self, fused: bool) -> int:
        return INT2 if fused else digits.OPSET


GRIDS = {form.name: form.grid for form in (Int4, Int2)}


def blocks_down(
    wide: ChunkedArray, transposed: bool, grid: Grid, block: int, balanced: bool = False
) -> tuple[Array, Array, float]:
    """Codes [in, out], scales [blocks, out] and the squared error.

    Args:
        wide: a matrix.
        transposed: whether it is [out, in].
        grid: of the values over their scale.
        block: inputs that share a scale.
        balanced: whether the errors of each block add up to nearly nothing; the squared error is that without it.
    """
    rows, columns = wide.shape[::-1] if transposed else wide.shape
    count = -(-rows // block)
    codes, scales = np.empty((count, block, columns), np.uint8), np.empty((count, 1, columns), np.float32)

    def coded(part: RowRange) -> float:
        blocked = _blocked(wide, transposed, block, part)
        scales[slice(*part)], lost = found = grid.fitted(blocked, (1,))
        made = grid.codes(blocked, found[0])
        if balanced:
            quotients, moved = (np.ascontiguousarray(a.swapaxes(1, 2)) for a in (blocked / found[0], made))
            balance(quotients.reshape(-1, block), moved.reshape(-1, block), grid.codebook.astype(np.float64), True)
            made = moved.swapaxes(1, 2)
        codes[slice(*part)] = made
        return float(lost.sum(dtype=np.float64))

    lost = sum(threads.run(coded, _parts(count, block, columns)))
    return codes.reshape(-1, columns)[:rows], tidy_scale(scales[:, 0]), lost


def block_peaks(wide: ChunkedArray, transposed: bool, block: int) -> Array:
    """The largest magnitude of each block; [blocks, out]. See `blocks_down`."""
    rows, columns = wide.shape[::-1] if transposed else wide.shape

    def largest(part: RowRange) -> Array:
        return np.abs(_blocked(wide, transposed, block, part)).max(1)

    return np.concatenate(list(threads.run(largest, _parts(-(-rows // block), block, columns))))


def _parts(count: int, block: int, columns: int) -> list[RowRange]:
    """Blocks that are held at once."""
    return ranges(0, count, max(1, _LARGE // (block * columns)))


def _blocked(wide: ChunkedArray, transposed: bool, block: int, part: RowRange) -> Array:
    """Some blocks of a matrix, the last filled with zeros; [blocks, inputs, out]."""
    start, stop = part[0] * block, min(part[1] * block, wide.shape[1 if transposed else 0])
    read = wide.block(start, stop).T if transposed else wide.read(start, stop, EVERY)
    short = (part[1] - part[0]) * block - len(read)
    padded = np.pad(read, ((0, short), (0, 0))) if short else np.ascontiguousarray(read)
    return padded.reshape(-1, block, padded.shape[1])
