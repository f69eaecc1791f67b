"""What a unit of each weight's loss does to the outputs, against the usual weight: measured where runs can tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.encodings.graph.tables import gathers_of
from onnxprune.model.model import Model
from onnxprune.model.operators import RECURRENT
from onnxprune.model.weight import Weight
from onnxprune.pipeline.per_weight import PerWeight

_TRUSTED = 8.0  # how far apart gains may move weights: few samples, and outputs that saturate, tell half the truth
_GAIN_SAMPLES = 4  # each costs a run per weight
_UNREACHED = 0.5  # what a loss counts at least that synthesised inputs do not bring to the outputs: others may
_MANY = 16  # weights from which on synthesised inputs tell one that stands out from the usual one
_RECURRENT = 1.5  # what a loss counts that goes round with the state
_ROWS = 0.24  # what a loss counts of a table, whose errors differ from row to row: sums over tokens even them out


def noise_counts(
    model: Model, weights: Sequence[Weight], unfed: Sequence[bool], calibration: CalibrationSet | None,
    importance: PerWeight[float], tables: bool,
) -> list[float]:  # fmt: skip
    """What a unit of each weight's loss counts.

    By the root of what reaches the outputs of noise in the weight: on samples of the data, or on synthesised inputs
    where enough weights tell what is usual. What is set goes before.

    Args:
        model: the model.
        weights: those with a curve.
        unfed: whether errors of the weight are passed on to nothing.
        calibration: the data; None: there is none.
        importance: what is set.
        tables: whether tables may be read row by row: sums over tokens even out their errors.

    Raises:
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run on them.
    """
    if importance.entries:
        counts = [importance.get(weight.name, 1.0) for weight in weights]
    elif calibration is not None:
        from onnxprune.allocation.noise_gain import gains_on  # which runs the model

        gains = gains_on(model, weights, calibration.source, _GAIN_SAMPLES, calibration.half) if weights else []
        counts = [_trusted(gain, 1 / _TRUSTED) for gain in gains]
    else:
        rows = [tables and bool(gathers_of(weight)) for weight in weights]
        gains = [None] * len(weights)
        if len(weights) >= _MANY:
            from onnxprune.allocation.noise_gain import synthetic_gains  # which runs the model

            gains = synthetic_gains(model, weights)
        counts = [_ROWS if row else _trusted(gain, _UNREACHED) for row, gain in zip(rows, gains, strict=True)]
    left = [
        _RECURRENT if alone and weight.kind in RECURRENT else 1.0 for weight, alone in zip(weights, unfed, strict=True)
    ]
    return [count * rest for count, rest in zip(counts, left, strict=True)]


def _trusted(gain: float | None, least: float) -> float:
    """What a unit of a weight's loss counts for its gain, against the usual one."""
    return 1.0 if gain is None else float(np.clip(np.sqrt(gain), least, _TRUSTED))
