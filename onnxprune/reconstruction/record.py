"""Second moments of what a layer reads in two networks at once: as it was, and as it has become."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.calibration.layers import Layer
from onnxprune.calibration.moments import BEYOND
from onnxprune.core.dtypes import Array
from onnxprune.pruning.least_squares import Moments

# Vectors of a layer that are recorded: so many within `_WORK`, or that many times its inputs.
_MOST, _TIMES = 1 << 15, 4
_WORK = 3e10  # vectors times the square of the inputs


class Record:
    """Sums over the vectors of a layer, or of several that read the same.

    Of each half of the samples, or of the vectors of a single run.
    """

    def __init__(self, layer: Layer, pieces: int) -> None:
        shape = (2, layer.groups, layer.inputs)
        self._layer, self._single = layer, pieces == 1
        self._own = np.zeros((*shape, layer.inputs), np.float32)
        self._cross = np.zeros_like(self._own)
        self._means = np.zeros((2, *shape), np.float64)  # of the network as it was, as it is
        self._count = np.zeros(2)
        most = max(min(_MOST, int(_WORK / layer.inputs**2)), _TIMES * layer.inputs)
        self._most = -(-most // (pieces * len(layer.uses)))

    @BEYOND
    def add(self, was: Mapping[str, Array], now: Mapping[str, Array], piece: int) -> None:
        """Record the vectors of a run of both networks on the same samples."""
        for use in self._layer.uses:
            x = self._layer.vectors(was, use, self._most, piece)
            z = x if now is was else self._layer.vectors(now, use, self._most, piece)
            if x.shape != z.shape:  # the network as it has become gives other sizes: nothing to compare with
                x = z
            halves = [slice(0, None, 2), slice(1, None, 2)] if self._single else [slice(None)]
            for number, part in enumerate(halves):
                half = number if self._single else piece % 2
                before, after = x[:, part], z[:, part]
                turned = after if after.shape[1] == 0 else np.ascontiguousarray(after)
                own = turned.transpose(0, 2, 1) @ turned
                self._own[half] += own
                self._cross[half] += own if z is x else before.transpose(0, 2, 1) @ turned
                self._means[0, half] += before.sum(1, dtype=np.float64)
                self._means[1, half] += after.sum(1, dtype=np.float64)
                self._count[half] += before.shape[1]

    @BEYOND
    def moments(self, centred: bool) -> tuple[Moments, Moments] | None:
        """Those of each half, around the means where `centred`; None where inputs are all 0, or beyond float32."""
        found = []
        for half in range(2):
            count = max(self._count[half], 1)
            own, cross = self._own[half] / np.float32(count), self._cross[half] / np.float32(count)
            if centred:
                was, now = self._means[:, half].astype(np.float32) / np.float32(count)
                own, cross = own - now[:, :, None] * now[:, None], cross - was[:, :, None] * now[:, None]
            if not (np.isfinite(own).all() and np.isfinite(cross).all() and own.any()):
                return None
            found.append(Moments(own, cross))
        return found[0], found[1]

    def shift(self, before: Array, after: Array) -> Array:
        """What the bias has to make good for the mean output to stay: float64 [groups, outputs].

        Args:
            before: the weight's rows.
            after: those that come in their place.
        """
        was, now = self._means.sum(1) / self._count.sum()
        return np.einsum("goi,gi->go", before, was) - np.einsum("goi,gi->go", after, now)
