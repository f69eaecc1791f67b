"""Scales of the channels that a shared codebook fits worst.

One codebook serves all output channels of a weight, each divided by its root mean square. A channel with heavier
tails than the others is clipped by it and can lose a tenth of its energy where the usual channel loses a hundredth.
Such channels are few: they are found by their peak, and each gets the scale of least squared error among some that
are larger, which takes no byte more. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np

from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, ranges
from onnxprune.quantization.codebook import Codebook, boundaries_of

Array = np.ndarray

GROWTHS = np.array([1.0, 1.1, 1.25, 1.5, 1.8, 2.2, 2.7])  # of a scale: a peak of 9 standard deviations came down to 3
_AT_ONCE = 256  # channels
_HELD = 1 << 23  # entries of channels whose values are sorted at once
LIVE = 1e-6  # of the largest scale: below it a channel is dead, and float32 does not see it beside the others


@dataclass(frozen=True)
class Channels:
    """Some output channels of a weight, their values sorted: an error is a search per level, as in `Histogram`.

    Attributes:
        index: [channels], of the flattened scale.
        scale: float32 [channels], the root mean square of each.
        places: [entries], where each value other than 0 stands on one line on which no two channels overlap: its
            quotient by the scale plus the channel's origin; ascending.
        origins: [channels], on this line.
        starts: [channels + 1], of each channel's entries.
        sums: [2, entries + 1], prefix sums of the quotients and of their squares.
    """

    index: Array
    scale: Array
    places: Array
    origins: Array
    starts: Array
    sums: Array

    @classmethod
    def of(cls, index: Array, rows: Array, scale: Array) -> Channels:
        """Sort the values.

        Args:
            index: [channels], of the flattened scale.
            rows: float [channels, inputs].
            scale: [channels], what each is divided by.
        """
        values = np.sort(rows.astype(np.float64) / scale[:, None], axis=1)
        reach = np.abs(values).max(initial=1.0)
        origins = 3 * reach * np.arange(len(index))
        held = values != 0
        starts = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
        quotients = values[held]
        sums = np.cumsum(np.stack([quotients, np.square(quotients)]), axis=1)
        places = (values + origins[:, None])[held]
        return cls(index, scale.astype(np.float32), places, origins, starts, np.pad(sums, ((0, 0), (1, 0))))

    def errors(self, codebook: Codebook, prune: bool, factors: Array, which: Array | None = None) -> Array:
        """The squared error of each channel over its energy; [channels, factors].

        Args:
            codebook: what the values over the scale are rounded to.
            prune: whether entries other than 0 may get code 0.
            factors: [factors], of each channel's scale, or [channels, factors].
            which: intp [channels], those that are asked for; None: all.
        """
        which = np.arange(len(self.index)) if which is None else which
        factors = np.broadcast_to(factors, (len(which), np.shape(factors)[-1]))
        blocks = [slice(at, at + _AT_ONCE) for at in range(0, len(which), _AT_ONCE)]
        parts = [self._errors(codebook, prune, factors[block], which[block]) for block in blocks]
        return np.concatenate(parts) if parts else np.zeros(factors.shape)

    def _errors(self, codebook: Codebook, prune: bool, factors: Array, own: Array) -> Array:
        """`errors` of some channels."""
        starts, ends, origins = self.starts[own], self.starts[own + 1], self.origins[own]
        points = np.sort(codebook.levels) if prune else codebook.levels[1:]
        boundaries = boundaries_of(points) if codebook.boundaries is None else codebook.boundaries
        # Boundaries beyond every value of a channel stay between it and its neighbours on the line.
        reach = (self.origins[1] if len(self.origins) > 1 else np.inf) / 2.5
        targets = (boundaries * factors[..., None]).clip(-reach, reach) + origins[:, None, None]
        first = np.broadcast_to(starts[:, None, None], (*factors.shape, 1))
        last = np.broadcast_to(ends[:, None, None], (*factors.shape, 1))
        edges = np.concatenate([first, np.searchsorted(self.places, targets), last], axis=2)
        count = np.diff(edges, axis=2)
        total, squares = np.diff(self.sums[:, edges], axis=3)
        levels = points * factors[..., None]
        energy = self.sums[1, ends] - self.sums[1, starts]
        lost = (squares - 2 * levels * total + levels * levels * count).sum(axis=2)
        return lost.clip(0) / np.maximum(energy, np.finfo(np.float64).tiny)[:, None]

    def fitted(self, codebook: Codebook, prune: bool) -> tuple[Array, Array]:
        """The growth of each channel's scale with the least error, and that error; both [channels]."""
        errors = self.errors(codebook, prune, GROWTHS)
        best = errors.argmin(axis=1)
        return GROWTHS[best], errors[np.arange(len(best)), best]

    def loss(self, codebook: Codebook, prune: bool, unit: float | None = None, least: float = 0.0) -> float:
        """The largest loss of a channel; `least` where none is larger.

        Args:
            codebook: what the values are rounded to.
            prune: whether entries other than 0 may get code 0.
            unit: what all of them are divided by; None: each by its own scale, fitted.
            least: a loss below which none counts.
        """
        if unit is not None:
            found = self.errors(codebook, prune, (unit / self.scale.astype(np.float64))[:, None])
        else:  # most channels lose little enough without a scale that is fitted
            which = np.flatnonzero(self.errors(codebook, prune, np.ones(1))[:, 0] > least)
            found = self.errors(codebook, prune, GROWTHS, which).min(axis=1)
        return float(found.max(initial=least))


def loss(wide: ChunkedArray, decoded: ChunkedArray, axes: tuple[int, ...], watched: bool = True) -> float:
    """The squared error of a weight over its energy: the mean over its channels, or half that of the worst one.

    Each channel counts by its entries other than 0, as in the histogram of the weight over its channels' scales.

    Args:
        wide: the weight, float32 or float64.
        decoded: what it became, in the same shape.
        axes: those that a channel spans.
        watched: whether the worst channel counts.
    """

    def sums(rows: RowRange, part: Array) -> list[Array]:
        found = []
        for start, stop in ranges(*rows, wide.unit):  # what stays near the core
            piece = part[start - rows[0] : stop - rows[0]]
            rest = decoded.read(start, stop, EVERY) - piece
            held = np.count_nonzero(piece, axis=axes, keepdims=True)
            found.append(np.stack([_squares(rest, axes), _squares(piece, axes), held]))
        return found

    parts = (unit for chunk in wide.each(sums) for unit in chunk)
    # Added up as they come: those of a wide weight are as large as it is.
    whole = reduce(np.add, parts) if 0 in axes else np.concatenate(list(parts), axis=1)
    error, energy, held = whole.reshape(3, -1)
    lost = error[energy > 0] / energy[energy > 0]
    if not lost.size:
        return 0.0
    mean = float(np.average(lost, weights=held[energy > 0]))
    return max(mean, float(lost.max()) / 2) if watched else mean


def _squares(part: Array, axes: tuple[int, ...]) -> Array:
    """The sum of squares over some axes, kept as 1."""
    return np.square(part).sum(axes, keepdims=True, dtype=np.float64)


def peaks(wide: ChunkedArray, axes: tuple[int, ...]) -> Array:
    """The largest magnitude of each channel; [channels]."""

    def largest(_: RowRange, part: Array) -> Array:
        return np.maximum(part.max(axes, keepdims=True, initial=0.0), -part.min(axes, keepdims=True, initial=0.0))

    tops = list(wide.each(largest))
    return (np.maximum.reduce(tops) if 0 in axes else np.concatenate(tops)).reshape(-1)


def alive(scale: Array, top: Array) -> Array:
    """Which channels count: those that hold more than zeros, and are not lost in float32 beside the largest.

    Args:
        scale: [channels], the root mean square of each.
        top: [channels], the largest magnitude of each.
    """
    held = top > 0
    return held & (scale >= LIVE * scale.max(initial=0.0, where=held))


def heaviest(wide: ChunkedArray, scale: Array, axes: tuple[int, ...], count: int) -> Iterator[Channels]:
    """The channels with the largest values for their scale, at most `count`; dead ones are not among them.

    They come some at a time where the values of all would take much memory.

    Args:
        wide: the weight, float32 or float64.
        scale: one for each channel, with the weight's axes; 1 along `axes`.
        axes: those that a channel spans.
        count: how many channels.
    """
    index = _index(wide, scale, axes, count, 0)
    flat, width = scale.reshape(-1).astype(np.float32), math.prod(wide.shape[a] for a in axes)
    for start, stop in ranges(0, len(index), max(1, _HELD // max(1, width))):
        own = index[start:stop]
        yield Channels.of(own, _rows_of(wide, axes, own), flat[own])


def extreme(wide: ChunkedArray, scale: Array, axes: tuple[int, ...], count: int) -> Channels:
    """The heaviest channels, which lose most where each has its scale, and the lightest, where one serves all.

    Args:
        wide: see `heaviest`.
        scale: see `heaviest`.
        axes: see `heaviest`.
        count: of each kind.
    """
    return _picked(wide, scale, axes, count, count)


def _picked(wide: ChunkedArray, scale: Array, axes: tuple[int, ...], heavy: int, light: int) -> Channels:
    """So many of the heaviest channels, and of those with the least scale."""
    index = _index(wide, scale, axes, heavy, light)
    return Channels.of(index, _rows_of(wide, axes, index), scale.reshape(-1).astype(np.float32)[index])


def _index(wide: ChunkedArray, scale: Array, axes: tuple[int, ...], heavy: int, light: int) -> Array:
    """Where so many of the heaviest channels are, and of those with the least scale; dead ones are not among them."""
    flat, top = scale.reshape(-1).astype(np.float32), peaks(wide, axes)
    live = alive(flat, top)
    ratio = np.where(live, top / np.where(live, flat, 1), 0)
    index = np.union1d(
        np.argsort(-ratio, kind="stable")[:heavy], np.argsort(np.where(live, flat, np.inf), kind="stable")[:light]
    ).astype(np.intp)
    return index[live[index]]


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
    width, beside = math.prod(wide.shape[a] for a in axes), math.prod(wide.shape[a] for a in outer[1:])

    def picked(part: Array, first: int) -> Array:
        moved = part.transpose(outer + axes).reshape(-1, width)
        return moved[index[(index >= first) & (index < first + len(moved))] - first]

    if outer and outer[0] == 0:
        return np.concatenate(list(wide.each(lambda rows, part: picked(part, rows[0] * beside))))
    return picked(wide.whole(), 0)
