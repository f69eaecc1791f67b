"""Histogram: a weight's values counted as float16 patterns, one pass whatever the number of levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from onnxprune.core.chunked import ChunkedArray, RowRange, part_of, ranges

Array = np.ndarray

PATTERNS = 1 << 16
_SIZE, _INFINITE, _LARGEST = np.uint16(0x7FFF), np.uint16(0x7C00), np.uint16(0x7BFF)  # of a float16's bits
_TINY = 1e-30  # the least scale: its inverse is a float32


@cache
def float16_order() -> tuple[Array, Array]:
    """Bit patterns of the finite float16 values in the order of their values, and the values."""
    patterns = np.arange(PATTERNS, dtype=np.uint16)
    values = patterns.view(np.float16)
    finite = patterns[np.isfinite(values)]
    finite = finite[np.argsort(finite.view(np.float16), kind="stable")]
    return finite, finite.view(np.float16).astype(np.float64)


def inverse_of(scale: Array | None, dtype: np.dtype) -> Array | None:
    """1 / scale in the type in which the weight is computed."""
    return None if scale is None else (1 / scale).astype(dtype if dtype == np.float64 else np.float32)


def nonzero_patterns(piece: Array, inverse: Array | None) -> tuple[Array, Array | None]:
    """Float16 bit patterns of the entries of piece * inverse that are not 0, and which they are (None: all).

    Values beyond float16 become its largest.
    """
    if inverse is not None:
        piece = piece * inverse
    mask = piece != 0
    every = bool(mask.all())
    flat = piece.reshape(-1) if every else piece[mask]
    with np.errstate(over="ignore"):
        found = flat.astype(np.float16).view(np.uint16)
    size = found & _SIZE
    if size.max(initial=0) >= _INFINITE:
        found = np.where(size >= _INFINITE, (found & ~_SIZE) | _LARGEST, found)
    return found, None if every else mask


@dataclass(frozen=True)
class Histogram:
    """How the values of a weight (divided by its scale) are distributed, zeros apart.

    Prefix sums of mass, first and second moment and count over `values`, ascending: sums[:, i] is of
    values[:i]. Mass is the count, or the importance where one is given.
    """

    values: Array
    sums: Array
    zeros: int

    @classmethod
    def of(cls, array: Array | ChunkedArray, scale: Array | None = None, importance: Array | None = None) -> Histogram:
        """Count a weight; scale and importance broadcast over it."""
        chunked = ChunkedArray.of(array)
        inverse = inverse_of(scale, chunked.dtype)

        def count(rows: RowRange, part: Array) -> tuple[Array, list[Array]]:
            counts, masses = np.zeros(PATTERNS, np.int64), []
            for start, stop in ranges(*rows, chunked.unit):
                piece = part[start - rows[0] : stop - rows[0]]
                patterns, mask = nonzero_patterns(piece, None if inverse is None else part_of(inverse, (start, stop)))
                counts += np.bincount(patterns, minlength=PATTERNS)
                counts[0] += piece.size - patterns.size
                if importance is not None:
                    share = np.broadcast_to(part_of(importance, (start, stop)), piece.shape)
                    held = share.reshape(-1) if mask is None else share[mask]
                    masses.append(np.bincount(patterns, held, minlength=PATTERNS))
            return counts, masses

        counts, mass = np.zeros(PATTERNS, np.int64), np.zeros(PATTERNS)
        for more, masses in chunked.each(count):
            counts += more
            for each in masses:  # one after the other: sums of floats depend on the order
                mass += each
        if importance is None:
            mass = counts.astype(np.float64)
        order, values = float16_order()
        counts, mass = counts[order], mass[order]
        zero = values == 0
        zeros = int(counts[zero].sum())
        held = (counts > 0) & ~zero
        values, counts, mass = values[held], counts[held], mass[held]
        moments = np.stack([mass, mass * values, mass * values * values, counts])
        sums = np.concatenate([np.zeros((4, 1)), np.cumsum(moments, axis=1)], axis=1)
        return cls(values, sums, zeros)

    @property
    def energy(self) -> float:
        """Sum of squares, each times its mass."""
        return float(self.sums[2, -1])

    @property
    def mass(self) -> float:
        """Sum of masses of what is not 0."""
        return float(self.sums[0, -1])

    def kept(self, thresholds: Array) -> Array:
        """The share of the entries other than 0 that exceed each magnitude."""
        low, high = np.searchsorted(self.values, [-thresholds, thresholds])
        return 1 - (self.sums[3, high] - self.sums[3, low]) / self.sums[3, -1]

    def thresholds(self, kept: Array) -> Array:
        """Magnitudes that about these shares of all entries exceed, each between two values."""
        size, total = np.unique(np.abs(self.values)), self.sums[3, -1]
        low, high = np.searchsorted(self.values, -size, side="right"), np.searchsorted(self.values, size)
        count = self.sums[3, low] + total - self.sums[3, high]  # entries of each magnitude and above
        at = np.searchsorted(-count, -kept * (total + self.zeros))
        at = np.unique(at[(at > 0) & (at < len(size))])
        return (size[at - 1] + size[at]) / 2


def root_mean_square(array: Array | ChunkedArray, axes: tuple[int, ...]) -> Array:
    """Root mean square over the axes (kept as 1), of the entries that are not 0; 1 where there is none."""
    chunked = ChunkedArray.of(array)
    every, kept = list(range(chunked.ndim)), [a for a in range(chunked.ndim) if a not in axes]

    def sums(rows: RowRange, part: Array) -> list[tuple[Array, Array]]:
        pieces = (part[start - rows[0] : stop - rows[0]] for start, stop in ranges(*rows, chunked.unit))
        return [
            (np.einsum(p, every, p, every, kept, dtype=np.float64), np.count_nonzero(p != 0, axis=axes)) for p in pieces
        ]

    found = (unit for chunk in chunked.each(sums) for unit in chunk)
    if 0 in axes or not chunked.size:
        shape = tuple(chunked.shape[a] for a in kept)
        energy, count = np.zeros(shape), np.zeros(shape, np.int64)
        for more, held in found:  # added up as they come: those of a wide weight are as large as it is
            energy += more
            count += held
    else:
        energy, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    mean = np.sqrt(energy / np.maximum(count, 1))
    mean = np.where(count > 0, np.maximum(mean, _TINY), 1.0)
    return np.expand_dims(mean, axes)
