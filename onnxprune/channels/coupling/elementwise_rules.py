"""Rules of elementwise operators, and of norms and softmaxes along other axes than the channels'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

from onnxprune.channels.coupling.removable_axes import Mapped, RemovableAxis, Size
from onnxprune.channels.coupling.rule_context import Rule, RuleContext, Unsupported, numbers

Axes = tuple[int, ...]


def broadcast(ctx: RuleContext) -> None:
    """Operands that broadcast against each other: entries that meet in the output go together."""
    rank = len(ctx.out_shape())
    operands = {p: rank - len(ctx.shape(p)) for p, name in enumerate(ctx.node.input) if name and ctx.shape(p)}
    removables = {p: {tuple(a + by for a in s.axes): s for s in ctx.take(p)} for p, by in operands.items()}
    full = {p: {a + by for a, dim in enumerate(ctx.shape(p)) if dim != 1} for p, by in operands.items()}
    for cluster in _clusters([axes for own in removables.values() for axes in own]):
        meeting = [s for own in removables.values() for axes, s in own.items() if axes in cluster]
        axes = _common(cluster, full.values())
        readers = [p for p in operands if axes and full[p] & set(axes)]
        found = {p: _on(ctx, removables[p], axes, operands[p]) for p in readers}
        layouts = {removable.channels.shape for removable in found.values() if removable is not None}
        if not axes or None in found.values() or len(layouts) != 1:
            ctx.builder.protect(meeting)
            continue
        first, *others = (removable for removable in found.values() if removable is not None)
        for removable in others:
            ctx.builder.couple(first, removable)
        target = ctx.emit(axes, first.channels)
        ctx.builder.flows.append(Mapped(target, ctx.node, [found.get(p) for p in range(len(ctx.node.input))]))


def _clusters(layouts: Sequence[Axes]) -> list[set[Axes]]:
    """Sets of axes, united where they share one."""
    found: list[set[Axes]] = []
    for axes in dict.fromkeys(layouts):
        meeting = [c for c in found if any(set(axes) & set(other) for other in c)]
        found = [c for c in found if c not in meeting]
        found.append({axes}.union(*meeting))
    return found


def _common(cluster: set[Axes], full: Iterable[set[int]]) -> Axes:
    """The axes along which all operands couple: all of the cluster, or the only one that they share; else none."""
    every = set().union(*cluster)
    partial = [f & every for f in full if 0 < len(f & every) < len(every)]
    if len(cluster) == 1 and not partial:
        return next(iter(cluster))
    shared = set.intersection(*map(set, cluster), *partial)
    return tuple(shared) if len(shared) == 1 else ()


def _on(ctx: RuleContext, own: dict[Axes, RemovableAxis], axes: Axes, by: int) -> RemovableAxis | None:
    """An operand's removable axis at these axes of the output; `by` is how many axes fewer the operand has."""
    for place, removable in own.items():
        if place == axes:
            return removable
        if len(axes) == 1 and axes[0] in place:
            return ctx.builder.narrowed(removable, axes[0] - by)
    return None


def unary(ctx: RuleContext) -> None:
    """One operand; further inputs are parameters, further outputs masks."""
    ctx.shaped_like(0)
    for removable in ctx.take(0):
        target = ctx.emit(removable.axes, removable.channels)
        ctx.builder.flows.append(Mapped(target, ctx.node, [removable] + [None] * (len(ctx.node.input) - 1)))
        for output in range(1, len(ctx.node.output)):
            ctx.propagate(removable, removable.axes, output, known=False)


def biased(ctx: RuleContext) -> None:
    """An operand and perhaps a bias, which broadcasts over it."""
    ctx.shaped_like(0)
    broadcast(ctx)


def mixing(axes: Callable[[RuleContext, int], Sequence[int]]) -> Rule:
    """An operator that mixes entries along some axes (Softmax, CumSum): removable axes elsewhere pass.

    axes: (context, rank of the input) -> the axes.
    """

    def rule(ctx: RuleContext) -> None:
        mixed = set(axes(ctx, len(ctx.shape(0))))
        for removable in ctx.take(0):
            if mixed & set(removable.axes):
                ctx.release(removable)
                continue
            for output in range(len(ctx.node.output)):
                ctx.propagate(removable, removable.axes, output, known=False)

    return rule


def softmax_axes(ctx: RuleContext, rank: int) -> Sequence[int]:
    """One axis since opset 13; all axes from `axis` on before."""
    new = ctx.opset >= 13
    axis = ctx.attr("axis", -1 if new else 1) % rank
    return [axis] if new else range(axis, rank)


def cumsum_axes(ctx: RuleContext, rank: int) -> Sequence[int]:
    """The axis is an input."""
    return [a % rank for a in numbers(ctx, 1)]


def all_axes(ctx: RuleContext, rank: int) -> Sequence[int]:
    """Every axis: nothing passes."""
    return range(rank)


def layer_norm_axes(ctx: RuleContext, rank: int) -> Sequence[int]:
    """All axes from `axis` on."""
    return range(ctx.attr("axis", -1) % rank, rank)


def per_channel(*vectors: int, known: bool, axis: int = 1) -> Rule:
    """A norm or a quantisation with an entry for each channel in some of its inputs.

    Args:
        vectors: positions of those inputs.
        known: the operator is elementwise, so that constants pass; else it mixes entries along the other axes.
        axis: the axis of the channels.
    """

    def rule(ctx: RuleContext) -> None:
        for other in ctx.take(0):
            if known and axis not in other.axes:
                ctx.propagate(other, other.axes, known=False)
            else:
                ctx.release(other)
        removable = ctx.take_axis(0, axis)
        given = {p: ctx.take_axis(p, 0) for p in vectors if ctx.name(p)}
        for vector in given.values():
            ctx.builder.couple(removable, vector)
        if removable is not None:
            target = ctx.emit((axis,), removable.channels)
            if known and not ctx.attr("training_mode", 0):
                operands = [removable if p == 0 else given.get(p) for p in range(len(ctx.node.input))]
                ctx.builder.flows.append(Mapped(target, ctx.node, operands))

    return rule


def group_norm(ctx: RuleContext) -> None:
    """GroupNormalization takes statistics over groups of channels: the channels of one group go together."""
    groups = ctx.attr("num_groups")
    removable = ctx.take_axis(0, 1)
    vectors = [v for v in (ctx.take_axis(1, 0), ctx.take_axis(2, 0)) if v is not None]
    if removable is None:
        ctx.builder.protect(vectors)
        return
    rows = removable.channels.reshape(groups, -1)
    ctx.builder.unite(rows, rows[:, :1])
    for vector in vectors:  # until opset 20 they have an entry for each group
        per_channel = vector.channels.size == removable.channels.size
        ctx.builder.unite(vector.channels, removable.channels if per_channel else rows[:, 0])
    ctx.emit((1,), removable.channels)
    ctx.rewrite(Size(ctx.node, "num_groups", 0, RemovableAxis(removable.value, (1,), rows[:, 0]), 1))


def quantise(ctx: RuleContext) -> None:
    """QuantizeLinear and DequantizeLinear, one scale for a tensor or for each index of an axis."""
    if ctx.attr("block_size", 0):
        raise Unsupported
    if prod(d if isinstance(d, int) else 0 for d in ctx.shape(1)) == 1:
        unary(ctx)
    else:
        per_channel(1, 2, known=True, axis=ctx.attr("axis", 1) % len(ctx.shape(0)))(ctx)
