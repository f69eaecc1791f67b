"""Error feedback: what rounding one input's weights got wrong is made good by the inputs that are rounded after it.

Optimal Brain Surgeon (Hassibi and Stork 1993) in the order and with the Cholesky factor of GPTQ (Frantar et al. 2023);
a level at 0 makes it prune as well (SparseGPT, Frantar and Alistarh 2023). numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import Array

# How far moments give way to those of independent inputs: the fewer samples for the inputs, the further.
DAMPINGS = (0.01, 0.1, 0.5)
_MIN_ENERGY = 1e-30  # energy of an input
_BLOCK = 128  # inputs whose errors are passed on at once to those after the block


@dataclass(frozen=True)
class Feedback:
    """How the rounding error of one input's weights is passed on to the others, for each group of a layer.

    Attributes:
        order: [groups, inputs], those of most energy first.
        factor: float32 [groups, inputs, inputs], upper: its transpose times itself inverts the damped moments.
        remaining: the squared error of the outputs that is left, over that of errors that are not passed on.
    """

    order: Array
    factor: Array
    remaining: float

    @classmethod
    def of(cls, halves: Array) -> Feedback:
        """Prepare moments of a layer's inputs; each half of the samples tells what the other one's are worth.

        Args:
            halves: [2, groups, inputs, inputs], the mean of x x^T over the inputs x of each half of the samples.
        """
        left = {damping: sum(_left(a, b, damping) for a, b in zip(*halves, strict=True)) for damping in DAMPINGS}
        damping = min(left, key=left.__getitem__)
        order, factor = zip(*(_factor(moment, damping) for moment in halves.mean(0)), strict=True)
        whole = float(np.trace(halves[1], axis1=1, axis2=2).sum(dtype=np.float64))
        factors = np.stack(factor).astype(np.float32)
        return cls(np.stack(order), factors, min(1.0, left[damping] / max(whole, _MIN_ENERGY)))

    def round(self, rows: Array, levels: Array, prune: bool, boundaries: Array | None = None) -> Array:
        """The code of each entry, uint8, such that the outputs of the layer keep what they can.

        Args:
            rows: float [outputs, inputs], the weight divided by its scale; the groups follow each other.
            levels: as in `quantise.Codebook`, at most 256.
            prune: whether entries other than 0 may get code 0; zeros keep theirs without it.
            boundaries: as in `quantise.Codebook`.
        """
        codes = np.zeros(rows.shape, np.uint8)
        if len(levels) > 1:
            each = len(rows) // len(self.order)
            for group, (order, factor) in enumerate(zip(self.order, self.factor, strict=True)):
                part = slice(group * each, (group + 1) * each)
                codes[part] = _round(rows[part], order, factor, levels, prune, boundaries)
        return codes


def _factor(moment: Array, damping: float) -> tuple[Array, Array]:
    """The order of one group's inputs, and the factor in that order."""
    energy = np.diag(moment).astype(np.float64)
    order = np.argsort(-energy, kind="stable")
    damped = (1 - damping) * moment[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping * max(float(energy.mean()), _MIN_ENERGY)
    # The factor of the inverse is the inverse of the factor from the other end.
    return order, np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1]))[::-1, ::-1]


def _left(seen: Array, unseen: Array, damping: float) -> float:
    """What unit errors passed on by the moments of some samples leave in the outputs for others."""
    order, factor = _factor(seen, damping)
    passed = factor / np.diag(factor)[:, None]  # a unit error of each input, and what the inputs after it make good
    return float(((passed @ unseen[np.ix_(order, order)]) * passed).sum())


def _round(rows: Array, order: Array, factor: Array, levels: Array, prune: bool, boundaries: Array | None) -> Array:
    """`Feedback.round` for one group."""
    x = rows[:, order].T.astype(np.float32)  # [inputs, outputs]: a row is rounded at once
    fixed = None if prune else x == 0
    ranked = np.argsort(levels, kind="stable") if prune else 1 + np.arange(len(levels) - 1)
    points, code_of = levels[ranked].astype(np.float32), ranked.astype(np.uint8)
    borders = (points[1:] + points[:-1]) / 2 if boundaries is None else boundaries.astype(np.float32)
    codes = np.empty(x.shape, np.uint8)
    for at in range(0, len(x), _BLOCK):
        end = min(at + _BLOCK, len(x))
        errors = np.empty((end - at, x.shape[1]), np.float32)
        for i in range(at, end):
            rank = np.searchsorted(borders, x[i], side="right")
            code, value = code_of[rank], points[rank]
            if fixed is not None:
                code, value = np.where(fixed[i], 0, code), np.where(fixed[i], 0, value)
            codes[i] = code
            errors[i - at] = (x[i] - value) / factor[i, i]
            x[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - at]
        x[end:] -= factor[at:end, end:].T @ errors
    found = np.empty_like(codes)
    found[order] = codes
    return found.T
