"""Weights of pruned models."""

import numpy as np

from onnxprune.model.discovery import find


def weights(opened) -> dict:
    return {w.name: w for w in find(opened)}


def values(opened, name="w") -> np.ndarray:
    return weights(opened)[name].array(opened)


def zeros(opened) -> dict[str, int]:
    return {w.name: w.zeros(w.array(opened)) for w in find(opened)}
