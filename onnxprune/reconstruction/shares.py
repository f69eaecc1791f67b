"""A share of all weights together: how many entries of each go for their layers' outputs to lose least in all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import Layer
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.progress import Progress
from onnxprune.pruning.least_squares import Halves, Problem
from onnxprune.pruning.scores import magnitudes
from onnxprune.reconstruction.sequential import fit

# At which a layer is pruned; denser where losses grow fast.
SHARES = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 1])
_FINE = np.linspace(0, 1, 257)  # between them a curve is read smoothly
_SOME = 64  # groups, and outputs of each, that tell
_STEPS, _DAMPING = 20, 0.02  # of the alternating directions, and of the moments
_TINY = 1e-30


def global_counts(
    model: Model, weights: Sequence[Weight], layers: Mapping[str, Layer], sparsity: float,
    calibration: CalibrationSet, progress: Progress, name: str,
) -> dict[str, int]:  # fmt: skip
    """How many entries of each weight go such that round(sparsity * n) do and the losses of the layers add up to least.

    A loss is the squared error of a layer's outputs over their energy if its inputs were independent and alike, after
    the entries that stay were refitted. It is measured at some shares for some of the outputs: one half of the samples
    prunes, the other tells. Where inputs are not known they count as independent and alike.

    Args:
        model: the model.
        weights: those of the scope.
        layers: those of them whose inputs can be recorded, by name.
        sparsity: the share.
        calibration: the samples.
        progress: hears of the bytes of the weights.
        name: of the pass.
    """
    losses: dict[str, Array] = {}
    zeros = [weight.zeros(weight.chunked(model)) for weight in weights]

    def measured(layer: Layer, rows: Array, halves: Halves) -> None:
        losses[layer.weight.name] = _losses(rows, halves)

    fit(model, list(layers.values()), calibration, measured, progress, name)
    for weight in weights:
        if weight.name not in losses:
            losses[weight.name] = _alone(magnitudes(weight, weight.array(model)))
    curves, sizes = [losses[weight.name] for weight in weights], [weight.size for weight in weights]
    counts = shared_out(curves, sizes, zeros, round(sparsity * sum(sizes)))
    return {weight.name: count for weight, count in zip(weights, counts, strict=True)}


def shared_out(losses: Sequence[Array], sizes: Sequence[int], zeros: Sequence[int], total: int) -> list[int]:
    """How many entries of each weight go, `total` in all, for the losses to add up to least.

    Steps along the lower convex hull of each curve, those first that lose least for an entry.

    Args:
        losses: of each weight at `SHARES`.
        sizes: entries of each weight.
        zeros: those of each that are 0 and stay so: what is over `total` of them comes on top.
        total: at most all entries.
    """
    from scipy.interpolate import PchipInterpolator  # at its first use: most commands do without

    steps = []
    for number, (curve, size, there) in enumerate(zip(losses, sizes, zeros, strict=True)):
        known = np.sqrt(np.maximum.accumulate(np.where(SHARES * size <= there, 0, curve)))
        fine = np.square(PchipInterpolator(SHARES, known)(_FINE))
        steps += [
            ((fine[right] - fine[left]) / (size * (_FINE[right] - _FINE[left])), number, right)
            for left, right in _hull(fine)
        ]
    counts = list(zeros)
    wanted = max(total - sum(counts), 0)
    for _, number, right in sorted(steps):
        taken = min(max(round(_FINE[right] * sizes[number]) - counts[number], 0), wanted)
        counts[number] += taken
        wanted -= taken
    return counts


def _hull(curve: Array) -> Iterator[tuple[int, int]]:
    """The sides of the lower convex hull of a curve over `_FINE`: from which of these to which."""
    left = 0
    while left < len(_FINE) - 1:
        slopes = (curve[left + 1 :] - curve[left]) / (_FINE[left + 1 :] - _FINE[left])
        right = left + 1 + int(np.flatnonzero(slopes == slopes.min())[-1])
        yield left, right
        left = right


def _losses(rows: Array, halves: Halves) -> Array:
    """What a layer loses at `SHARES`.

    Args:
        rows: float32 [groups, outputs, inputs].
        halves: the moments of each half of the samples.
    """
    groups, outputs = (np.unique(np.linspace(0, n - 1, min(n, _SOME)).astype(np.intp)) for n in rows.shape[:2])
    some = rows[groups][:, outputs]
    seen, unseen = (half.own[groups].astype(np.float64) for half in halves)
    problem = Problem.of(some, seen, _DAMPING)
    kept = problem.kept([1 - share for share in SHARES[1:-1]], _STEPS)
    found = [_error(each - some, unseen) for each in kept]
    mean = np.trace(unseen, axis1=1, axis2=2) / rows.shape[-1]
    energy = float((mean * np.square(some, dtype=np.float64).sum((1, 2))).sum())
    return np.array([0.0, *found, _error(some, unseen)]) / max(energy, _TINY)


def _error(rows: Array, moments: Array) -> float:
    """The energy of the outputs that rows make of inputs of those second moments."""
    return float(((rows @ moments) * rows).sum())


def _alone(magnitude: Array) -> Array:
    """What a weight whose inputs are independent and alike loses at `SHARES`."""
    squares = np.sort(np.square(magnitude.reshape(-1), dtype=np.float64))
    lost = np.concatenate([[0.0], np.cumsum(squares)])
    found: Array = lost[np.round(SHARES * squares.size).astype(np.intp)] / max(float(lost[-1]), _TINY)
    return found
