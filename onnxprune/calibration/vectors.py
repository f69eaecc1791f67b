"""The vectors that a layer multiplies its weight with, taken from its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from onnxprune.core.dtypes import Array
from onnxprune.model.operators import attribute


def vectors(x: Array, node: NodeProto, shape: Sequence[int], most: int, rng: np.random.Generator) -> Array:
    """What a layer multiplies its weight with, up to `most` vectors drawn: float32 [groups, vectors, inputs].

    Args:
        x: its input.
        node: the Conv, Gemm or MatMul.
        shape: of its weight.
        most: vectors, over all samples.
        rng: draws them.
    """
    if node.op_type == "Conv":
        rows = patches(x, node, shape, most, rng)
    else:
        rows = x.reshape(1, -1, x.shape[-1])
        if rows.shape[1] > most:
            rows = rows[:, rng.choice(rows.shape[1], most, replace=False)]
    return rows.astype(np.float32, copy=False)


def patches(x: Array, node: NodeProto, shape: Sequence[int], most: int, rng: np.random.Generator) -> Array:
    """What a convolution multiplies its weight with at up to `most` places drawn: [groups, places, in * kernel].

    Args:
        x: its input [N, channels, ...].
        node: the Conv.
        shape: of its weight.
        most: places, over all samples.
        rng: draws them.
    """
    kernel, rank = shape[2:], len(shape) - 2
    strides = attribute(node, "strides", None) or [1] * rank
    dilations = attribute(node, "dilations", None) or [1] * rank
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], strides, reach)
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    out = [(size - r) // s + 1 for size, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    places = len(x) * math.prod(out)
    drawn = np.arange(places) if places <= most else np.sort(rng.choice(places, most, replace=False))
    sample, *at = np.unravel_index(drawn, (len(x), *out))
    index: list[Array] = []
    for axis in range(rank):
        offsets = (dilations[axis] * np.arange(kernel[axis])).reshape([-1 if a == axis else 1 for a in range(rank)])
        index.append((at[axis] * strides[axis]).reshape(-1, *[1] * rank) + offsets)
    taken = x.transpose(0, *range(2, rank + 2), 1)[
        (sample.reshape(-1, *[1] * rank), *index)
    ]  # [places, kernel, channels]
    groups = int(attribute(node, "group", 1))
    taken = np.moveaxis(taken, -1, 1).reshape(len(drawn), groups, -1)
    return np.ascontiguousarray(taken.transpose(1, 0, 2))


def _pads(node: NodeProto, size: Sequence[int], strides: Sequence[int], reach: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis."""
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    rank = len(size)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, strides, reach, strict=True)]
        halves = [(t // 2, t - t // 2) for t in totals]
        return halves if auto == "SAME_UPPER" else [(b, a) for a, b in halves]
    given = attribute(node, "pads", None)
    if auto == "VALID" or not given:
        return [(0, 0)] * rank
    return list(zip(given[:rank], given[rank:], strict=True))


def states(steps: Array, start: Array | None, lengths: Array | None, direction: str) -> tuple[Array, Array]:
    """The state that each step of a recurrent layer reads, and which of them count.

    Args:
        steps: the states that they give, [steps, directions, batch, hidden].
        start: the first one read, [directions, batch, hidden]; None or of another shape: 0.
        lengths: [batch], how many steps each sequence has; None: all of them.
        direction: the layer's attribute.

    Returns:
        [directions, steps * batch, hidden] and True [steps * batch] where a sequence has such a step.
    """
    first = start if start is not None and start.shape == steps.shape[1:] else np.zeros_like(steps[0])
    count, ways, batch, hidden = steps.shape
    valid = within(lengths, count, batch)
    last = valid.sum(0) - 1  # [batch]: where a way back begins
    found = []
    for way in range(ways):
        own, begin = steps[:, way], first[way]
        if direction == "reverse" or way == 1:
            read = np.concatenate([own[1:], begin[None]])
            read[last, np.arange(batch)] = begin
        else:
            read = np.concatenate([begin[None], own[:-1]])
        found.append(read.reshape(-1, hidden))
    return np.stack(found), valid.reshape(-1)


def within(lengths: Array | None, count: int, batch: int) -> Array:
    """True [steps, batch] where a sequence has such a step."""
    if lengths is None:
        return np.ones((count, batch), bool)
    return np.arange(count)[:, None] < lengths.reshape(1, -1)
