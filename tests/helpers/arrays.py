"""Numbers of every kind."""

from __future__ import annotations

import math

import numpy as np


def special(dtype: np.dtype) -> list[np.generic]:
    """The bit patterns that a comparison by value would lose: -0.0, infinities, NaNs with a payload."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return [*np.array([0, 1, info.min, info.max], dtype)]
    width = 8 * dtype.itemsize
    patterns = np.array([1 << (width - 1), 1, (1 << width) - 1, (1 << (width - 1)) - 2], f"u{dtype.itemsize}")
    return [*patterns.view(dtype), *np.array([np.inf, -np.inf, 1.5], dtype)]


def samples(*shape) -> np.ndarray:
    """0, 1, 2 ... in this shape, as float32."""
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
