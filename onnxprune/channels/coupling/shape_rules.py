"""Rules of operators that move entries, or that reduce along other axes than the channels'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import prod

import numpy as np

from onnxprune.channels.coupling.layer_rules import padded
from onnxprune.channels.coupling.removable_axes import (
    Concatenated,
    Filled,
    GatherIndices,
    Moved,
    Narrowed,
    RemovableAxis,
    SliceBounds,
    SplitSizes,
)
from onnxprune.channels.coupling.reshape_axes import blocks
from onnxprune.channels.coupling.rule_context import Rule, RuleContext, Unsupported, axes_of, numbers
from onnxprune.channels.shapes import Dim, SizeOf, Source


def transpose(ctx: RuleContext) -> None:
    """Transpose: axes in another order."""
    perm = list(ctx.attr("perm") or reversed(range(len(ctx.shape(0)))))
    for removable in ctx.take(0):
        ctx.permute(removable, [perm.index(a) for a in removable.axes])


def squeeze(ctx: RuleContext) -> None:
    """Squeeze: axes of size 1 go."""
    axes = axes_of(ctx, 1, len(ctx.shape(0)))
    _without(ctx, [a for a, d in enumerate(ctx.shape(0)) if d == 1] if axes is None else axes)


def unsqueeze(ctx: RuleContext) -> None:
    """Unsqueeze: axes of size 1 are inserted."""
    rank = len(ctx.out_shape())
    new = axes_of(ctx, 1, rank)
    if new is None:
        raise Unsupported
    old = [a for a in range(rank) if a not in new]
    for removable in ctx.take(0):
        ctx.propagate(removable, [old[a] for a in removable.axes])


def flatten(ctx: RuleContext) -> None:
    """Flatten to two axes: all before `axis`, and all from it on."""
    shape = ctx.shape(0)
    axis = ctx.attr("axis", 1)
    axis = axis if axis >= 0 else axis + len(shape)
    removables = ctx.take(0)
    for place, run in enumerate((list(range(axis)), list(range(axis, len(shape))))):
        _merge(ctx, removables, run, [place], [shape[a] for a in run], None)


def reshape(ctx: RuleContext) -> None:
    """Reshape: runs of axes with the same product hold the same entries."""
    before, after = ctx.shape(0), ctx.out_shape()
    removables = ctx.take(0)
    made: dict[int, RemovableAxis] = {}
    for old, new in blocks(before, after):
        target = _merge(ctx, removables, old, new, [before[a] for a in old], [after[a] for a in new])
        if target is not None:
            made |= dict.fromkeys(target.axes, target)
    for axis in range(len(after)):
        ctx.bind_size(1, axis, made.get(axis), axis, copies=not ctx.attr("allowzero", 0))


def _merge(
    ctx: RuleContext, removables: Sequence[RemovableAxis], old: list[int], new: list[int],
    before: Sequence[Dim], after: Sequence[Dim] | None,
) -> RemovableAxis | None:  # fmt: skip
    """`_regroup` of the only axis that lies in a run; several would be mixed, and one may reach beyond the run."""
    inside = [removable for removable in removables if set(removable.axes) & set(old)]
    if len(inside) == 1 and set(inside[0].axes) <= set(old):
        return _regroup(ctx, inside[0], old, new, before, after)
    ctx.release(*inside)
    return None


def _regroup(
    ctx: RuleContext, removable: RemovableAxis, old: list[int], new: list[int],
    before: Sequence[Dim], after: Sequence[Dim] | None,
) -> RemovableAxis | None:  # fmt: skip
    """Propagate an axis of a run of axes to the run that it becomes, without new axes along which it is constant.

    Args:
        ctx: the node.
        removable: the axis.
        old: the run of axes of the input.
        new: the run of axes of the output.
        before: the sizes of `old`.
        after: the sizes of `new`; None for a single axis.

    Returns:
        The emitted axis; None, with `removable` released, where the sizes are unknown.
    """
    if list(removable.axes) == old and len(old) == len(new) == 1:
        return ctx.propagate(removable, new)
    dims = [d for d in before if isinstance(d, int)]
    sizes = [prod(dims)] if after is None else [d for d in after if isinstance(d, int)]
    if len(dims) < len(before) or (after is not None and len(sizes) < len(after)) or prod(dims) != prod(sizes):
        ctx.release(removable)
        return None
    index = np.arange(removable.channels.size)
    index = index.reshape([d if a in removable.axes else 1 for a, d in zip(old, dims, strict=True)])
    index = np.broadcast_to(index, dims).reshape(sizes)
    axes = list(new)
    for place in reversed(range(len(new))):
        if index.ndim > 1 and (index == index.take([0], place)).all():
            index = np.take(index, 0, place)
            del axes[place]
    return ctx.propagate(removable, axes, index=index)


def concat(ctx: RuleContext) -> None:
    """Concat: the parts keep their channel indices; along other axes they go together."""
    rank = len(ctx.out_shape())
    axis = ctx.attr("axis", 1) % rank
    inputs = range(len(ctx.node.input))
    for other in range(rank):
        if other == axis:
            continue
        found = [ctx.take_axis(p, other) for p in inputs]
        first = found[0]
        for removable in found[1:]:
            ctx.builder.couple(first, removable)
        if first is not None and None not in found:
            ctx.emit((other,), first.channels)
    found = [ctx.take_axis(p, axis) for p in inputs]
    present = [removable for removable in found if removable is not None]
    sizes = [ctx.shape(p)[axis] for p in inputs]
    if not present:
        return
    if any(removable is None and not isinstance(size, int) for removable, size in zip(found, sizes, strict=True)):
        ctx.builder.protect(present)
        return
    parts: list[RemovableAxis | int] = [part or int(size or 0) for part, size in zip(found, sizes, strict=True)]
    channels = [ctx.builder.new_channels(p) if isinstance(p, int) else p.channels for p in parts]
    ctx.builder.protected += [i for i, p in zip(channels, parts, strict=True) if isinstance(p, int)]
    ctx.builder.flows.append(Concatenated(ctx.emit((axis,), np.concatenate(channels)), parts))


def split(ctx: RuleContext) -> None:
    """Split: runs of an axis."""
    axis = ctx.attr("axis", 0) % len(ctx.shape(0))
    outputs = range(len(ctx.node.output))
    for other in ctx.take(0):
        if axis in other.axes:
            ctx.release(other)
        else:
            for output in outputs:
                ctx.propagate(other, other.axes, output)
    removable = ctx.take_axis(0, axis)
    if removable is None:
        return
    part = -(-removable.channels.size // len(outputs))
    given = ctx.attr("split") is not None or ctx.name(1)
    ends = [0, *accumulate(numbers(ctx, 1, "split") if given else [part] * len(outputs))]
    runs = [np.arange(a, min(b, removable.channels.size)) for a, b in pairwise(ends)]
    parts = [ctx.propagate(removable, (axis,), output, index=run) for output, run in enumerate(runs)]
    ctx.rewrite(SplitSizes(ctx.node, tuple(parts)))


def slice_(ctx: RuleContext) -> None:
    """Slice: a run of an axis, in steps of 1."""
    rank = len(ctx.shape(0))
    starts, ends = numbers(ctx, 1, "starts"), numbers(ctx, 2, "ends")
    axes = axes_of(ctx, 3, rank)
    axes = list(range(len(starts))) if axes is None else axes
    steps = numbers(ctx, 4) if ctx.name(4) else [1] * len(starts)
    for removable in ctx.take(0):
        if not set(removable.axes) & set(axes):
            ctx.propagate(removable, removable.axes)
        elif len(removable.axes) == 1 and steps[axes.index(removable.axes[0])] == 1:
            place = axes.index(removable.axes[0])
            start, stop, _ = slice(starts[place], ends[place]).indices(removable.channels.size)
            ctx.propagate(removable, removable.axes, index=np.arange(start, stop))
            ctx.rewrite(SliceBounds(ctx.node, place, removable, start, stop))
        else:
            ctx.release(removable)


def gather(ctx: RuleContext) -> None:
    """Gather: constant indices pick entries; in a lookup at run time only the other axes pass."""
    axis = ctx.attr("axis", 0) % len(ctx.shape(0))
    rank = len(ctx.shape(1))
    chosen = ctx.numbers(1)
    for removable in ctx.take(0):
        if axis not in removable.axes:
            ctx.propagate(removable, [a if a < axis else a + rank - 1 for a in removable.axes])
        elif chosen is None or rank > 1:
            ctx.release(removable)
        else:
            ctx.rewrite(GatherIndices(ctx.node, 1, removable, axis))
            order = np.arange(removable.channels.size).reshape(removable.channels.shape)
            picked = order.take(chosen if rank else chosen[0], removable.axes.index(axis))
            if picked.ndim:
                left = [a for a in removable.axes if rank or a != axis]
                ctx.propagate(removable, [a if a <= axis else a + rank - 1 for a in left], index=picked)
            else:  # a single channel: it stays
                ctx.builder.protected.append(removable.channels[[chosen[0]]])


def shape(ctx: RuleContext) -> None:
    """Shape: the sizes of removable axes must end up in inputs that are shapes again, not in arithmetic."""
    shrinking = {a for removable in ctx.take(0) for a in removable.axes}

    def matters(source: Source) -> bool:
        return isinstance(source, SizeOf) and source.value == ctx.name(0) and source.axis in shrinking

    if shrinking and not ctx.builder.shapes.only_sizes(ctx.node, matters):
        ctx.release(*ctx.take(0))


def constant_of_shape(ctx: RuleContext) -> None:
    """ConstantOfShape: an axis is removable if its size is known."""
    tensor = ctx.attr("value")
    value = 0.0 if tensor is None else float(ctx.builder.model.array(tensor).reshape(-1)[0])
    for axis, size in enumerate(ctx.out_shape()):
        removable = ctx.emit((axis,), ctx.builder.new_channels(size)) if isinstance(size, int) and size > 1 else None
        ctx.bind_size(0, axis, removable, axis)
        if removable is not None:
            ctx.builder.flows.append(Filled(removable, value))


def expand(ctx: RuleContext) -> None:
    """Expand: axes of size 1 grow, the others pass."""
    before, after = ctx.shape(0), ctx.out_shape()
    by = len(after) - len(before)
    made: dict[int, RemovableAxis] = {}
    for removable in ctx.take(0):
        axes = [a + by for a in removable.axes]
        if all(after[a] == before[a - by] for a in axes):
            made |= dict.fromkeys(axes, ctx.propagate(removable, axes))
        else:
            ctx.release(removable)
    length = ctx.shape(1)[0]
    if not isinstance(length, int):
        raise Unsupported
    for index in range(length):
        axis = len(after) - length + index
        ctx.bind_size(1, index, made.get(axis), axis)


def tile(ctx: RuleContext) -> None:
    """Tile: axes that are not repeated pass."""
    repeats = numbers(ctx, 1)
    for removable in ctx.take(0):
        if all(repeats[a] == 1 for a in removable.axes):
            ctx.propagate(removable, removable.axes)
        else:
            ctx.release(removable)


def depth_to_space(ctx: RuleContext) -> None:
    """DepthToSpace: blocksize ** 2 channels become a square of one channel, and go together."""
    removable = ctx.take_axis(0, 1)
    if removable is not None:
        area, places = ctx.attr("blocksize") ** 2, np.arange(removable.channels.size)
        rows = places.reshape(area, -1) if ctx.attr("mode", b"DCR") == b"DCR" else places.reshape(-1, area).T
        ctx.builder.unite(removable.channels[rows], removable.channels[rows[0]])
        block = RemovableAxis("", (0, 1), removable.channels[rows])
        target = ctx.emit((1,), removable.channels[rows[0]])
        ctx.builder.flows += [Moved(block, removable, rows), Narrowed(target, block)]


def space_to_depth(ctx: RuleContext) -> None:
    """SpaceToDepth: each channel becomes blocksize ** 2 channels."""
    removable = ctx.take_axis(0, 1)
    if removable is not None:
        ctx.propagate(removable, (1,), index=np.tile(np.arange(removable.channels.size), ctx.attr("blocksize") ** 2))


# reductions along other axes -------------------------------------------------------------------------------------


def pool(zero_only: Callable[[RuleContext], bool]) -> Rule:
    """Pooling windows over the axes behind the channels.

    zero_only: whether a constant channel other than zero does not stay constant.
    """

    def rule(ctx: RuleContext) -> None:
        if len(ctx.node.output) > 1 and ctx.node.output[1]:
            raise Unsupported  # MaxPool's indices count channels
        removable = ctx.take_axis(0, 1)
        if removable is not None:
            ctx.propagate(removable, (1,), zero_only=zero_only(ctx))

    return rule


def counts_borders(ctx: RuleContext) -> bool:
    """Whether an average counts padding."""
    return padded(ctx) and bool(ctx.attr("count_include_pad", 0))


def reduce(*, zero_only: bool = False, known: bool = True) -> Rule:
    """Reductions along some axes.

    Args:
        zero_only: only zeros stay constant (sums over an axis of unknown length).
        known: whether constants pass at all.
    """

    def rule(ctx: RuleContext) -> None:
        rank = len(ctx.shape(0))
        axes = axes_of(ctx, 1, rank)
        if not axes:
            axes = [] if ctx.attr("noop_with_empty_axes", 0) else list(range(rank))
        _without(ctx, axes, keep=ctx.attr("keepdims", 1), zero_only=zero_only, known=known)

    return rule


def arg(ctx: RuleContext) -> None:
    """ArgMax and ArgMin."""
    axis = ctx.attr("axis", 0) % len(ctx.shape(0))
    _without(ctx, [axis], keep=ctx.attr("keepdims", 1), known=False)


def _without(ctx: RuleContext, axes: list[int], *, keep: int = 0, zero_only: bool = False, known: bool = True) -> None:
    """Propagate removable axes to an output that lacks `axes`, or has size 1 there (`keep`)."""
    for removable in ctx.take(0):
        if set(removable.axes) & set(axes):
            ctx.release(removable)
        else:
            gone = [] if keep else axes
            left = [a - sum(g < a for g in gone) for a in removable.axes]
            ctx.propagate(removable, left, zero_only=zero_only, known=known)


def pad(ctx: RuleContext) -> None:
    """Pad along other axes: a constant channel stays constant if the border copies it, or is zero as the channel is."""
    pads = numbers(ctx, 1, "pads")
    rank = len(ctx.shape(0))
    if ctx.name(3) or len(pads) != 2 * rank:
        raise Unsupported
    copies = ctx.attr("mode", b"constant") != b"constant" or not any(pads)
    border = ctx.builder.constant(ctx.name(2)) if ctx.name(2) else None
    zero = not ctx.attr("value", 0.0) if border is None else not ctx.builder.model.array(border).any()
    zero = zero and (border is not None or not ctx.name(2))
    for removable in ctx.take(0):
        if any(pads[a] or pads[a + rank] for a in removable.axes):
            ctx.release(removable)
        else:
            ctx.propagate(removable, removable.axes, zero_only=not copies, known=copies or zero)


def resize(ctx: RuleContext) -> None:
    """Resize: axes that keep their size pass."""
    before, after = ctx.shape(0), ctx.out_shape()
    smooth = ctx.attr("mode", b"nearest") in (b"nearest", b"linear")
    outside = ctx.attr("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    made: dict[int, RemovableAxis] = {}
    for removable in ctx.take(0):
        if all(isinstance(before[a], int) and before[a] == after[a] for a in removable.axes):
            target = ctx.propagate(removable, removable.axes, zero_only=outside or not smooth)
            made |= dict.fromkeys(removable.axes, target)
        else:
            ctx.release(removable)
    if ctx.name(3):
        if ctx.attr("axes") is not None and made:
            raise Unsupported
        for axis in range(len(after)):
            ctx.bind_size(3, axis, made.get(axis), axis)
