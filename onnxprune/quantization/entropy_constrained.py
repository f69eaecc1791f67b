"""Entropy-constrained codebooks: as many levels and hardly more error, but codes that an entropy coder makes smaller.

Chou, Lookabaugh and Gray, Entropy-Constrained Vector Quantization (1989), for scalars: Lloyd's algorithm on squared
error + multiplier * bits, where a code takes -log2 of its share. The cells of frequent levels grow at the cost of
rare ones: boundaries are no longer midway between levels. numpy only.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.quantization.codebook import Codebook
from onnxprune.quantization.histogram import Histogram

EXCESS = 0.2  # the share of squared error given for entropy: of 16 levels it buys a third of a bit
_HALVINGS = 12
_STEEPEST = 16.0  # multiplier, as a multiple of the slope that a quantiser of high rate has
_STEPS = 100
_SETTLED = 1e-5


def constrained(histogram: Histogram, codebook: Codebook, excess: float) -> Codebook:
    """A codebook of at most as many levels whose codes have less entropy, for at most `excess` times more error.

    Only zeros are code 0. Without a gain it is the given codebook.

    Args:
        histogram: of the weight.
        codebook: a codebook for it, with its boundaries midway.
        excess: a share, such as 0.2.
    """
    if not excess or not codebook.error or len(codebook.levels) < 3:
        return codebook
    kept = histogram.sums[3, -1]
    slope = 2 * np.log(2) * codebook.error / kept  # at a high rate a bit saves that much of the error of an entry
    low, high, best = 0.0, _STEEPEST, codebook
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = _lloyd(histogram, codebook.levels[1:], middle * slope)
        if found.error <= (1 + excess) * codebook.error and found.levels[1:].all():
            low, best = middle, min(found, best, key=entropy)
        else:
            high = middle
    return best


def entropy(codebook: Codebook) -> float:
    """Bits per kept entry of an ideal code for the levels other than 0.0."""
    counts = codebook.shares[1:][codebook.shares[1:] > 0]
    return float(np.log2(counts.sum()) - (counts * np.log2(counts)).sum() / counts.sum()) if len(counts) else 0.0


def _lloyd(histogram: Histogram, centres: Array, multiplier: float) -> Codebook:
    """Each level to the mean of its cell, each boundary to where both sides cost the same; empty cells vanish."""
    values, sums = histogram.values, histogram.sums
    bits, last = np.zeros(len(centres)), np.inf
    for _ in range(_STEPS):
        boundaries = (centres[1:] + centres[:-1]) / 2 + multiplier * np.diff(bits) / (2 * np.diff(centres))
        boundaries = np.maximum.accumulate(boundaries)  # a level that costs too much on both sides has no cell
        edges = np.concatenate([[0], np.searchsorted(values, boundaries), [len(values)]])
        parts = np.diff(sums[:, edges], axis=1)
        held = parts[3] > 0
        mass, first, second, count = parts[:, held]
        centres, bits = first / mass, np.log2(count.sum() / count)
        error = float((second - first * centres).sum())
        cost = error + multiplier * float(bits @ count)
        if last - cost <= _SETTLED * cost:
            break
        last = cost
    boundaries = boundaries[np.flatnonzero(held)[:-1]]  # above each level that is left, but the last
    shares = np.concatenate([[histogram.zeros], count])
    return Codebook(np.concatenate([[0.0], centres]), max(error, 0.0), shares, boundaries)
