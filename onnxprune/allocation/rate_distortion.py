"""Rate against distortion: what each weight costs at each loss, and the cheapest choice within a budget.

A weight's loss is its squared error over its energy, channel by channel: the noise that it adds to its
layer's output, relative to that output, where the inputs are white. Noise of several layers adds up, so
the budget is on the sum. At the optimum a byte saves the same loss everywhere (Shoham and Gersho 1988):
large weights carry nearly all of the loss, small ones are kept nearly exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.encodings.candidates import EXACT
from onnxprune.encodings.positions.digits import LAYOUTS
from onnxprune.encodings.positions.gathered import row_layout
from onnxprune.encodings.positions.planes import best
from onnxprune.encodings.smallest import NODES, SCALE_NODES, SKIP_NODES, WORD_NODES
from onnxprune.encodings.values.base import Values
from onnxprune.model.model import Model
from onnxprune.quantization.channel_scales import Channels
from onnxprune.quantization.codebook import Codebook, fit_codebooks, measured
from onnxprune.quantization.histogram import Histogram
from onnxprune.quantization.lloyd import joined
from onnxprune.quantization.uniform import uniform_codebooks

LOST = "onnxprune.loss"  # the metadata that says what the weights of an encoded model have lost
Snap = Callable[[Array], Array]

LOSS, LOSS_ON_DATA = 0.01, 0.08  # what held the accuracy of the models that tools/accuracy.py scores
WORTH = 0.05  # of the file
SCALES_COST = 0.004  # share of the dense bytes from which a weight is tried without scales too
# Numbers of levels, and the share of the entries other than 0 that has to be kept for them: nobody prunes most of a
# weight and stores the rest finely. On the hulls of eleven models no other pair stood more than once or twice.
GRID = ((4, 0.0), (6, 0.0), (9, 0.0), (13, 0.11), (16, 0.14), (21, 0.19), (40, 0.24), (73, 0.39), (256, 0.49))
KEPT_SHARES = np.array(
    [0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01]
)  # shares of entries
# Widths of the cells of uniform codebooks, over the root mean square of what is not 0.
STEPS = 1.6 * 2 ** (-np.arange(29) / 6)
_WORDS = np.array([(layout.digits, layout.dtype.itemsize, layout.radix) for layout in LAYOUTS], np.float64)
_DIGITS, _BYTES, _RADICES = _WORDS.T
_TAKEN_APART = WORD_NODES * (_DIGITS > 1)
_LEVEL = 2  # bytes of a level: float16
_FAR = 1 << 16  # the largest gap that counts


@dataclass(frozen=True)
class RatePoint:
    """One way to store a weight; without a codebook it is a value form.

    Attributes:
        nbytes: in the file.
        loss: squared error over energy: of the weight, or half that of its worst channel where that is more.
        codebook: levels of the weight over its scale.
        scale: per channel, or one for all.
        values: the form, where there is no codebook.
        folded: whether the codebook is decoded at load though a kernel could read integers of a grid.
        kept: the share of the entries that are left before the others are rounded, see `Choice`.
    """

    nbytes: float
    loss: float
    codebook: Codebook | None = None
    scale: Array | None = None
    values: Values = EXACT
    folded: bool = False
    kept: float = 0.0


def curve(
    exact: int, points: Sequence[RatePoint], worst: Channels | None = None, prune: bool = True
) -> list[RatePoint]:
    """The points of a weight worth choosing from, from exact to coarse.

    Args:
        exact: bytes when kept exactly.
        points: the others.
        worst: channels whose loss is watched: each may lose twice what the weight does.
        prune: whether the codebooks may make entries 0.
    """
    line = hull([RatePoint(exact, 0.0), *points])
    return line if worst is None else hull([watched(point, worst, prune) for point in line])


def watched(point: RatePoint, worst: Channels, prune: bool) -> RatePoint:
    """The point with half the loss of the worst channel where that is more; see `curve`."""
    if point.codebook is None or point.scale is None:
        return point
    unit = float(point.scale.reshape(-1)[0]) if point.scale.size == 1 else None
    return replace(point, loss=worst.loss(point.codebook, prune, unit, 2 * point.loss) / 2)


def points(
    histogram: Histogram,
    size: int,
    scale: Array,
    prune: bool,
    snap: Snap | None = None,
    grid: Sequence[tuple[int, float]] = GRID,
    folded: bool = False,
    row: int = 0,
    planes: bool = True,
) -> list[RatePoint]:
    """What codebooks of each number of levels and each threshold cost: those worth choosing from, see `hull`.

    Args:
        histogram: of the weight over its scale.
        size: of the weight.
        scale: per channel, or one for all; broadcastable.
        prune: whether values may become 0.
        snap: what the form makes of the levels.
        grid: how many levels are tried, and the share of the entries other than 0 that has to be kept for them.
        folded: see `RatePoint`.
        row: entries of a row where each is packed by itself, zeros and all; 0: as what takes the fewest bytes.
        planes: whether codes may be stored in planes, for which uniform codebooks are tried too.
    """
    if not histogram.energy:
        return []
    sparse = prune and not row
    thresholds = np.concatenate([[0.0], histogram.thresholds(KEPT_SHARES)]) if sparse else np.zeros(1)
    kept = histogram.kept(thresholds)
    wanted = [
        (count, threshold)
        for threshold, share in zip(thresholds.tolist(), kept.tolist(), strict=True)
        for count, least in grid
        if share >= least
    ]
    found = snapped(
        histogram, fit_codebooks(histogram, wanted, prune), [threshold for _, threshold in wanted], prune, snap
    )
    if sparse and planes and not folded:
        steps = np.sqrt(histogram.energy / histogram.mass) * STEPS
        uniform = uniform_codebooks(histogram, steps.tolist())
        found += snapped(histogram, uniform, [0.0] * len(uniform), prune, snap)
    shares = [codebook.shares for codebook in found]
    codes = np.array([len(each) for each in shares])
    packed = [size // row * row_layout(c, size // row, row).nbytes(row) for c in codes.tolist()] if row else None
    sizes = (np.array(packed) if packed else stored(shares, size, planes)) + around(scale, codes)
    return hull(
        [
            RatePoint(nbytes, codebook.error / histogram.energy, codebook, scale, folded=folded)
            for nbytes, codebook in zip(sizes.tolist(), found, strict=True)
        ]
    )


def snapped(
    histogram: Histogram, codebooks: Sequence[Codebook], thresholds: Sequence[float], prune: bool, snap: Snap | None
) -> list[Codebook]:
    """Codebooks with the levels that a form makes of theirs; the others are as in `fit_codebooks`."""
    if snap is None or not codebooks:
        return list(codebooks)
    levels = [snap(codebook.levels) for codebook in codebooks]
    # Levels that fall together are one: of 0.0 there is one in each codebook.
    parts = [np.unique(each) if prune else each[1:] for each in levels]
    return measured(histogram, *joined(parts, np.array(thresholds), prune))


def around(scale: Array, levels: Array) -> Array:
    """Bytes beside the codes: nodes, names, codebooks of so many levels, and the scale unless it goes into them."""
    return NODES + _LEVEL * levels + (scale.nbytes + SCALE_NODES if scale.size > 1 else 0)


def stored(shares: Sequence[Array], size: int, planes: bool) -> Array:
    """Bytes of the codes of each codebook in the smallest form, and of the nodes that this needs beside `NODES`.

    Gaps are estimated as if the kept entries were spread evenly.

    Args:
        shares: of each codebook how many entries get each code, code 0 first.
        size: of the weight.
        planes: whether codes may be stored in planes.

    Returns:
        float64 [codebooks].
    """
    codes = np.array([len(each) for each in shares])
    counts = np.zeros((len(shares), codes.max()))
    for own, each in zip(counts, shares, strict=True):
        own[: len(each)] = each
    levels, kept = codes[:, None].astype(np.float64), size - counts[:, :1]
    absent = 1 - kept / size
    room = np.clip(_RADICES // levels - 1, 1, _FAR)  # gaps that fit beside a code
    entries = np.floor(kept / np.maximum(1 - absent**room, 1e-9))
    gaps = np.where((absent > 0.5) & (kept > 0), _words(entries, 2 * levels), np.inf)
    dense, mask = _words(size, levels), size / 8 + _words(kept, levels)
    skipping = np.where(kept < size, np.minimum(mask, gaps) + SKIP_NODES, np.inf)
    fewest = np.minimum(dense, skipping).reshape(-1)
    if not planes:
        return fewest
    counts[:, 1:] = -np.sort(-counts[:, 1:], axis=1)
    return np.minimum(fewest, best(counts, codes)[0] + WORD_NODES)


def _words(count: Array | int, radix: Array) -> Array:
    """The fewest bytes of so many numbers below a radix and of the nodes that take words apart, [codebooks, 1].

    Counts may differ from layout to layout.
    """
    nbytes = np.ceil(count / _DIGITS) * _BYTES + _TAKEN_APART
    return np.where(radix <= _RADICES, nbytes, np.inf).min(axis=1, keepdims=True)


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
    file: float = 0.0,
) -> list[RatePoint]:
    """One point per curve with the fewest bytes such that the (weighted) losses sum to the budget at most.

    Steps along the hulls, the best bargain first, which is optimal but for the last step. No step is taken that gains
    too little for what it loses: at its rate the whole budget would have to save `WORTH` of the file.

    Args:
        curves: hulls.
        budget: the sum of the losses.
        weights: what the loss of each curve counts.
        ways: the numbers of curves whose losses add up, where not all do: each way keeps within the budget.
        file: bytes with every weight at the first point of its curve; 0: every step is worth its loss.
    """
    importance = weights or [1.0] * len(curves)
    chosen = [len(line) for line in curves]
    dense = sum(line[0].nbytes for line in curves)
    for way in ways if ways is not None else [range(len(curves))]:
        own = sum(curves[i][0].nbytes for i in way)  # a way is as a file by itself, with its share of the rest
        steps = _within([curves[i] for i in way], budget, [importance[i] for i in way], file * own / max(dense, 1))
        for i, k in zip(way, steps, strict=True):
            chosen[i] = min(chosen[i], k)
    return [line[k] for line, k in zip(curves, chosen, strict=True)]


def _within(
    curves: Sequence[Sequence[RatePoint]], budget: float, importance: Sequence[float], file: float
) -> list[int]:
    """`allocate` for losses that all add up: the number of each curve's point."""
    chosen = [0] * len(curves)
    steps = [
        (_slope(before, after) / max(importance[i], 1e-300), i, k + 1)
        for i, line in enumerate(curves)
        for k, (before, after) in enumerate(pairwise(line))
    ]
    spent = sum(w * line[0].loss for w, line in zip(importance, curves, strict=True))
    blocked: set[int] = set()
    for slope, i, k in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        if i in blocked:
            continue
        if slope * budget < WORTH * file:
            break
        more = importance[i] * (curves[i][k].loss - curves[i][k - 1].loss)
        if spent + more > budget:
            blocked.add(i)
            continue
        spent += more
        file -= curves[i][k - 1].nbytes - curves[i][k].nbytes
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
