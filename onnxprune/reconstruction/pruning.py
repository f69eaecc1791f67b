"""Weights pruned such that their layers keep what they can of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import Layer
from onnxprune.core.dtypes import Array, array_dtype
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.pruning.least_squares import Halves, pruned_rows
from onnxprune.reconstruction.sequential import Fitted, fit

Select = Callable[[Array], Array]  # scores of a weight's shape, not negative -> True where pruned
_LEAST = np.float32(1e-30)  # the score of what is not 0 yet, so that zeros go first


def prune_layers(
    model: Model, layers: Mapping[str, Layer], selects: Mapping[str, Select], saliency: str,
    calibration: CalibrationSet, progress: Progress = silent, name: str = "",
) -> Fitted:  # fmt: skip
    """Prune layers in the order in which they run, and refit what stays of each.

    Entries that are 0 go first. A layer that loses nothing and reads what it read stays as it is.

    Args:
        model: edited in place.
        layers: by the name of their weight.
        selects: which entries go, by the same names.
        saliency: see `least_squares.pruned_rows`.
        calibration: the samples.
        progress: hears of the bytes of the weights.
        name: of the pass.

    Raises:
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run.
    """

    def change(layer: Layer, rows: Array, halves: Halves) -> Array | None:
        zero, select = rows == 0, selects[layer.weight.name]

        def mask(scores: Array) -> Array:
            return layer.rows(select(layer.array(np.where(zero, 0, np.maximum(scores, _LEAST)))))

        gone = mask(np.abs(rows))
        if not rows[gone].any() and all(np.array_equal(half.own, half.cross) for half in halves):
            return None
        return held(rows, pruned_rows(rows, halves, mask, saliency), layer.weight)

    return fit(model, list(layers.values()), calibration, change, progress, name)


def held(before: Array, after: Array, weight: Weight) -> Array:
    """The rows as the weight's type holds them: what stays does not become 0 or infinite by rounding."""
    dtype = array_dtype(weight.element)
    most = np.finfo(dtype).max
    rounded = np.clip(after, -most, most).astype(dtype)
    return np.where((rounded == 0) & (after != 0), before, rounded)
