"""A share of all weights together: how many entries of each go where what a removal costs the outputs decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import Layer
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.progress import Progress
from onnxprune.pruning import selection
from onnxprune.pruning.least_squares import Halves, removal_costs
from onnxprune.pruning.scores import magnitudes
from onnxprune.reconstruction.sequential import fit


def global_counts(
    model: Model, weights: Sequence[Weight], layers: Mapping[str, Layer], sparsity: float,
    calibration: CalibrationSet, progress: Progress, name: str,
) -> dict[str, int]:  # fmt: skip
    """How many entries of each weight are among the round(sparsity * n) that cost their layers' outputs least.

    The cost is a share of the energy of the layer's outputs, after the other entries made good what they can; where
    inputs are not known they count as independent and alike.

    Args:
        model: the model.
        weights: those of the scope.
        layers: those of them whose inputs can be recorded, by name.
        sparsity: the share.
        calibration: the samples.
        progress: hears of the bytes of the weights.
        name: of the pass.
    """
    costs: dict[str, Array] = {}

    def measured(layer: Layer, rows: Array, halves: Halves) -> None:
        costs[layer.weight.name] = layer.array(removal_costs(rows, halves)).reshape(-1)

    fit(model, list(layers.values()), calibration, measured, progress, name)
    for weight in weights:
        if weight.name not in costs:
            squares = np.square(magnitudes(weight, weight.array(model)).astype(np.float32)).reshape(-1)
            costs[weight.name] = squares / max(float(squares.sum(dtype=np.float64)), np.finfo(np.float32).tiny)
    parts = [costs[weight.name] for weight in weights]
    total = sum(part.size for part in parts)
    cut = selection.smallest([partial(list, [part]) for part in parts], round(sparsity * total), total)
    counts, ties = {}, cut.ties
    for weight, part in zip(weights, parts, strict=True):
        taken = min(ties, int(np.count_nonzero(part == cut.threshold)))
        ties -= taken
        counts[weight.name] = int(np.count_nonzero(part < cut.threshold)) + taken
    return counts
