"""What a unit of each weight's loss costs a metric, from a sensitivity scan."""

from __future__ import annotations

import math

import numpy as np

from onnxprune.allocation.curves import Curves
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.per_weight import PerWeight

_MIN_DROP = 1e-6  # of a layer that drops as soon as anything is pruned


def importance_of(model: Model, curves: Curves) -> tuple[str, ...]:
    """What the loss of each layer counts, as the encode pass's `importance` wants it; 1 is the usual.

    Pruning the smallest entries loses their share of the energy. Where the layers drop equally far, the losses are
    equally bad: a unit of loss counts the inverse of a layer's loss there.

    Args:
        model: the model that was scanned, nothing encoded.
        curves: its scan, of weights.

    Raises:
        OptionError: the curves are of channels.
    """
    at = curves.comparable()
    bad = {w.name: max(_lost(w.array(model), at[w.name]), _MIN_DROP) for w in find(model) if w.name in at}
    usual = math.exp(sum(map(math.log, bad.values())) / max(len(bad), 1))
    return PerWeight(tuple((name, usual / loss) for name, loss in bad.items())).texts("{:.6g}".format)


def _lost(array: np.ndarray, sparsity: float) -> float:
    """The share of the energy in the smallest entries."""
    energy = np.sort(np.square(array.astype(np.float32)).reshape(-1))
    total = float(energy.sum(dtype=np.float64))
    return float(energy[: round(sparsity * energy.size)].sum(dtype=np.float64)) / total if total else 0.0
