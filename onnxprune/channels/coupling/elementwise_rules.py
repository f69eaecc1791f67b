"""Rules of operators that work entry by entry, or that norm and scale along other axes than the slots'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

from onnxprune.channels.coupling.slots import Mapped, Size, Slot
from onnxprune.channels.coupling.wiring import At, Rule, Unknown, numbers

Axes = tuple[int, ...]


def broadcast(at: At) -> None:
    """Operands broadcast against each other: what lies at one place of the result goes together."""
    rank = len(at.out_shape())
    operands = {p: rank - len(at.shape(p)) for p, name in enumerate(at.node.input) if name and at.shape(p)}
    slots = {p: {tuple(a + by for a in s.axes): s for s in at.take(p)} for p, by in operands.items()}
    full = {p: {a + by for a, dim in enumerate(at.shape(p)) if dim != 1} for p, by in operands.items()}
    for cluster in _clusters([axes for own in slots.values() for axes in own]):
        meeting = [s for own in slots.values() for axes, s in own.items() if axes in cluster]
        axes = _common(cluster, full.values())
        readers = [p for p in operands if axes and full[p] & set(axes)]
        found = {p: _on(at, slots[p], axes, operands[p]) for p in readers}
        layouts = {slot.ids.shape for slot in found.values() if slot is not None}
        if not axes or None in found.values() or len(layouts) != 1:
            at.wiring.pin(meeting)
            continue
        first, *others = (slot for slot in found.values() if slot is not None)
        for slot in others:
            at.wiring.couple(first, slot)
        target = at.give(axes, first.ids)
        at.wiring.flows.append(Mapped(target, at.node, [found.get(p) for p in range(len(at.node.input))]))


def _clusters(layouts: Sequence[Axes]) -> list[set[Axes]]:
    """Layouts that share axes, together."""
    found: list[set[Axes]] = []
    for axes in dict.fromkeys(layouts):
        meeting = [c for c in found if any(set(axes) & set(other) for other in c)]
        found = [c for c in found if c not in meeting]
        found.append({axes}.union(*meeting))
    return found


def _common(cluster: set[Axes], full: Iterable[set[int]]) -> Axes:
    """The layout that all can have: the one of all of them, or the single axis that they share; else none."""
    every = set().union(*cluster)
    partial = [f & every for f in full if 0 < len(f & every) < len(every)]
    if len(cluster) == 1 and not partial:
        return next(iter(cluster))
    shared = set.intersection(*map(set, cluster), *partial)
    return tuple(shared) if len(shared) == 1 else ()


def _on(at: At, own: dict[Axes, Slot], axes: Axes, by: int) -> Slot | None:
    """An operand's slot on these axes of the result."""
    for place, slot in own.items():
        if place == axes:
            return slot
        if len(axes) == 1 and axes[0] in place:
            return at.wiring.narrowed(slot, axes[0] - by)
    return None


def unary(at: At) -> None:
    """One operand that varies; further inputs are parameters, further outputs masks."""
    at.shaped_like(0)
    for slot in at.take(0):
        target = at.give(slot.axes, slot.ids)
        at.wiring.flows.append(Mapped(target, at.node, [slot] + [None] * (len(at.node.input) - 1)))
        for output in range(1, len(at.node.output)):
            at.move(slot, slot.axes, output, known=False)


def mixing(axes: Callable[[At, int], Sequence[int]]) -> Rule:
    """An operator that mixes what lies along some axes (Softmax, CumSum): slots on others pass."""

    def rule(at: At) -> None:
        mixed = set(axes(at, len(at.shape(0))))
        for slot in at.take(0):
            if mixed & set(slot.axes):
                at.leave(slot)
                continue
            for output in range(len(at.node.output)):
                at.move(slot, slot.axes, output, known=False)

    return rule


def softmax_axes(at: At, rank: int) -> Sequence[int]:
    """One axis since opset 13; before, all from that one on."""
    new = at.opset >= 13
    axis = at.attr("axis", -1 if new else 1) % rank
    return [axis] if new else range(axis, rank)


def cumsum_axes(at: At, rank: int) -> Sequence[int]:
    """The axis is an input."""
    return [a % rank for a in numbers(at, 1)]


def layer_norm_axes(at: At, rank: int) -> Sequence[int]:
    """All axes from that one on."""
    return range(at.attr("axis", -1) % rank, rank)


def per_channel(*vectors: int, known: bool, axis: int = 1) -> Rule:
    """A norm or a quantisation whose inputs `vectors` have an entry for each channel.

    known: entries are mapped one by one; else the norm mixes what lies along the other axes.
    """

    def rule(at: At) -> None:
        for other in at.take(0):
            if known and axis not in other.axes:
                at.move(other, other.axes, known=False)
            else:
                at.leave(other)
        slot = at.take_axis(0, axis)
        given = {p: at.take_axis(p, 0) for p in vectors if at.name(p)}
        for vector in given.values():
            at.wiring.couple(slot, vector)
        if slot is not None:
            target = at.give((axis,), slot.ids)
            if known and not at.attr("training_mode", 0):
                operands = [slot if p == 0 else given.get(p) for p in range(len(at.node.input))]
                at.wiring.flows.append(Mapped(target, at.node, operands))

    return rule


def group_norm(at: At) -> None:
    """Statistics of whole groups of channels: a group goes as one."""
    groups = at.attr("num_groups")
    slot = at.take_axis(0, 1)
    vectors = [v for v in (at.take_axis(1, 0), at.take_axis(2, 0)) if v is not None]
    if slot is None:
        at.wiring.pin(vectors)
        return
    rows = slot.ids.reshape(groups, -1)
    at.wiring.unite(rows, rows[:, :1])
    for vector in vectors:  # until opset 20 they have an entry for each group
        at.wiring.unite(vector.ids, slot.ids if vector.ids.size == slot.ids.size else rows[:, 0])
    at.give((1,), slot.ids)
    at.fix(Size(at.node, "num_groups", 0, Slot(slot.value, (1,), rows[:, 0]), 1))


def quantise(at: At) -> None:
    """QuantizeLinear and DequantizeLinear, one scale for a tensor or for each index of an axis."""
    if at.attr("block_size", 0):
        raise Unknown
    if prod(d if isinstance(d, int) else 0 for d in at.shape(1)) == 1:
        unary(at)
    else:
        per_channel(1, 2, known=True, axis=at.attr("axis", 1) % len(at.shape(0)))(at)
