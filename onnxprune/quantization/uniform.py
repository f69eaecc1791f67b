"""Uniform quantisers: cells of one width, each with the mean of what lies in it as its level.

Where codes take bits by how frequent they are, equal cells lose least for their entropy at a high rate, and hardly more
at others (Gish and Pierce 1968; Farvardin and Modestino 1984). numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.quantization.codebook import Codebook, measured
from onnxprune.quantization.histogram import Array, Histogram
from onnxprune.quantization.lloyd import joined

_MOST, _CELLS = 256, 1 << 14  # levels, 0.0 included, and cells: between outliers most of them are empty


def uniform_codebooks(histogram: Histogram, steps: Sequence[float]) -> list[Codebook]:
    """A codebook for each width of the cells, one of them around 0, where no more than 256 cells hold something.

    Args:
        histogram: of the weight.
        steps: widths of the cells.
    """
    low, high = min(float(histogram.values[0]), 0.0), max(float(histogram.values[-1]), 0.0)
    counts = [(step, int(np.rint(low / step)), int(np.rint(high / step))) for step in steps]
    found = [_means(histogram, step, *ends) for step, *ends in counts if ends[1] - ends[0] < _CELLS]
    parts = [levels for levels in found if 2 < len(levels) <= _MOST]
    return measured(histogram, *joined(parts, np.zeros(len(parts)), True)) if parts else []


def _means(histogram: Histogram, step: float, first: int, last: int) -> Array:
    """The level of each cell from the first to the last that holds something, and 0.0."""
    edges = (np.arange(first, last) + 0.5) * step
    places = np.concatenate([[0], np.searchsorted(histogram.values, edges), [len(histogram.values)]])
    mass, sums = np.diff(histogram.sums[:2, places], axis=1)
    held = mass > 0
    levels = np.divide(sums, mass, out=np.zeros(len(mass)), where=held)
    levels[-first], held[-first] = 0.0, True
    return levels[held]
