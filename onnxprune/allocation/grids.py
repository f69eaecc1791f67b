"""Whole grids of int8: what a weight loses on 127 steps on either side of 0 up to the largest values that share one."""

from __future__ import annotations

import numpy as np

from onnxprune.allocation.rate_distortion import RatePoint
from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.encodings.candidates import INT8, Candidates
from onnxprune.encodings.smallest import GRID_NODES
from onnxprune.encodings.values.blocks import block_peaks
from onnxprune.encodings.values.integers import Int8
from onnxprune.quantization.channel_scales import peaks

_BLOCKS = (64, 128, 256)  # inputs that share a scale where a kernel reads the grid: the longer, the faster


def whole_grid(wide: ChunkedArray, scale: Array, axes: tuple[int, ...], watched: bool = True) -> RatePoint:
    """A weight with a grid for each channel.

    Args:
        wide: the weight.
        scale: the root mean square of each channel.
        axes: those of the inputs.
        watched: whether a channel may lose twice the mean at the most.
    """
    loss = _loss(np.square(peaks(wide, axes), dtype=np.float64), scale, watched)
    return RatePoint(wide.size + 2 * scale.size + GRID_NODES, loss, values=INT8)


def block_grids(candidates: Candidates, wide: ChunkedArray, scale: Array) -> list[RatePoint]:
    """A weight with a grid for each block of inputs of a channel, in each length that a kernel reads and that fits.

    Args:
        candidates: of the weight.
        wide: the weight.
        scale: the root mean square of each output channel.
    """
    found: list[RatePoint] = []
    tops: Array | None = None
    for block in _BLOCKS:
        form = Int8(block=block)
        readers = candidates.readers(form)
        if readers is None or wide.shape[int(readers.transposed)] % block:
            break  # nor does it fit in longer ones
        tops = block_peaks(wide, readers.transposed, block) if tops is None else np.maximum(tops[::2], tops[1::2])
        loss = _loss(np.square(tops, dtype=np.float64).mean(axis=0), scale)
        found.append(RatePoint(wide.size + 2 * tops.size + GRID_NODES, loss, values=form))
    return found


def _loss(squares: Array, scale: Array, watched: bool = True) -> float:
    """The loss of a weight.

    Args:
        squares: [channels], of the largest value that shares a grid, in the mean over the channel.
        scale: the root mean square of each channel.
        watched: see `whole_grid`.
    """
    lost = squares / np.square(127 * scale.reshape(-1).astype(np.float64)) / 12
    return max(float(lost.mean()), float(lost.max()) / 2) if watched else float(lost.mean())
