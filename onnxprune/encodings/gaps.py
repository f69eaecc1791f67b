"""Distances between kept entries in one byte each (Han et al. 2015, section 3 "relative indices").

A distance above 255 becomes fillers: entries that move on by 255 and write the fill value there.
"""

from __future__ import annotations

import numpy as np

from onnxprune.dtypes import Array

CAP = 255


def fillers(distances: Array) -> Array:
    """How many fillers stand before each entry."""
    return np.maximum(distances - 1, 0) // CAP


def to_gaps(distances: Array, values: Array, fill: Array) -> tuple[Array, Array]:
    """uint8 gaps whose running sum visits every entry, and the values with fillers between them."""
    extra = fillers(distances)
    total = int(extra.sum())
    if not total:
        return distances.astype(np.uint8), values
    at = np.arange(len(distances)) + np.cumsum(extra)
    gaps = np.full(len(distances) + total, CAP, np.uint8)
    gaps[at] = distances - CAP * extra
    spread = np.full(len(gaps), fill)
    spread[at] = values
    return gaps, spread
