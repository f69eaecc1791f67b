"""Weights of pruned models."""

import numpy as np

from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight


def weights(opened: Model) -> dict[str, Weight]:
    return {w.name: w for w in find(opened)}


def values(opened: Model, name: str = "w") -> np.ndarray:
    return weights(opened)[name].array(opened)


def zeros(opened: Model) -> dict[str, int]:
    """How many entries of each weight are zero."""
    return {w.name: w.zeros(w.array(opened)) for w in find(opened)}
