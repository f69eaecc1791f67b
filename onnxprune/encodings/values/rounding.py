"""Codes of a weight: nearest level, then errors balanced or fed back."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import numpy as np

from onnxprune.core import threads
from onnxprune.core.chunked import EVERY, ChunkedArray, RowRange, part_of, ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.filled import FilledArray
from onnxprune.encodings.values.base import Coded
from onnxprune.encodings.values.scales import centred, halves, inner_axes, tidy_scale
from onnxprune.model.weight import Weight
from onnxprune.pruning.least_squares import STEPS, Problem
from onnxprune.quantization.channel_scales import heaviest, loss
from onnxprune.quantization.codebook import Codebook
from onnxprune.quantization.error_feedback import Feedback, output_loss
from onnxprune.quantization.histogram import root_mean_square
from onnxprune.quantization.rounding import balance, encode, encode_whole

_FITTED, _LEAST_FITTED = 32, 8  # one channel in so many has its scale fitted, but so many at the least
_KERNEL = 4  # entries of a convolution kernel from which its errors are added up by themselves


def with_codebook(
    weight: Weight, wide: ChunkedArray, scale: Array, codebook: Codebook, prune: bool,
    feedback: Feedback | None = None, transposed: bool | None = None, *, against: ChunkedArray | None = None,
) -> Coded:  # fmt: skip
    """A weight as codes into a float codebook; a scale for the whole weight goes into the codebook.

    Args:
        weight: its axes.
        wide: its values.
        scale: what the levels are multiplied by; broadcastable.
        codebook: fitted to the values over the scale.
        prune: whether entries other than 0 may get code 0.
        feedback: how rounding errors are passed on.
        transposed: whether the MatMul whose channels the scale is of reads the transpose; None: those of the weight.
        against: what the weight was, from which its loss is counted; None: no plan is held against that.
    """
    scale = fitted_scale(weight, wide, scale, codebook, prune, transposed)
    unit = float(scale.reshape(-1)[0]) if scale.size == 1 else 1.0
    values = codebook.levels * unit
    kind: type = np.float16 if halves(values, wide.size) else np.float32
    values = values.astype(kind)
    stored = replace(codebook, levels=values.astype(np.float64) / unit)
    codes = _rounded(weight, wide, scale, codebook.levels, stored, prune, feedback)
    factor = None if scale.size == 1 else scale
    lost = 0.0 if against is None else loss_of(weight, against, decoded(codes, values, factor), transposed, feedback)
    return Coded(codes, np.zeros((), kind), values, factor, lost=lost)


def on_grid(
    weight: Weight, wide: ChunkedArray, scale: Array, codebook: Codebook, prune: bool, transposed: bool | None,
    feedback: Feedback | None = None, *, against: ChunkedArray | None = None,
) -> Coded:  # fmt: skip
    """A weight as codes into a codebook of int8 values; the grid of 255 steps ends at the largest level.

    Args:
        weight: its axes.
        wide: its values.
        scale: what the levels are multiplied by; broadcastable.
        codebook: fitted to the values over the scale.
        prune: whether entries other than 0 may get code 0.
        transposed: see `oriented`.
        feedback: how rounding errors are passed on.
        against: see `with_codebook`.
    """
    levels, top = gridded(codebook.levels, prune)
    moved = _moved(codebook, levels)
    scale = fitted_scale(weight, wide, scale, moved, prune, transposed)
    codes = _rounded(weight, wide, scale, levels, moved, prune, feedback)
    values = np.rint(levels * (127 / top)).astype(np.int8)
    stored = tidy_scale(scale.astype(np.float64) * (top / 127))
    lost = 0.0 if against is None else loss_of(weight, against, decoded(codes, values, stored), transposed, feedback)
    return replace(oriented(codes, values, stored, transposed), lost=lost)


def fitted_scale(
    weight: Weight, wide: ChunkedArray, scale: Array, codebook: Codebook, prune: bool, transposed: bool | None = None
) -> Array:
    """The scale with that of the channels which the codebook would clip grown to the least squared error of each.

    Args:
        weight: its axes.
        wide: its values.
        scale: the root mean square of each channel; one for all stays as it is.
        codebook: what the values are rounded to.
        prune: whether entries other than 0 may get code 0.
        transposed: see `Values.code`.
    """
    if scale.size == 1:
        return scale
    grown, count = scale.astype(np.float32).reshape(-1), max(_LEAST_FITTED, scale.size // _FITTED)
    for channels in heaviest(wide, scale, inner_axes(weight, transposed), count):
        grown[channels.index] *= channels.fitted(codebook, prune)[0].astype(np.float32)
    return tidy_scale(grown.reshape(scale.shape))


def recoded(
    weight: Weight, array: Array | ChunkedArray, codebook: Codebook, prune: bool, feedback: Feedback | None = None,
    *, planned: bool = False,
) -> Coded:  # fmt: skip
    """An integer weight as codes into a codebook of its own type.

    The levels keep to the range of the type: a histogram counts in float16, whose neighbours of 32767 are 16 apart.

    Args:
        weight: its axes and zero point.
        array: its values.
        codebook: fitted to the values minus the zero point.
        prune: whether entries other than the zero point may get code 0.
        feedback: how rounding errors are passed on.
        planned: whether a plan is held against what the weight loses, which is measured then.
    """
    wide = centred(weight, array)
    one = np.ones((1,) * wide.ndim, np.float32)
    room, zero = np.iinfo(ChunkedArray.of(array).dtype), int(weight.zero_value)
    levels = whole(codebook.levels.clip(room.min - zero, room.max - zero), prune)
    moved = _moved(codebook, levels)
    codes = _rounded(weight, wide, one, levels, moved, prune, feedback)
    lost = loss(wide, decoded(codes, levels), tuple(range(wide.ndim))) if planned else 0.0
    values = (levels + zero).astype(room.dtype)
    return Coded(codes, weight.zero_value, values, lost=lost)


def loss_of(
    weight: Weight, wide: ChunkedArray, decoded: ChunkedArray, transposed: bool | None = None,
    feedback: Feedback | None = None,
) -> float:  # fmt: skip
    """What a weight has lost, see `channel_scales.loss`; all of it is one channel where the axes are not known.

    A row of a table is no channel, which every input goes through: rows count by their mean. Where the inputs are
    known, a channel loses what its output does, see `output_loss`.

    Args:
        weight: its axes.
        wide: its values.
        decoded: what they became.
        transposed: see `Values.code`.
        feedback: of its inputs.
    """
    if feedback is not None and feedback.moments is not None:
        rows, inputs = outputs_first(weight, wide), feedback.order.shape[1]
        each = output_loss(
            feedback.moments, rows.reshape(-1, inputs), outputs_first(weight, decoded).reshape(-1, inputs)
        )
        return max(float(each.mean()), float(each.max(initial=0.0)) / 2)
    axes = inner_axes(weight, transposed)
    return loss(wide, decoded, axes or tuple(range(wide.ndim)), weight.linear or not axes)


def outputs_first(weight: Weight, array: Array | ChunkedArray) -> Array:
    """An array of the weight's axes, those of the outputs first."""
    chunked = ChunkedArray.of(array)
    return chunked.whole().transpose(_order(weight, chunked.ndim))


def _order(weight: Weight, rank: int) -> tuple[int, ...]:
    """The axes of the outputs, then those of the inputs."""
    inner = inner_axes(weight)
    return tuple(a for a in range(rank) if a not in inner) + inner


def pruned(weight: Weight, wide: ChunkedArray, feedback: Feedback, kept: float) -> ChunkedArray:
    """The values with a share of the entries, chosen and refitted such that the outputs keep what they can.

    Args:
        weight: its axes.
        wide: its values.
        feedback: of its inputs.
        kept: the share.
    """
    values, groups = outputs_first(weight, wide), len(feedback.order)
    rows = values.reshape(groups, -1, feedback.order.shape[1]).astype(np.float32)
    assert feedback.moments is not None  # measured, or nothing would say what the outputs keep
    scale = root_mean_square(rows, (2,)).astype(np.float32)
    found = Problem.of(rows / scale, feedback.moments, feedback.damping).kept([kept], STEPS)[0] * scale
    back = np.argsort(_order(weight, wide.ndim))
    return ChunkedArray.of(np.ascontiguousarray(found.reshape(values.shape).transpose(back)))


def decoded(codes: Array | ChunkedArray, values: Array | None, scale: Array | None = None) -> ChunkedArray:
    """What the codes stand for, whenever it is read; without values they are themselves."""
    table = None if values is None else values.astype(np.float32)

    def decode(rows: RowRange, columns: slice, part: Array) -> Array:
        found = part.astype(np.float32) if table is None else table.take(part)
        if scale is not None:
            own = part_of(scale, rows)
            found *= own if own.ndim < 2 or own.shape[1] == 1 else own[:, columns]
        return found

    return ChunkedArray.of(codes).map(np.float32, decode)


def whole(levels: Array, prune: bool) -> Array:
    """The levels as whole numbers; without `prune` none becomes 0."""
    grid = np.rint(levels[1:])
    if not prune:
        grid = np.where(grid == 0, np.where(levels[1:] < 0, -1, 1), grid)
    grid = np.unique(grid)
    return np.concatenate([[0.0], grid[grid != 0]])


def gridded(levels: Array, prune: bool) -> tuple[Array, float]:
    """The levels that are left on a grid of 255 steps up to the largest, and the largest.

    Without `prune` no level becomes 0.
    """
    top = max(float(np.abs(levels).max()), 1e-30)
    return whole(levels * (127 / top), prune) * (top / 127), top


def _moved(codebook: Codebook, levels: Array) -> Codebook:
    """The codebook with its levels moved to a grid; where some fell together, its boundaries are midway again."""
    return replace(
        codebook, levels=levels, boundaries=codebook.boundaries if len(levels) == len(codebook.levels) else None
    )


def rounded(weight: Weight, wide: ChunkedArray, scale: Array, levels: Array, feedback: Feedback | None) -> ChunkedArray:
    """The codes of a weight on a grid of whole numbers such that its outputs keep what they can.

    Args:
        weight: its axes.
        wide: its values.
        scale: what they are divided by.
        levels: 0, then the others on both sides of it, ascending.
        feedback: of its inputs.
    """
    return _rounded(weight, wide, scale, None, Codebook(levels, 0.0, np.zeros(0)), True, feedback)


def _rounded(
    weight: Weight, wide: ChunkedArray, scale: Array, nearest: Array | None, codebook: Codebook, prune: bool,
    feedback: Feedback | None,
) -> ChunkedArray:  # fmt: skip
    """The codes of a weight such that its outputs keep what they can: by error feedback where its inputs are known.

    Elsewhere the errors of each output add up to nearly nothing: in each kernel of a convolution, then over all
    inputs.

    Args:
        weight: its axes.
        wide: its values.
        scale: what they are divided by.
        nearest: the levels of which each entry gets the nearest at first; None: those of the codebook, whole numbers.
        codebook: what they are stored as, and the boundaries.
        prune: whether entries other than 0 may get code 0.
        feedback: of its inputs.
    """
    inner, order = inner_axes(weight), _order(weight, wide.ndim)
    outer, levels, boundaries = order[: wide.ndim - len(inner)], codebook.levels, codebook.boundaries
    apart = bool(inner and outer and wide.size)
    if feedback is not None and apart:
        values, divisor = wide.whole().transpose(order), scale.astype(wide.dtype).transpose(order)
        rows = (values / divisor).reshape(-1, feedback.whole)
        found = feedback.round(rows, levels, prune, boundaries).reshape(values.shape)
        return ChunkedArray.of(np.ascontiguousarray(found.transpose(np.argsort(order))))
    codes = FilledArray(wide.shape, np.uint8 if len(levels) <= 256 else np.uint16)
    kernel = math.prod(wide.shape[a] for a in inner[1:])
    widths = ([kernel] if kernel >= _KERNEL else []) + [math.prod(wide.shape[a] for a in inner)]
    if not weight.linear:  # nothing adds up along the rows of a table
        widths = []

    def coded_as(part: Array, own: Array) -> Array:
        """The codes of some outputs."""
        coded = encode_whole(part, own, levels) if nearest is None else encode(part, own, nearest, prune, boundaries)
        if not apart:
            return coded
        values, divisor, moved = (a.transpose(order) for a in (part, own.astype(wide.dtype), coded))
        for start, stop in ranges(0, len(values), ChunkedArray.unit_of(values[0].size)):
            here = np.ascontiguousarray(values[start:stop] / part_of(divisor, (start, stop)))
            target = np.ascontiguousarray(moved[start:stop])
            for width in widths:
                rows = target.reshape(-1, width)
                balance(here.reshape(-1, width), rows, levels, prune, boundaries)
                target = rows.reshape(here.shape)
            moved[start:stop] = target
        return coded

    def by_rows(rows: RowRange, part: Array) -> None:
        codes.put(rows, EVERY, coded_as(part, part_of(scale, rows)))

    def by_columns(columns: RowRange) -> None:
        own = scale[:, slice(*columns)] if scale.shape[1] > 1 else scale
        codes.put((0, wide.shape[0]), slice(*columns), coded_as(wide.block(*columns), own))

    if not apart or outer[0] == 0:
        deque(wide.each(by_rows), 0)
    elif wide.ndim == 2:
        deque(threads.run(by_columns, wide.columns), 0)
    else:
        by_rows((0, wide.shape[0]), wide.whole())
    return codes.chunked()


def oriented(codes: ChunkedArray, codebook: Array | None, scale: Array, transposed: bool | None) -> Coded:
    """Codes as their readers want them: folded in place, or as MatMul's [in, out] with one scale per output.

    Args:
        codes: int8, in the shape of the weight.
        codebook: the value of each code; None where codes are the values.
        scale: broadcastable over the weight.
        transposed: None to fold; else whether the MatMul that fuses it reads the transpose.
    """
    fill_value = np.zeros((), np.int8)
    if transposed is None:
        return Coded(codes, fill_value, codebook, scale)
    carrier = codes
    if transposed:

        def rows(start: int, stop: int) -> Array:
            return np.ascontiguousarray(codes.block(start, stop).T)

        carrier = ChunkedArray.rowwise(codes.shape[::-1], codes.dtype, rows)
    return Coded(carrier, fill_value, codebook, scale.reshape(-1), fused=True, transposed=transposed)
