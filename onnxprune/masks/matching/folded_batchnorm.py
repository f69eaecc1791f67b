"""Batch norms that an exporter folded into the layer before them: w * gamma / sqrt(variance + epsilon) per channel."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np

from onnxprune.masks.matching.axis_order import Order, orders, oriented
from onnxprune.masks.matching.link import Array, Fold, Link

# What frameworks call variance, mean, gamma and beta of a batch norm; flax keeps the first two in a tree of their own.
_NAMES = {
    "running_var": ("running_mean", "weight", "bias"),
    "moving_variance": ("moving_mean", "gamma", "beta"),
    "var": ("mean", "scale", "bias"),
}
_VARIANCE = re.compile(rf"(?P<layer>.*?)(?P<name>{'|'.join(_NAMES)})(?P<tail>:0)?")
_BIAS_OF = re.compile(r"(weight|kernel)((?::0)?)$")
_EPSILONS = (1e-5, 1e-3, 1e-6, 1e-4, 1e-2, 1e-7, 1e-8, 1e-12, 0.0)


class FoldedBatchNorms:
    """The batch norms of a checkpoint, and the parameters that they may have been folded into."""

    def __init__(self, checkpoint: Mapping[str, Array], candidates: list[str]) -> None:
        self.checkpoint = checkpoint
        self.norms: dict[int, list[Fold]] = defaultdict(list)  # by channels
        for norm in _norms_in(checkpoint):
            self.norms[checkpoint[norm.variance].size].append(norm)
        self.by_size: dict[int, list[str]] = defaultdict(list)
        for name in candidates:
            self.by_size[checkpoint[name].size].append(name)
        self.ratios: dict[tuple[str, int], Array] = {}
        self.scales: dict[tuple[int, float], Array] = {}

    def unfold(self, weight: Array, out_axis: int) -> list[tuple[str, Order, Fold]]:
        """Every (parameter, order, batch norm) that makes up a weight.

        A parameter fits that is the weight but for one factor per output channel, which is that of a batch norm.
        """
        if weight.shape[out_axis] not in self.norms:
            return []
        tolerance, found = _tolerance(weight), []
        for parameter in self._alike(weight, out_axis):
            array = self.checkpoint[parameter]
            for order in orders(array.shape, weight.shape):
                scale = _scale(weight, oriented(array, order, weight.shape), out_axis, tolerance)
                if scale is not None:
                    folds = self._with_scale(scale, 8 * tolerance)
                    found += [(parameter, order, replace(fold, axis=out_axis)) for fold in folds]
        return found

    def _alike(self, weight: Array, out_axis: int) -> list[str]:
        """The parameters that have the weight's second largest over largest magnitude in its fullest channel.

        No factor, sign or order changes it, and pruning by magnitude leaves it.
        """
        rows = np.moveaxis(weight, out_axis, 0).reshape(weight.shape[out_axis], -1)
        filled = np.count_nonzero(rows, axis=1)
        channel = int(filled.argmax())
        if filled[channel] < 2:  # one value per channel is any other times some factor
            return []
        ratio = _ratios(rows[channel : channel + 1], 0)[0]
        found = []
        for name in self.by_size[weight.size]:
            array = self.checkpoint[name]
            for axis in (a for a in range(array.ndim) if array.shape[a] == len(rows)):
                if (name, axis) not in self.ratios:
                    self.ratios[name, axis] = _ratios(array, axis)
                if abs(self.ratios[name, axis][channel] - ratio) <= 4 * _tolerance(weight):
                    found.append(name)
                    break
        return found

    def _with_scale(self, scale: Array, tolerance: float) -> list[Fold]:
        """The batch norms that scale so, each with the epsilon that does it best."""
        known, norms = np.isfinite(scale), self.norms[scale.size]
        errors = []
        for epsilon in _EPSILONS:
            if (scale.size, epsilon) not in self.scales:
                made = [replace(norm, epsilon=epsilon).scale(self.checkpoint) for norm in norms]
                self.scales[scale.size, epsilon] = np.stack(made)
            with np.errstate(divide="ignore", invalid="ignore"):
                errors.append(np.abs(self.scales[scale.size, epsilon][:, known] / scale[known] - 1).max(axis=1))
        best = np.argmin(errors, axis=0)
        return [
            replace(norm, epsilon=_EPSILONS[best[i]]) for i, norm in enumerate(norms) if errors[best[i]][i] <= tolerance
        ]

    def shift(self, fold: Fold, parameter: str, biases: Mapping[str, Array]) -> Link | None:
        """The one bias that a fold left behind, with or without the layer's own in it; None unless there is one."""
        own = _BIAS_OF.sub(r"bias\2", parameter)
        found = []
        for bias in (own, None) if own in self.checkpoint and own != parameter else (None,):
            made = replace(fold, bias=bias, axis=None)
            if bias is None or self.checkpoint[bias].shape == self.checkpoint[fold.variance].shape:
                values = made.applied(np.zeros(0), self.checkpoint)
                found += [Link(name, fold=made) for name, array in biases.items() if _near(array, values)]
        return found[0] if len(found) == 1 else None


def _norms_in(checkpoint: Mapping[str, Array]) -> list[Fold]:
    """Every batch norm, by what frameworks call its parts."""
    found = []
    for name, array in checkpoint.items():
        matched = _VARIANCE.fullmatch(name)
        if matched is None or array.ndim != 1:
            continue
        layer, tail = matched["layer"], matched["tail"] or ""
        mean, *learned = (f"{part}{tail}" for part in _NAMES[matched["name"]])
        names = (f"{layer.replace('batch_stats', 'params')}{part}" for part in learned)
        gamma, beta = (part if part in checkpoint else None for part in names)
        norm = Fold(name, f"{layer}{mean}", 0.0, gamma, beta)
        if all(part in checkpoint and checkpoint[part].shape == array.shape for part in norm.names):
            found.append(norm)
    return found


def _tolerance(weight: Array) -> float:
    """What rounding may do, as a share of the largest magnitude: exporters fold in the model's type."""
    return max(1e-5, 4 * float(ml_dtypes.finfo(weight.dtype).eps))  # type: ignore[no-untyped-call]


def _near(array: Array, values: Array) -> bool:
    if array.size != values.size:
        return False
    return bool(np.abs(array.reshape(-1) - values).max() <= _tolerance(array) * np.abs(values).max())


def _ratios(array: Array, axis: int) -> Array:
    """The second largest magnitude over the largest along each index of the axis; NaN where all are zero."""
    rows = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64))
    if rows.shape[1] < 2:
        return np.full(len(rows), np.nan)
    top = np.partition(rows, rows.shape[1] - 2, axis=1)[:, -2:]
    with np.errstate(invalid="ignore"):
        return top[:, 0] / top[:, 1]


def _scale(weight: Array, parameter: Array, out_axis: int, tolerance: float) -> Array | None:
    """The factor of each output channel (NaN where the weight is zero), or None where it is not one factor."""
    mine, theirs = (
        np.moveaxis(array, out_axis, 0).reshape(weight.shape[out_axis], -1).astype(np.float64)
        for array in (weight, parameter)
    )
    largest = np.abs(mine).argmax(axis=1)[:, None]
    top, under = np.take_along_axis(mine, largest, 1), np.take_along_axis(theirs, largest, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(top == 0, np.nan, top / under)
        off = ~(np.abs(mine - scale * theirs) <= tolerance * np.abs(top))
    return None if (off & (mine != 0)).any() else scale.reshape(-1)
