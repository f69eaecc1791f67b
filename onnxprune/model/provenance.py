"""Coding: what a decoded weight was coded in, so that what is left of it is coded again without a loss. numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Coding:
    """The levels and the scales of a weight that holds nothing else unless it was changed since.

    Attributes:
        form: the name of the value form.
        codebook: the levels; None: the whole numbers of int8.
        scale: what they are multiplied by, or None; it broadcasts over the weight, or over `view` of it.
        view: the shape in which the scale applies where it is not the weight's own.
        block: neighbours along the input axis that share a scale, 0 for all of them; the scale is [blocks, out] then.
        transposed: whether that input axis is the weight's second.
    """

    form: str
    codebook: Array | None = None
    scale: Array | None = None
    view: tuple[int, ...] = ()
    block: int = 0
    transposed: bool = False

    def cut(self, axis: int, kept: Array) -> Coding:
        """That of the weight without some places of an axis.

        Args:
            axis: of the weight.
            kept: [size of the axis], False where they go.
        """
        if self.scale is None or self.scale.ndim <= axis or self.scale.shape[axis] == 1 or self.view or self.block:
            return self  # blocks do not fit any more, which is found out where they are tried
        return replace(self, scale=np.compress(kept, self.scale, axis=axis))

    def divisor(self, shape: tuple[int, ...]) -> Array | None:
        """What the weight of this shape, in its view, is divided by to give levels; None where it does not fit.

        Args:
            shape: of the weight, in its view.
        """
        if self.scale is None or len(shape) < self.scale.ndim:
            return None
        scale = self.scale
        if self.block:
            inputs = shape[1] if self.transposed else shape[0]
            if -(-inputs // self.block) != len(scale):
                return None
            scale = np.repeat(scale, self.block, axis=0)[:inputs]
            scale = scale.T if self.transposed else scale
        scale = scale.reshape((1,) * (len(shape) - scale.ndim) + scale.shape)
        fits = all(have in (1, want) for have, want in zip(scale.shape, shape, strict=True))
        return scale if fits and bool((np.isfinite(scale) & (scale > 0)).all()) else None
