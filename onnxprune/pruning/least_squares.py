"""Pruned rows that keep a layer's outputs: masks by what a removal costs, and the survivors by least squares.

A layer with weights W reads x; with weights V it reads z, what the network gives as it is pruned by then. The outputs
lose E|Wx - Vz|^2, a quadratic of V that second moments tell. Damping adds a multiple of |V - W|^2. numpy only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.core.dtypes import Array, settled

Select = Callable[[Array], Array]  # scores [groups, outputs, inputs] -> True where pruned
DAMPINGS = (0.01, 0.05, 0.2, 1.0, 5.0)
_JUDGED, _JUDGED_STEPS = 256, 20  # outputs of a group, and steps of their refit, that tell which damping is best
STEPS = 40  # of the alternating directions that choose most of what many would
_STEPS, _RESIDUAL = 40, 1e-3  # of conjugate gradients: at most so many, until the gradient is that share of the first
# Iterations of the alternating directions: from 100 to 300 as such a number of multiplications allows, but fewer of
# the largest problems, which may take five times as many.
_FEWEST, _MOST, _OF_LARGEST = 100, 300, 40
_MULTIPLICATIONS = 4e10
_PENALTIES = (0.01, 70.0)  # of the distance to the mask: at first and at last
_TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's inputs, centred where the layer has a bias to shift.

    Attributes:
        own: float32 [groups, inputs, inputs], the mean of z z^T.
        cross: the mean of x z^T.
    """

    own: Array
    cross: Array

    def error(self, rows: Array, pruned: Array) -> float:
        """E|Wx - Vz|^2 without the part that no V changes.

        Args:
            rows: W, float32 [groups, outputs, inputs].
            pruned: V.
        """
        pull = (pruned @ self.own - 2 * (rows @ self.cross)) * pruned
        return float(pull.sum(dtype=np.float64))


Halves = tuple[Moments, Moments]  # of each half of the samples


class Problem:
    """The damped quadratic of one layer, in units that give every input the energy 1."""

    def __init__(self, rows: Array, moments: Moments, damping: float) -> None:
        energy = np.maximum(np.einsum("gii->gi", moments.own), 0)
        added = damping * np.maximum(energy.mean(axis=1, keepdims=True), _TINY)
        self.unit = np.sqrt(energy + added)[:, None, :]
        self.target = (rows @ moments.cross + added[..., None] * rows) / self.unit
        matrix = moments.own / (self.unit * self.unit.transpose(0, 2, 1))
        np.einsum("gii->gi", matrix)[:] = 1
        self.matrix = matrix
        self.start = rows * self.unit

    @classmethod
    def of(cls, rows: Array, own: Array, damping: float) -> Problem:
        """That of a network which is pruned nowhere else, in float64: another number of threads leaves the mask alone.

        Args:
            rows: float [groups, outputs, inputs].
            own: float [groups, inputs, inputs], the mean of x x^T.
            damping: from 0 to 1, how far that gives way to independent inputs.
        """
        wide = own.astype(np.float64)
        return cls(rows.astype(np.float64), Moments(wide, wide), damping / max(1 - damping, _TINY))

    @cached_property
    def _turned(self) -> tuple[Array, Array]:
        """Eigenvalues and eigenvectors of the matrix."""
        values, vectors = np.linalg.eigh(self.matrix)
        return values, vectors

    def kept(self, shares: Sequence[float], steps: int) -> Array:
        """The rows with a share of their entries, refitted, for each of some shares; the others are 0.

        All shares go side by side: a product of few rows takes as long as it takes to read the matrix.

        Args:
            shares: of all entries.
            steps: of the alternating directions.

        Returns:
            float32 [shares, groups, outputs, inputs], see `settled`.
        """
        groups, outputs, inputs = self.start.shape
        gone = [self.start.size - max(1, round(share * self.start.size)) for share in shares]
        together = self._repeated(len(shares))

        def smallest(scores: Array) -> Array:
            each = scores.reshape(groups, len(shares), -1)
            mask = np.zeros(each.shape, bool)
            for at, count in enumerate(gone):
                if count:
                    flat = each[:, at].reshape(-1)
                    picked = np.zeros(flat.size, bool)
                    picked[np.argpartition(flat, count - 1)[:count]] = True
                    mask[:, at] = picked.reshape(groups, -1)
            return mask.reshape(scores.shape)

        mask = together.split(smallest, steps) if any(gone) else np.zeros(together.start.shape, bool)
        found = settled(np.where(mask, 0, together.refit(mask, together.start) / self.unit))
        return np.moveaxis(found.reshape(groups, len(shares), outputs, inputs), 1, 0)

    def _repeated(self, times: int) -> Problem:
        """That of all outputs so many times, one after the other in each group."""
        if times == 1:  # a whole weight is not copied
            return self
        found = copy.copy(self)
        found.target, found.start = (np.tile(array, (1, times, 1)) for array in (self.target, self.start))
        return found

    def refit(self, mask: Array, start: Array, steps: int = _STEPS) -> Array:
        """The least V that is 0 under the mask, by conjugate gradients of all rows at once, in the units of `start`."""
        keep = (~mask).astype(start.dtype)
        found = start * keep
        left = (self.target - found @ self.matrix) * keep
        step = left.copy()
        energy = np.square(left).sum(-1, keepdims=True)
        enough = _RESIDUAL**2 * np.square(self.target * keep).sum(-1, keepdims=True) + _TINY**2
        for _ in range(steps):
            if (energy <= enough).all():
                break
            moved = (step @ self.matrix) * keep
            curved = (step * moved).sum(-1, keepdims=True)
            length = np.where(energy > enough, energy / np.maximum(curved, _TINY**2), 0)
            found += length * step
            left -= length * moved
            before, energy = energy, np.square(left).sum(-1, keepdims=True)
            step = left + np.where(before > 0, energy / np.maximum(before, _TINY**2), 0) * step
        return found

    def split(self, select: Select, steps: int | None = None) -> Array:
        """The mask of the sparse least squares, by alternating directions (Meng et al. 2024): entries come and go.

        Args:
            select: scores -> the mask.
            steps: how many; None: as many as so large a problem is worth.
        """
        values, vectors = self._turned
        values, back = np.maximum(values, 0)[:, None, :], vectors.transpose(0, 2, 1)
        turned = self.target @ vectors
        sparse = self.start
        dual = np.zeros_like(sparse)
        mask = select(np.abs(sparse))
        sparse = np.where(mask, 0, sparse)
        for penalty in np.geomspace(*_PENALTIES, steps or _iterations(sparse), dtype=sparse.dtype):
            dense = ((turned + (penalty * sparse - dual) @ vectors) / (values + penalty)) @ back
            wanted = dense + dual / penalty
            mask = select(np.abs(wanted))
            sparse = np.where(mask, 0, wanted)
            dual += penalty * (dense - sparse)
        return mask


def _iterations(rows: Array) -> int:
    """How many iterations so large a problem is worth."""
    within = _MULTIPLICATIONS / (2 * rows.size * rows.shape[-1])
    return int(np.clip(within, np.clip(5 * within, _OF_LARGEST, _FEWEST), _MOST))


def pruned_rows(rows: Array, halves: Halves, select: Select, saliency: str) -> Array:
    """The rows of a layer pruned by saliency, the survivors refitted as far as half of the samples tells of the other.

    Args:
        rows: float32 [groups, outputs, inputs].
        halves: the moments of each half of the samples.
        select: scores -> the mask.
        saliency: activation, |w| times the root of its input's energy (Sun et al. 2024), or obs, `Problem.split`.
    """
    damping = _damping(rows, halves, select)
    whole = Moments((halves[0].own + halves[1].own) / 2, (halves[0].cross + halves[1].cross) / 2)
    plain = np.where(select(np.abs(rows)), 0, rows)
    if damping is None:
        return plain
    problem = Problem(rows, whole, damping)
    mask = problem.split(select) if saliency == "obs" else select(np.abs(problem.start))
    found = problem.refit(mask, problem.start) / problem.unit
    return found if whole.error(rows, found) < whole.error(rows, plain) else plain


def _damping(rows: Array, halves: Halves, select: Select) -> float | None:
    """The damping at which survivors refitted on one half lose least on the other; None where as they are they do.

    Some of the outputs tell.
    """
    energy = np.maximum(np.einsum("gii->gi", halves[0].own + halves[1].own), 0)[:, None, :]
    some = slice(None, None, -(-rows.shape[1] // _JUDGED))
    mask, own = select(np.abs(rows) * np.sqrt(energy))[:, some], rows[:, some]
    plain, least, best = np.where(mask, 0, own), 0.0, None
    for damping in DAMPINGS:
        left = 0.0
        for seen, unseen in (halves, halves[::-1]):
            problem = Problem(own, seen, damping)
            refitted = problem.refit(mask, problem.start, _JUDGED_STEPS) / problem.unit
            left += unseen.error(own, refitted) - unseen.error(own, plain)
        if left < least:
            least, best = left, damping
    return best
