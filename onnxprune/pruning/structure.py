"""Masks with a structure: N of M inputs, blocks, a share of each output channel; found for some outputs at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from onnxprune.core import threads
from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.model.weight import Weight
from onnxprune.pruning import patterns, selection
from onnxprune.pruning.scores import magnitudes
from onnxprune.pruning.thresholds import OutputSlice, by_outputs


@dataclass(frozen=True)
class Structure:
    """What a mask has to look like; with neither field a share of each output channel goes.

    Attributes:
        keep: (N, M): N of every M neighbours stay along the first input axis.
        block: (outputs, inputs) of the blocks that go as a whole.
    """

    keep: tuple[int, int] | None = None
    block: tuple[int, int] | None = None

    def mask(self, weight: Weight, chunked: ChunkedArray, share: float) -> Array:
        """True where an entry goes, in the weight's shape.

        Args:
            weight: its axes and type.
            chunked: its values, or scores.
            share: of the entries that goes, where `keep` does not say.
        """
        assert weight.out_axis is not None
        inner, block = weight.in_axes[0], self.block
        order = (*(a for a in range(chunked.ndim) if a not in (weight.out_axis, inner)), weight.out_axis, inner)
        if self.keep is None and block is None:
            order = (weight.out_axis, *(a for a in range(chunked.ndim) if a != weight.out_axis))
        back = np.argsort(order)
        parts = by_outputs(weight, chunked, 1 if block is None else block[0])
        mask = np.empty(chunked.shape, bool)

        def scores(part: OutputSlice) -> Array:
            return np.ascontiguousarray(magnitudes(weight, part.read()).transpose(order))

        def pruned(part: OutputSlice) -> None:
            own = scores(part)
            if self.keep is not None:
                found = patterns.keep_n_of_m(own, *self.keep)
            else:
                rows = own.reshape(own.shape[0], -1)
                found = patterns.smallest_per_row(rows, round(share * rows.shape[1])).reshape(own.shape)
            mask[part.where] = found.transpose(back)

        if block is None:
            deque(threads.run(pruned, parts), 0)
            return mask
        blocks = np.concatenate(
            list(threads.run(lambda part: patterns.block_scores(scores(part), block), parts)), axis=-2
        )
        cut = selection.smallest([lambda: [np.ascontiguousarray(blocks)]], round(share * blocks.size), blocks.size)
        return patterns.spread_blocks(cut.mask(blocks), block, tuple(mask.shape[a] for a in order)).transpose(back)
