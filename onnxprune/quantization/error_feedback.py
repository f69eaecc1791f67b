"""Error feedback: what rounding one input's weights got wrong is made good by the inputs that are rounded after it.

Optimal Brain Surgeon (Hassibi and Stork 1993) in the order and with the Cholesky factor of GPTQ (Frantar et al. 2023);
a level at 0 makes it prune as well (SparseGPT, Frantar and Alistarh 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.core.dtypes import Array, settled
from onnxprune.quantization.cells import Cells

# How far moments give way to those of independent inputs: the fewer samples for the inputs, the further.
DAMPINGS = (0.01, 0.1, 0.5)
_MIN_ENERGY = 1e-30  # energy of an input
_BLOCK = 64  # inputs whose errors are passed on at once to those after the block


@dataclass(frozen=True)
class Rounded:
    """What is rounded; see `Feedback.round`."""

    rows: Array
    levels: Array
    prune: bool
    boundaries: Array | None = None

    @property
    def codes(self) -> Array:
        """The code of each level that may be chosen, uint8, the levels ascending."""
        found = np.argsort(self.levels, kind="stable") if self.prune else 1 + np.arange(len(self.levels) - 1)
        return found.astype(np.uint8)

    @property
    def cells(self) -> tuple[Array, Array]:
        """These levels and the borders of their cells, float32."""
        points = self.levels[self.codes].astype(np.float32)
        borders = (points[1:] + points[:-1]) / 2 if self.boundaries is None else self.boundaries.astype(np.float32)
        return points, borders


@dataclass(frozen=True)
class Feedback:
    """How the rounding error of one input's weights is passed on to the others, for each group of a layer.

    The inputs of a group may be in blocks, see `in_blocks`, which then are groups of their own.

    Attributes:
        order: [groups, inputs], those of most energy first.
        factor: float32 [groups, inputs, inputs], upper: its transpose times itself inverts the damped moments.
        moments: float32 [groups, inputs, inputs], the mean of x x^T over the inputs x; None where these are assumed:
            an error counts as the weight's then.
        damping: how far they give way to those of independent inputs.
        remaining: the squared error of the outputs that is left, over that of errors that are not passed on.
        whole: how many inputs a group has before it is in blocks.
    """

    order: Array
    factor: Array
    moments: Array | None
    damping: float
    remaining: float
    whole: int

    @classmethod
    def of(cls, halves: Array) -> Feedback:
        """Prepare moments of a layer's inputs; each half of the samples tells what the other one's are worth.

        Args:
            halves: [2, groups, inputs, inputs], the mean of x x^T over the inputs x of each half of the samples.
        """
        left = _remaining(halves[0], halves[1], DAMPINGS)
        damping = min(left, key=left.__getitem__)
        return cls.damped(halves.mean(0), damping, left[damping])

    @classmethod
    def damped(cls, moments: Array, damping: float, remaining: float = 1.0) -> Feedback:
        """Prepare moments at a damping.

        Args:
            moments: float32 [groups, inputs, inputs].
            damping: from 0 to 1.
            remaining: see `Feedback`.
        """
        order = _order(moments)
        factor = settled(_factor(_ordered(moments, order), _energy(moments), damping))
        return cls(order, factor, moments, damping, remaining, moments.shape[-1])

    @classmethod
    def assumed(cls, kinds: Array, damping: float, most: float, whole: int) -> Feedback | None:
        """Prepare moments of other inputs than those to come; each kind tells what those of another one are worth.

        Args:
            kinds: float32 [2, groups, inputs, inputs], the mean of x x^T over the inputs x of each kind, in blocks.
            damping: from 0 to 1.
            most: what may remain of the squared error, see `Feedback`.
            whole: see `Feedback`.

        Returns:
            None where more remains.
        """
        remaining = sum(_remaining(seen, unseen, (damping,))[damping] for seen, unseen in (kinds, kinds[::-1])) / 2
        if remaining > most:
            return None
        return replace(cls.damped(kinds.mean(0), damping, remaining), moments=None, whole=whole)

    def round(self, rows: Array, levels: Array, prune: bool, boundaries: Array | None = None) -> Array:
        """The code of each entry, uint8, such that the outputs of the layer keep what they can.

        Args:
            rows: float [outputs, inputs], the weight divided by its scale; the groups follow each other.
            levels: as in `codebook.Codebook`, at most 256.
            prune: whether entries other than 0 may get code 0; zeros keep theirs without it.
            boundaries: as in `codebook.Codebook`.
        """
        return self.round_each([Rounded(rows, levels, prune, boundaries)])[0]

    def round_each(self, wanted: Sequence[Rounded]) -> list[Array]:
        """`round` of versions of a weight, all of one shape: side by side a step costs little more than for one."""
        groups, size = len(self.order) // -(-self.whole // self.order.shape[1]), self.order.shape[1]
        cut = [
            replace(each, rows=in_blocks(each.rows.reshape(groups, -1, self.whole), size).reshape(-1, size))
            for each in wanted
        ]
        codes = [np.zeros(each.rows.shape, np.uint8) for each in cut]
        some = [(each, code) for each, code in zip(cut, codes, strict=True) if len(each.levels) > 1]
        if some:
            _round(some, self.order, self.factor)
        found = (out_of_blocks(each.reshape(len(self.order), -1, size), self.whole) for each in codes)
        return [code.reshape(each.rows.shape) for code, each in zip(found, wanted, strict=True)]


def in_blocks(rows: Array, size: int) -> Array:
    """Rows of inputs in blocks of these that are groups of their own; zeros fill the last one.

    Args:
        rows: [groups, rows, inputs].
        size: of a block, at most the inputs.

    Returns:
        [groups * blocks, rows, size].
    """
    groups, count, inputs = rows.shape
    blocks = -(-inputs // size)
    if blocks == 1:
        return rows
    filled = np.pad(rows, ((0, 0), (0, 0), (0, blocks * size - inputs)))
    return filled.reshape(groups, count, blocks, size).swapaxes(1, 2).reshape(groups * blocks, count, size)


def out_of_blocks(rows: Array, inputs: int) -> Array:
    """The inverse of `in_blocks`.

    Args:
        rows: [groups * blocks, rows, size].
        inputs: of a group.
    """
    _, count, size = rows.shape
    blocks = -(-inputs // size)
    found = rows.reshape(len(rows) // blocks, blocks, count, size).swapaxes(1, 2)
    return found.reshape(len(found), count, blocks * size)[..., :inputs]


def output_loss(moments: Array, rows: Array, rounded: Array) -> Array:
    """The squared error of each output over its energy if the inputs were independent and alike; float64 [outputs].

    So errors that no input is correlated with lose as much as they are of the weight.

    Args:
        moments: float [groups, inputs, inputs], the mean of x x^T over the inputs x.
        rows: float [outputs, inputs], the groups follow each other.
        rounded: what they became.
    """
    groups, inputs, _ = moments.shape
    each = rows.reshape(groups, -1, inputs)
    error = (rounded.reshape(each.shape) - each).astype(moments.dtype)
    squared = ((error @ moments) * error).sum(-1, dtype=np.float64).clip(0)
    mean = np.trace(moments, axis1=1, axis2=2, dtype=np.float64)[:, None] / inputs
    energy = mean * np.square(each).sum(-1, dtype=np.float64)
    return np.where(energy > 0, squared / np.where(energy > 0, energy, 1), 0.0).reshape(-1)


def _order(moments: Array) -> Array:
    """The inputs of each group, those of most energy first."""
    return np.argsort(-np.einsum("gii->gi", moments).astype(np.float64), axis=1, kind="stable")


def _ordered(moments: Array, order: Array) -> Array:
    groups = np.arange(len(order))[:, None, None]
    return moments[groups, order[:, :, None], order[:, None]].astype(np.float64)


def _energy(moments: Array) -> Array:
    """The mean energy of the inputs of each group."""
    return np.maximum(np.einsum("gii->gi", moments).astype(np.float64).mean(1), _MIN_ENERGY)


def _factor(moments: Array, energy: Array, damping: float) -> Array:
    """The factor of each group's ordered inputs."""
    from scipy.linalg.lapack import dtrtri  # at its first use: most commands do without

    damped = (1 - damping) * moments
    np.einsum("gii->gi", damped)[:] += damping * energy[:, None]
    # The factor of the inverse is the inverse of the factor from the other end.
    lower = np.linalg.cholesky(damped[:, ::-1, ::-1])
    return np.stack([dtrtri(each, lower=1)[0][::-1, ::-1] for each in lower])


def _remaining(seen: Array, unseen: Array, dampings: Sequence[float]) -> dict[float, float]:
    """What moments of some inputs leave for others at each damping, see `Feedback.remaining`."""
    order, energy = _order(seen), _energy(seen)
    known, other = _ordered(seen, order), _ordered(unseen, order)
    whole = float(np.trace(unseen, axis1=1, axis2=2).sum(dtype=np.float64))
    if whole <= 0:
        return dict.fromkeys(dampings, 1.0)
    return {damping: min(1.0, _left(_factor(known, energy, damping), other) / whole) for damping in dampings}


def _left(factor: Array, unseen: Array) -> float:
    """What unit errors passed on by the moments of some samples leave in the outputs for others."""
    # A unit error of each input, and what the inputs after it make good.
    passed = factor / np.einsum("gii->gi", factor)[:, :, None]
    left = 0.0
    for at in range(0, passed.shape[1], _BLOCK):
        rows = passed[:, at : at + _BLOCK, at:]  # to the left of it there is nothing
        left += float(((rows @ unseen[:, at:, at:]) * rows).sum())
    return left


def _round(parts: Sequence[tuple[Rounded, Array]], order: Array, factor: Array) -> None:
    """`Feedback.round_each`: what is wanted, all of one shape, and where its codes go."""
    groups, inputs = order.shape
    together = groups >= len(parts[0][0].rows) // groups  # whether groups lie innermost: the longer axis does
    # [inputs, parts, outputs, groups] or [inputs, parts, groups, outputs]: an input of all parts is rounded at once.
    x = np.stack([_by_input(each.rows, order, together) for each, _ in parts], axis=1)
    fixed = None if all(each.prune for each, _ in parts) else x == 0
    if fixed is not None:
        fixed[:, [each.prune for each, _ in parts]] = False
    cells = Cells(*zip(*(each.cells for each, _ in parts), strict=True))
    ranks, value = np.empty(x.shape, np.uint8), np.empty(x.shape[1:], np.float32)
    passed_on = np.empty((min(_BLOCK, inputs), *x.shape[1:]), np.float32)

    def spread(of_groups: Array) -> Array:
        """What each group has, [..., groups], beside the entries of all parts."""
        return of_groups[..., None, None, :] if together else of_groups[..., None, :, None]

    for at in range(0, inputs, _BLOCK):
        end = min(at + _BLOCK, inputs)
        errors = np.empty((end - at, *x.shape[1:]), np.float32)
        for i in range(at, end):
            cells.nearest(x[i], ranks[i], value)
            if fixed is not None:
                value[fixed[i]] = 0
            error = np.subtract(x[i], value, out=errors[i - at])
            error /= spread(factor[:, i, i])
            after = x[i + 1 : end]
            after -= np.multiply(spread(factor[:, i, i + 1 : end].T), error, out=passed_on[: len(after)])
        if end < inputs:
            back = factor[:, at:end, end:].transpose(0, 2, 1).astype(np.float64)
            groups_first = np.moveaxis(errors, -1 if together else 2, 0).astype(np.float64)
            passed = (back @ groups_first.reshape(groups, end - at, -1)).reshape(groups, inputs - end, len(parts), -1)
            x[end:] -= np.moveaxis(passed, 0, -1 if together else 2)
    for at, (each, codes) in enumerate(parts):
        found = each.codes[ranks[:, at]]
        if fixed is not None:
            found[fixed[:, at]] = 0
        by_group = found.transpose(2, 1, 0) if together else found.transpose(1, 2, 0)
        np.put_along_axis(
            codes.reshape(groups, -1, inputs), np.broadcast_to(order[:, None], by_group.shape), by_group, axis=2
        )


def _by_input(rows: Array, order: Array, together: bool) -> Array:
    """Rows [groups * outputs, inputs], the inputs of each group in their order and first, groups then last or second.

    Args:
        rows: the groups follow each other.
        order: of the inputs.
        together: whether groups come last.
    """
    grouped = np.take_along_axis(rows.reshape(len(order), -1, rows.shape[-1]), order[:, None], axis=2)
    return np.ascontiguousarray(grouped.transpose((2, 1, 0) if together else (2, 0, 1)), np.float32)
