"""What a unit of each weight's loss costs a metric, from a sensitivity scan."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from onnxprune.allocation.curves import Curves
from onnxprune.core.chunked import ChunkedArray, RowRange
from onnxprune.core.dtypes import Array
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.per_weight import PerWeight
from onnxprune.pruning.selection import smallest

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
    bad = {w.name: max(_lost(w.chunked(model), at[w.name]), _MIN_DROP) for w in find(model) if w.name in at}
    usual = math.exp(sum(map(math.log, bad.values())) / max(len(bad), 1))
    return PerWeight(tuple((name, usual / loss) for name, loss in bad.items())).texts("{:.6g}".format)


def _lost(chunked: ChunkedArray, sparsity: float) -> float:
    """The share of the energy in the smallest entries."""
    sizes = chunked.map(np.float32, lambda rows, columns, part: np.abs(part.astype(np.float32)))

    def scores() -> Iterator[Array]:
        return sizes.each(lambda _, part: part.reshape(-1))

    cut = smallest([scores], round(sparsity * chunked.size), chunked.size)

    def energies(_: RowRange, part: Array) -> tuple[float, float]:
        energy = np.square(part, dtype=np.float64)
        return float(energy.sum()), float(energy.sum(where=part < cut.threshold))

    total, below = (sum(parts) for parts in zip(*sizes.each(energies), strict=True))
    return (below + cut.ties * cut.threshold**2) / total if total else 0.0
