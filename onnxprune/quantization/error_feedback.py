"""Error feedback: what rounding one input's weights got wrong is made good by the inputs that are rounded after it.

Optimal Brain Surgeon (Hassibi and Stork 1993) in the order and with the Cholesky factor of GPTQ (Frantar et al. 2023);
a level at 0 makes it prune as well (SparseGPT, Frantar and Alistarh 2023).
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
        left = dict.fromkeys(DAMPINGS, 0.0)
        for seen, unseen in zip(*halves, strict=True):
            order = _order(seen)
            known, other = _ordered(seen, order), _ordered(unseen, order)
            for damping in DAMPINGS:
                left[damping] += _left(_factor(known, _energy(seen), damping), other)
        damping = min(left, key=left.__getitem__)
        orders, factors = [], []
        for moment in halves.mean(0):
            orders.append(_order(moment))
            factor = _factor(_ordered(moment, orders[-1]), _energy(moment), damping)
            factors.append(factor.astype(np.float32))
        whole = float(np.trace(halves[1], axis1=1, axis2=2).sum(dtype=np.float64))
        return cls(np.stack(orders), np.stack(factors), min(1.0, left[damping] / max(whole, _MIN_ENERGY)))

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


def _order(moment: Array) -> Array:
    """The inputs of one group, those of most energy first."""
    return np.argsort(-np.diag(moment).astype(np.float64), kind="stable")


def _ordered(moment: Array, order: Array) -> Array:
    return moment[np.ix_(order, order)].astype(np.float64)


def _energy(moment: Array) -> float:
    """The mean energy of the inputs."""
    return max(float(np.diag(moment).astype(np.float64).mean()), _MIN_ENERGY)


def _factor(moment: Array, energy: float, damping: float) -> Array:
    """The factor of one group's ordered inputs."""
    from scipy.linalg.lapack import dtrtri  # at its first use: most commands do without

    damped = (1 - damping) * moment
    damped[np.diag_indices_from(damped)] += damping * energy
    # The factor of the inverse is the inverse of the factor from the other end.
    inverse, _ = dtrtri(np.linalg.cholesky(damped[::-1, ::-1]), lower=1)
    return np.ascontiguousarray(inverse[::-1, ::-1])


def _left(factor: Array, unseen: Array) -> float:
    """What unit errors passed on by the moments of some samples leave in the outputs for others."""
    passed = factor / np.diag(factor)[:, None]  # a unit error of each input, and what the inputs after it make good
    left = 0.0
    for at in range(0, len(passed), _BLOCK):
        rows = passed[at : at + _BLOCK, at:]  # to the left of it there is nothing
        left += float(((rows @ unseen[at:, at:]) * rows).sum())
    return left


def _round(rows: Array, order: Array, factor: Array, levels: Array, prune: bool, boundaries: Array | None) -> Array:
    """`Feedback.round` for one group."""
    x = rows[:, order].T.astype(np.float32)  # [inputs, outputs]: a row is rounded at once
    fixed = None if prune else x == 0
    ranked = np.argsort(levels, kind="stable") if prune else 1 + np.arange(len(levels) - 1)
    points, code_of = levels[ranked].astype(np.float32), ranked.astype(np.uint8)
    borders = (points[1:] + points[:-1]) / 2 if boundaries is None else boundaries.astype(np.float32)
    ranks = np.empty(x.shape, np.uint8)
    passed_on = np.empty((_BLOCK, x.shape[1]), np.float32)
    for at in range(0, len(x), _BLOCK):
        end = min(at + _BLOCK, len(x))
        errors = np.empty((end - at, x.shape[1]), np.float32)
        for i in range(at, end):
            ranks[i] = rank = borders.searchsorted(x[i], side="right")
            value = points.take(rank)
            if fixed is not None:
                value[fixed[i]] = 0
            error = np.subtract(x[i], value, out=errors[i - at])
            error /= factor[i, i]
            after = x[i + 1 : end]
            after -= np.multiply(factor[i, i + 1 : end, None], error, out=passed_on[: len(after)])
        x[end:] -= factor[at:end, end:].T @ errors
    codes = code_of[ranks]
    if fixed is not None:
        codes[fixed] = 0
    found = np.empty_like(codes)
    found[order] = codes
    return found.T
