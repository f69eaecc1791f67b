"""Channels out of what layers read: in which order they cost the outputs least, and the weights that make them good.

A layer with weights W reads vectors x with the second moments H. Without the entries S of x its outputs lose, after
least squares on the others, tr(W_S (H^-1)_SS^-1 W_S^T): Optimal Brain Surgeon (Hassibi and Stork 1993) for groups of
entries, as in ZipLM (Kurtic et al. 2023). numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.pruning.least_squares import Halves, Moments

DAMPINGS = (1e-6, 1e-3, 1e-2, 1e-1, 1.0)
COSTED = 0.01  # damping of the costs
_JUDGED = 256  # outputs of a group that tell which damping is best
_TINY = 1e-30


class Reader:
    """What one layer loses as groups of its inputs go, one group after the other.

    Args:
        rows: W, float32 [outputs, inputs].
        own: the moments H, [inputs, inputs].
        labels: int [inputs], the group of each.
        groups: int [n], ascending: those that may go.
    """

    def __init__(self, rows: Array, own: Array, labels: Array, groups: Array) -> None:
        self._inner = rows.T.astype(np.float64) @ rows  # W^T W: all that the costs need of W
        wide = own.astype(np.float64)
        energy = np.einsum("ij,ij->", self._inner, wide)
        self._share = 1 / energy if energy > _TINY else 0.0
        self._inverse = np.linalg.inv(wide + COSTED * max(np.trace(wide) / len(wide), _TINY) * np.eye(len(wide)))
        places = [np.flatnonzero(labels == group) for group in groups]
        sizes = np.array([len(own) for own in places])
        self._count, self._places = len(groups), places
        self._alike = [
            (alike, np.stack([places[n] for n in alike]))
            for alike in (np.flatnonzero(sizes == size) for size in np.unique(sizes[sizes > 0]))
        ]

    def costs(self) -> Array:
        """What the removal of each group loses now, over the energy of the outputs: [n]."""
        found = np.zeros(self._count)
        for alike, places in self._alike:
            rows, columns = places[:, :, None], places[:, None, :]
            inverse, inner = self._inverse[rows, columns], self._inner[rows, columns]
            if places.shape[1] == 1:
                found[alike] = inner[:, 0, 0] / np.maximum(inverse[:, 0, 0], _TINY)
            else:
                found[alike] = np.einsum("gij,gji->g", np.linalg.inv(inverse), inner)
        return np.maximum(found, 0) * self._share

    def remove(self, number: int) -> None:
        """Take a group out; the others make it good."""
        places = self._places[number]
        if not len(places):
            return
        rows = self._inverse[places]
        gain = rows.T @ np.linalg.inv(self._inverse[np.ix_(places, places)])
        self._inverse -= gain @ rows
        moved = gain @ (self._inner[places] - 0.5 * self._inner[np.ix_(places, places)] @ gain.T)
        self._inner -= moved + moved.T
        for matrix in (self._inverse, self._inner):  # what is left there is rounding
            matrix[places] = 0
            matrix[:, places] = 0
        self._inverse[places, places] = 1


def removal_order(readers: Sequence[Reader], count: int, groups: int) -> tuple[Array, Array]:
    """The groups in the order in which they go, the cheapest for all readers together first.

    Args:
        readers: of the same groups.
        count: how many go.
        groups: how many there are.

    Returns:
        Their numbers [count], and what each removal costs [count].
    """
    order, costs = np.zeros(count, np.int64), np.zeros(count)
    left = np.ones(groups, bool)
    for step in range(count):
        total = np.where(left, np.sum([reader.costs() for reader in readers], axis=0), np.inf)
        order[step] = least = int(np.argmin(total))
        costs[step], left[least] = total[least], False
        for reader in readers:
            reader.remove(least)
    return order, costs


def refitted(rows: Array, halves: Halves, gone: Array) -> Array:
    """The rows without some inputs, by least squares on the others; damped as far as half of the samples tells.

    Args:
        rows: W, float32 [groups, outputs, inputs].
        halves: the moments of each half of the samples.
        gone: bool [groups, inputs].

    Returns:
        V, float32, 0 where inputs are gone: of the refits and W without those inputs what loses least, by group.
    """
    whole = Moments((halves[0].own + halves[1].own) / 2, (halves[0].cross + halves[1].cross) / 2)
    plain = np.where(gone[:, None], 0, rows)
    some = slice(None, None, -(-rows.shape[1] // _JUDGED))
    judged, left = rows[:, some], []
    for damping in DAMPINGS:
        once, twice = (_solved(judged, half, gone, np.full(len(rows), damping)) for half in halves)
        left.append(_losses(judged, once, halves[1]) + _losses(judged, twice, halves[0]))
    best = np.argmin(left, axis=0)
    found = _solved(rows, whole, gone, np.array(DAMPINGS)[best])
    better = np.min(left, axis=0) < sum(_losses(judged, plain[:, some], half) for half in halves)
    better &= _losses(rows, found, whole) < _losses(rows, plain, whole)
    return np.where(better[:, None, None], found, plain)


def _solved(rows: Array, moments: Moments, gone: Array, damping: Array) -> Array:
    """The least squares on the inputs that stay, pulled towards W by a share [groups] of their mean energy."""
    stay = ~gone
    energy = np.einsum("gii->g", moments.own.astype(np.float64)) / gone.shape[1]
    added = (damping * np.maximum(energy, _TINY))[:, None]
    own = np.where(stay[:, :, None] & stay[:, None], moments.own, 0).astype(np.float64)
    np.einsum("gii->gi", own)[:] += np.where(stay, added, 1)
    target = (rows.astype(np.float64) @ moments.cross + added[:, None] * rows) * stay[:, None]
    return np.linalg.solve(own, target.transpose(0, 2, 1)).transpose(0, 2, 1).astype(np.float32)


def _losses(rows: Array, changed: Array, moments: Moments) -> Array:
    """E|Wx - Vz|^2 of each group without the part that no V changes."""
    pull = (changed @ moments.own - 2 * (rows @ moments.cross)) * changed
    return pull.sum(axis=(1, 2), dtype=np.float64)
