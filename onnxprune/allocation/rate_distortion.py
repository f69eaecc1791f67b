"""Rate against distortion: what each weight costs at each loss, and the cheapest choice within a budget.

A weight's loss is its squared error over its energy, channel by channel: the noise that it adds to its
layer's output, relative to that output, where the inputs are white. Noise of several layers adds up, so
the budget is on the sum. At the optimum a byte saves the same loss everywhere (Shoham and Gersho 1988):
large weights carry nearly all of the loss, small ones are kept nearly exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.encodings.positions.digits import layout_for, layouts_from
from onnxprune.encodings.smallest import NODES
from onnxprune.model.model import Model
from onnxprune.quantization.codebook import Codebook, Spread, fit_codebook, measured
from onnxprune.quantization.histogram import Histogram

LOST = "onnxprune.loss"  # the metadata that says what the weights of an encoded model have lost
Snap = Callable[[Array], Array]

LOSS, LOSS_ON_DATA = 0.02, 0.04  # what held the accuracy of the models that tools/accuracy.py scores
LEVELS = (4, 6, 9, 13, 16, 21, 30, 40, 56, 73, 138, 256)
KEPT_SHARES = np.array(
    [0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01]
)  # shares of entries


@dataclass(frozen=True)
class RatePoint:
    """One way to store a weight: bytes in the file, loss, and the quantiser; no quantiser keeps it as it is."""

    nbytes: float
    loss: float
    codebook: Codebook | None = None
    scale: Array | None = None


def curve(
    array: Array | ChunkedArray,
    scale: Array,
    exact: int,
    prune: bool,
    snap: Snap | None = None,
    importance: Array | None = None,
) -> list[RatePoint]:
    """The points of a weight worth choosing from, from exact to coarse.

    Args:
        array: float32 or float64 values.
        scale: per channel, or one for all; broadcastable.
        exact: bytes when kept exactly.
        prune: whether values may become 0.
        snap: what the form makes of the levels.
        importance: weighs the squared error of each entry; broadcastable.
    """
    histogram = Histogram.of(array, scale, importance)
    points = [RatePoint(exact, 0.0)]
    around = NODES + (scale.nbytes if scale.size > 1 else 0)
    thresholds = [0.0, *histogram.thresholds(KEPT_SHARES)] if prune else [0.0]
    if histogram.energy:
        by_threshold = [_codebooks(histogram, threshold, prune, snap) for threshold in thresholds]
        points += [
            RatePoint(_stored(codebook, array.size) + around, codebook.error / histogram.energy, codebook, scale)
            for by_levels in zip(*by_threshold, strict=True)
            for codebook in by_levels
        ]
    return hull(points)


def _codebooks(histogram: Histogram, threshold: float, prune: bool, snap: Snap | None) -> list[Codebook]:
    """The codebooks of each number of levels."""
    spread, found = Spread(histogram, threshold), []
    for levels in LEVELS:
        codebook = fit_codebook(histogram, levels, prune, threshold, spread)
        found.append(codebook if snap is None else measured(histogram, snap(codebook.levels), prune, threshold))
    return found


def _stored(codebook: Codebook, size: int) -> float:
    """Bytes of the smallest form, gaps estimated as if the kept entries were spread evenly."""
    levels, kept = len(codebook.levels), float(size - codebook.shares[0])
    dense = layout_for(levels, size).nbytes(size)
    if kept >= size:
        return dense
    mask = size / 8 + layout_for(levels, max(1, int(kept))).nbytes(int(kept))
    best = min(dense, mask)
    absent = 1 - kept / size
    if kept and absent > 0.5:
        for layout in layouts_from(2 * levels):  # a code and a gap of at least 1
            share = absent ** min(layout.radix // levels - 1, 1 << 16)
            best = min(best, layout.nbytes(int(kept / max(1 - share, 1e-9))))
    return best


def hull(points: Sequence[RatePoint]) -> list[RatePoint]:
    """The lower convex hull, from most bytes to fewest."""
    found: list[RatePoint] = []
    for point in sorted(points, key=lambda p: (p.loss, p.nbytes)):
        if found and point.nbytes >= found[-1].nbytes:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-2], point):
            found.pop()
        found.append(point)
    return found


def _slope(a: RatePoint, b: RatePoint) -> float:
    """Bytes saved per loss."""
    return (a.nbytes - b.nbytes) / max(b.loss - a.loss, 1e-300)


def allocate(
    curves: Sequence[Sequence[RatePoint]],
    budget: float,
    weights: Sequence[float] | None = None,
    ways: Sequence[Sequence[int]] | None = None,
) -> list[RatePoint]:
    """One point per curve with the fewest bytes such that the (weighted) losses sum to the budget at most.

    Steps along the hulls, the best bargain first, which is optimal but for the last step.

    Args:
        curves: hulls.
        budget: the sum of the losses.
        weights: what the loss of each curve counts.
        ways: the numbers of curves whose losses add up, where not all do: each way keeps within the budget.
    """
    importance = weights or [1.0] * len(curves)
    chosen = [len(line) for line in curves]
    for way in ways if ways is not None else [range(len(curves))]:
        steps = _within([curves[i] for i in way], budget, [importance[i] for i in way])
        for i, k in zip(way, steps, strict=True):
            chosen[i] = min(chosen[i], k)
    return [line[k] for line, k in zip(curves, chosen, strict=True)]


def _within(curves: Sequence[Sequence[RatePoint]], budget: float, importance: Sequence[float]) -> list[int]:
    """`allocate` for losses that all add up: the number of each curve's point."""
    chosen = [0] * len(curves)
    steps = [
        (_slope(before, after) / max(importance[i], 1e-300), i, k + 1)
        for i, line in enumerate(curves)
        for k, (before, after) in enumerate(pairwise(line))
    ]
    spent = sum(w * line[0].loss for w, line in zip(importance, curves, strict=True))
    blocked: set[int] = set()
    for _, i, k in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        if i in blocked:
            continue
        more = importance[i] * (curves[i][k].loss - curves[i][k - 1].loss)
        if spent + more > budget:
            blocked.add(i)
            continue
        spent += more
        chosen[i] = k
    return chosen


def recover(model: Model) -> None:
    """Take the loss that an encoded model says it has out of its metadata, into `Model.spent`."""
    for entry in [e for e in model.proto.metadata_props if e.key == LOST]:
        with contextlib.suppress(ValueError):  # anybody may write there
            loss = float(entry.value)
            model.spent = loss if np.isfinite(loss) and loss > 0 else 0.0
        model.proto.metadata_props.remove(entry)


def spend(model: Model, loss: float) -> None:
    """Let the metadata say what the weights have lost, and what they had lost before."""
    entry = next((e for e in model.proto.metadata_props if e.key == LOST), None)
    if entry is None:
        entry = model.proto.metadata_props.add(key=LOST)
    entry.value = f"{max(loss, model.spent):g}"
