"""The levels nearest to many numbers, of several codebooks side by side: by a table in place of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.core.dtypes import Array

_BINS = 2048  # of a codebook: so that the tables of many lie in a near cache, and most bins hold one border or none
_STEPS = 6  # borders of a bin up to which a comparison with each is faster than a search
_MANY = 256  # numbers from which on a table is
_WIDTHS = 1e-30, 1e30  # of all cells but the first and the last, which float32 divides by
_FAR = np.errstate(over="ignore")  # numbers that no bin holds lie in the last one


class Cells:
    """The levels of codebooks, and the borders between their cells.

    A bin of a table counts the borders below it; those in it are compared with. What says which bin a number lies in
    never falls as numbers rise, so that its rounding errors move no number to another cell.

    Args:
        points: the levels of each codebook, ascending, float32.
        borders: between them, one less, float32.
    """

    def __init__(self, points: Sequence[Array], borders: Sequence[Array]) -> None:
        self._points, self._borders = np.concatenate(points), list(borders)
        self._starts = np.cumsum([0, *map(len, points)])[:-1]
        self._upper = np.concatenate([each for own in borders for each in (own, np.array([np.inf], np.float32))])
        widths = np.array([float(own[-1]) - float(own[0]) if len(own) else 0.0 for own in borders])
        usable = (widths > _WIDTHS[0]) & (widths < _WIDTHS[1])
        self._low = np.array([own[0] if len(own) else 0 for own in borders], np.float32)
        self._per_unit = ((_BINS - 2) / np.where(usable, widths, 1)).astype(np.float32)
        steps = np.zeros(len(points), np.intp)
        self._below = np.zeros((len(points), _BINS), np.intp)
        for at, own in enumerate(borders):
            if usable[at]:
                bins = self._bins(own, self._low[at], self._per_unit[at])
                steps[at] = np.bincount(bins).max()
                self._below[at] = self._starts[at] + bins.searchsorted(np.arange(_BINS))
        self._searched = np.flatnonzero(~usable | (steps > _STEPS))
        self._steps = int(np.where(steps > _STEPS, 0, steps).max(initial=0))

    @_FAR
    def nearest(self, numbers: Array, ranks: Array, levels: Array) -> None:
        """Find the level of each number's cell.

        Args:
            numbers: float32 [codebooks, ...], contiguous.
            ranks: where its place in the codebook goes, of their shape.
            levels: where it goes itself, float32, of their shape.
        """
        flat = numbers.reshape(len(self._borders), -1)
        if numbers.size < _MANY:
            found, searched = np.empty(flat.shape, np.intp), np.arange(len(flat))
        else:
            bins = self._bins(flat, self._low[:, None], self._per_unit[:, None])
            bins += np.arange(0, self._below.size, _BINS)[:, None]
            found, searched = self._below.take(bins, mode="clip"), self._searched
            for _ in range(self._steps):
                found += flat >= self._upper.take(found, mode="clip")
        for at in searched:
            found[at] = self._starts[at] + self._borders[at].searchsorted(flat[at], side="right")
        self._points.take(found, out=levels.reshape(flat.shape), mode="clip")
        np.subtract(found, self._starts[:, None], out=ranks.reshape(flat.shape), casting="unsafe")

    def _bins(self, numbers: Array, low: Array, per_unit: Array) -> Array:
        at = np.subtract(numbers, low)
        at *= per_unit
        return at.clip(-1, _BINS - 2, out=at).astype(np.intp) + 1
