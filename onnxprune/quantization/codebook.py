"""Scalar quantisers for weights: few levels, least squared error. numpy only; nothing here knows ONNX.

The histogram behind the codebooks is float16 itself: a weight divided by its scale and rounded to
float16 is one of 63,487 values, spaced finely where weights are dense and relatively where they are rare. One
pass counts them; from prefix sums over them each step of Lloyd's algorithm costs a search per level,
whatever the size of the weight, and a table over all bit patterns turns the weight into codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.quantization.histogram import Array, Histogram
from onnxprune.quantization.lloyd import Layout, distinct, joined, settled
from onnxprune.quantization.starts import optimal, spread

_FEW = 64  # levels up to which the optimum over groups is worth its time


@dataclass(frozen=True)
class Codebook:
    """Levels of a quantiser: code 0 is 0.0, the others ascend.

    Attributes:
        levels: the value of each code, float64.
        error: sum of squared errors over the histogram's weight.
        shares: how many entries take each code.
        boundaries: where the cell of one level ends and that of the next begins, ascending; None: midway between them.
    """

    levels: Array
    error: float
    shares: Array
    boundaries: Array | None = None


def fit_codebook(histogram: Histogram, levels: int, prune: bool, threshold: float = 0.0) -> Codebook:
    """One codebook, see `fit_codebooks`."""
    return fit_codebooks(histogram, [(levels, threshold)], prune)[0]


def fit_codebooks(
    histogram: Histogram, wanted: Sequence[tuple[int, float]], prune: bool, *, once: bool = False
) -> list[Codebook]:
    """Lloyd's algorithm for codebooks of at most so many codes, 0.0 included.

    One start spreads the levels with the cube root of the density, the optimum for many levels: heavy tails get the few
    wide cells that they need. With few levels, and none at 0.0, Lloyd's algorithm starts from the optimum over groups
    of the histogram as well, and the better result counts.

    Args:
        histogram: of the weight.
        wanted: of each codebook the codes, at least 2, and a threshold: with `prune` the magnitude up to which all
            entries become 0; 0.0: those nearest to it.
        prune: whether entries may become 0; otherwise only zeros are.
        once: whether the first start is enough.
    """
    counts = np.array([codes - 1 for codes, _ in wanted], np.intp)
    thresholds = np.array([threshold for _, threshold in wanted])
    short = counts < len(histogram.values)
    fitted = iter(_fitted(histogram, counts[short], thresholds[short], prune, once) if short.any() else [])
    return [
        next(fitted) if each else _every(histogram, threshold if prune else 0.0)
        for each, threshold in zip(short, thresholds.tolist(), strict=True)
    ]


def _fitted(histogram: Histogram, counts: Array, thresholds: Array, prune: bool, once: bool) -> list[Codebook]:
    """The codebooks of fewer levels than the histogram has values."""
    points, layout = spread(histogram, counts, thresholds, prune)
    found = measured(histogram, settled(histogram, points, layout), layout)
    if not (prune or once):
        for at in np.flatnonzero(counts <= _FEW):
            points, layout = joined([optimal(histogram, int(counts[at]))], np.zeros(1), prune)
            others = measured(histogram, settled(histogram, points, layout), layout)
            found[at] = min([found[at], *others], key=lambda codebook: codebook.error)
    return found


def _every(histogram: Histogram, threshold: float) -> Codebook:
    """The codebook of all values beyond a magnitude; of all of them where that is 0.0."""
    if threshold:
        far = histogram.values[np.abs(histogram.values) > threshold]
        return measured(histogram, *joined([np.sort(np.append(far, 0.0))], np.array([threshold]), True))[0]
    shares = np.concatenate([[histogram.zeros], np.diff(histogram.sums[3])])
    return Codebook(np.concatenate([[0.0], histogram.values]), 0.0, shares)


def measured(histogram: Histogram, points: Array, layout: Layout) -> list[Codebook]:
    """The codebooks of given levels, see `lloyd.Layout`, with the error and the shares of a histogram."""
    points, layout = distinct(points, layout)
    mass, first, second, count = layout.cells(points, histogram.values, histogram.sums)
    errors = layout.totals(second + points * (points * mass - 2 * first)).clip(0)
    boundaries = layout.boundaries(points)
    zeros = layout.zeros if len(layout.zeros) else layout.ends
    found = []
    for start, zero, end, error, threshold in zip(
        layout.starts.tolist(), zeros.tolist(), layout.ends.tolist(), errors.tolist(), layout.thresholds.tolist(),
        strict=True,
    ):  # fmt: skip
        lost = histogram.zeros + count[zero:end][:1].sum(keepdims=True)
        found.append(
            Codebook(
                np.concatenate([[0.0], points[start:zero], points[zero + 1 : end]]),
                error,
                np.concatenate([lost, count[start:zero], count[zero + 1 : end]]),
                boundaries[start : end - 1] if threshold else None,
            )
        )
    return found


def boundaries_of(points: Array) -> Array:
    """Where the cell of one level ends and that of the next begins."""
    return (points[1:] + points[:-1]) / 2
