"""Scales of the channels that a shared codebook fits worst.

One codebook serves all output channels of a weight, each divided by its root mean square. A channel with heavier
tails than the others is clipped by it and can lose a tenth of its energy where the usual channel loses a hundredth.
Such channels are few: they are found by their peak, and each gets the scale of least squared error among some that
are larger, which takes no byte more. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange
from onnxprune.quantization.codebook import Codebook
from onnxprune.quantization.rounding import encode

Array = np.ndarray

GROWTHS = (1.0, 1.1, 1.25, 1.5, 1.8, 2.2, 2.7)  # of a scale: a peak of 9 standard deviations came down to 3
LIVE = 1e-6  # of the largest scale: below it a channel is dead, and float32 does not see it beside the others


@dataclass(frozen=True)
class Channels:
    """Some output channels of a weight.

    Attributes:
        index: [channels], of the flattened scale.
        rows: float [channels, inputs], their values.
        scale: float32 [channels], what they are divided by.
    """

    index: Array
    rows: Array
    scale: Array

    def errors(self, codebook: Codebook, prune: bool, growth: float = 1.0) -> Array:
        """The squared error of each channel over its energy, its scale grown; [channels]."""
        divisor = (self.scale * growth).astype(self.rows.dtype)[:, None]
        codes = encode(self.rows, divisor, codebook.levels, prune, codebook.boundaries)
        rest = self.rows - codebook.levels.astype(self.rows.dtype)[codes] * divisor
        energy = np.square(self.rows).sum(axis=1, dtype=np.float64)
        return np.square(rest).sum(axis=1, dtype=np.float64) / np.maximum(energy, np.finfo(np.float64).tiny)

    def loss(self, codebook: Codebook, prune: bool, unit: float | None = None) -> float:
        """The largest loss of a channel; 0 where there is none.

        Args:
            codebook: what the values are rounded to.
            prune: whether entries other than 0 may get code 0.
            unit: what all of them are divided by; None: each by its own scale, fitted.
        """
        if not len(self.index):
            return 0.0
        if unit is None:
            return float(self.fitted(codebook, prune)[1].max())
        return float(replace(self, scale=np.full_like(self.scale, unit)).errors(codebook, prune).max())

    def fitted(self, codebook: Codebook, prune: bool) -> tuple[Array, Array]:
        """The growth of each channel's scale with the least error, and that error; both [channels]."""
        errors = np.stack([self.errors(codebook, prune, growth) for growth in GROWTHS])
        best = errors.argmin(axis=0)
        return np.asarray(GROWTHS)[best], errors[best, np.arange(errors.shape[1])]


def peaks(wide: ChunkedArray, axes: tuple[int, ...]) -> Array:
    """The largest magnitude of each channel; [channels]."""
    tops = list(wide.each(lambda _, part: np.abs(part).max(axes, keepdims=True, initial=0.0)))
    return (np.maximum.reduce(tops) if 0 in axes else np.concatenate(tops)).reshape(-1)


def alive(scale: Array, top: Array) -> Array:
    """Which channels count: those that hold more than zeros, and are not lost in float32 beside the largest.

    Args:
        scale: [channels], the root mean square of each.
        top: [channels], the largest magnitude of each.
    """
    held = top > 0
    return held & (scale >= LIVE * scale.max(initial=0.0, where=held))


def heaviest(wide: ChunkedArray, scale: Array, axes: tuple[int, ...], count: int) -> Channels:
    """The channels with the largest values for their scale, at most `count`; dead ones are not among them.

    Args:
        wide: the weight, float32 or float64.
        scale: one for each channel, with the weight's axes; 1 along `axes`.
        axes: those that a channel spans.
        count: how many channels.
    """
    flat, top = scale.reshape(-1).astype(np.float32), peaks(wide, axes)
    live = alive(flat, top)
    ratio = np.where(live, top / np.where(live, flat, 1), -1.0)
    index = np.sort(np.argsort(-ratio, kind="stable")[:count])
    index = index[ratio[index] >= 0]
    return Channels(index, _rows_of(wide, axes, index), flat[index])


def _rows_of(wide: ChunkedArray, axes: tuple[int, ...], index: Array) -> Array:
    """The values of some channels; [channels, inputs]."""
    outer = tuple(a for a in range(wide.ndim) if a not in axes)
    if wide.ndim == 2 and axes == (0,):
        return np.concatenate(list(wide.each(lambda _, part: part[:, index]))).T.copy()
    if outer == (0,):

        def chosen(rows: RowRange, part: Array) -> Array:
            here = index[(index >= rows[0]) & (index < rows[1])]
            return part[here - rows[0]].reshape(len(here), wide.row)

        return np.concatenate(list(wide.each(chosen)))
    moved = wide.read(0, wide.shape[0], EVERY).transpose(outer + axes)
    return moved.reshape(-1, int(np.prod([wide.shape[a] for a in axes])))[index]
