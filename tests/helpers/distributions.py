"""Values of every shape that weights have."""

from __future__ import annotations

import numpy as np

KINDS = ("normal", "student", "laplace", "uniform", "clusters", "one side", "ties", "bimodal")


def sample(kind: str, size: int, seed: int) -> np.ndarray:
    """Values that float16 holds exactly, so that the histogram loses nothing."""
    rng = np.random.default_rng(seed)
    made = {
        "normal": lambda: rng.standard_normal(size),
        "student": lambda: rng.standard_t(2, size),
        "laplace": lambda: rng.laplace(size=size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "clusters": lambda: rng.choice(rng.standard_normal(6), size) + 0.02 * rng.standard_normal(size),
        "one side": lambda: rng.exponential(size=size),
        "ties": lambda: rng.integers(-9, 10, size) / 8,
        "bimodal": lambda: rng.choice([-1.0, 1.0], size) + 0.1 * rng.standard_normal(size),
    }[kind]()
    return made.astype(np.float16).astype(np.float32)
