"""Rules of operators that carry entries to other places, or sum up what lies along other axes than the slots'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import prod

import numpy as np

from onnxprune.channels.coupling.layer_rules import padded
from onnxprune.channels.coupling.reshape_axes import blocks
from onnxprune.channels.coupling.slots import Bounds, Filled, Indices, Joined, Moved, Narrowed, Slot, SplitSizes
from onnxprune.channels.coupling.wiring import At, Rule, Unknown, axes_of, numbers
from onnxprune.channels.shapes import Dim, Measured, Source


def transpose(at: At) -> None:
    """Axes in another order."""
    perm = list(at.attr("perm") or reversed(range(len(at.shape(0)))))
    for slot in at.take(0):
        places = [perm.index(a) for a in slot.axes]
        index = np.arange(slot.ids.size).reshape(slot.ids.shape).transpose(np.argsort(places))
        at.move(slot, sorted(places), index=index)


def squeeze(at: At) -> None:
    """Axes of size 1 go."""
    axes = axes_of(at, 1, len(at.shape(0)))
    _without(at, [a for a, d in enumerate(at.shape(0)) if d == 1] if axes is None else axes)


def unsqueeze(at: At) -> None:
    """Axes of size 1 come."""
    rank = len(at.out_shape())
    new = axes_of(at, 1, rank)
    if new is None:
        raise Unknown
    old = [a for a in range(rank) if a not in new]
    for slot in at.take(0):
        at.move(slot, [old[a] for a in slot.axes])


def flatten(at: At) -> None:
    """Two axes: all before `axis`, and all from it on."""
    shape = at.shape(0)
    axis = at.attr("axis", 1)
    axis = axis if axis >= 0 else axis + len(shape)
    runs = (list(range(axis)), list(range(axis, len(shape))))
    for slot in at.take(0):
        for place, run in enumerate(runs):
            if set(slot.axes) <= set(run):
                _regroup(at, slot, run, [place], [shape[a] for a in run], None)
                break
        else:
            at.leave(slot)


def reshape(at: At) -> None:
    """Runs of axes with the same product stand for each other."""
    before, after = at.shape(0), at.out_shape()
    slots = at.take(0)
    made: dict[int, Slot] = {}
    for old, new in blocks(before, after):
        inside = [s for s in slots if set(s.axes) & set(old)]
        target = None
        if len(inside) == 1 and set(inside[0].axes) <= set(old):
            target = _regroup(at, inside[0], old, new, [before[a] for a in old], [after[a] for a in new])
        if target is None:
            at.leave(*inside)
        else:
            made |= dict.fromkeys(target.axes, target)
    for axis in range(len(after)):
        at.sized(1, axis, made.get(axis), axis, copies=not at.attr("allowzero", 0))


def _regroup(
    at: At, slot: Slot, old: list[int], new: list[int], before: Sequence[Dim], after: Sequence[Dim] | None
) -> Slot | None:
    """The slot of a run of axes on the axes that the run becomes, without those along which it stays the same.

    after: None stands for a single axis.
    """
    if list(slot.axes) == old and len(old) == len(new) == 1:
        return at.move(slot, new)
    dims = [d for d in before if isinstance(d, int)]
    sizes = [prod(dims)] if after is None else [d for d in after if isinstance(d, int)]
    if len(dims) < len(before) or (after is not None and len(sizes) < len(after)) or prod(dims) != prod(sizes):
        at.leave(slot)
        return None
    index = np.arange(slot.ids.size).reshape([d if a in slot.axes else 1 for a, d in zip(old, dims, strict=True)])
    index = np.broadcast_to(index, dims).reshape(sizes)
    axes = list(new)
    for place in reversed(range(len(new))):
        if index.ndim > 1 and (index == index.take([0], place)).all():
            index = np.take(index, 0, place)
            del axes[place]
    return at.move(slot, axes, index=index)


def concat(at: At) -> None:
    """What lies one after the other keeps its atoms; other axes go together."""
    rank = len(at.out_shape())
    axis = at.attr("axis", 1) % rank
    inputs = range(len(at.node.input))
    for other in range(rank):
        if other == axis:
            continue
        found = [at.take_axis(p, other) for p in inputs]
        first = found[0]
        for slot in found[1:]:
            at.wiring.couple(first, slot)
        if first is not None and None not in found:
            at.give((other,), first.ids)
    found = [at.take_axis(p, axis) for p in inputs]
    present = [slot for slot in found if slot is not None]
    sizes = [at.shape(p)[axis] for p in inputs]
    if not present:
        return
    if any(slot is None and not isinstance(size, int) for slot, size in zip(found, sizes, strict=True)):
        at.wiring.pin(present)
        return
    parts: list[Slot | int] = [slot or int(size or 0) for slot, size in zip(found, sizes, strict=True)]
    ids = [at.wiring.fresh(p) if isinstance(p, int) else p.ids for p in parts]
    at.wiring.pins += [i for i, p in zip(ids, parts, strict=True) if isinstance(p, int)]
    at.wiring.flows.append(Joined(at.give((axis,), np.concatenate(ids)), parts))


def split(at: At) -> None:
    """Runs of an axis."""
    axis = at.attr("axis", 0) % len(at.shape(0))
    outputs = range(len(at.node.output))
    for other in at.take(0):
        if axis in other.axes:
            at.leave(other)
        else:
            for output in outputs:
                at.move(other, other.axes, output)
    slot = at.take_axis(0, axis)
    if slot is None:
        return
    part = -(-slot.ids.size // len(outputs))
    given = at.attr("split") is not None or at.name(1)
    ends = [0, *accumulate(numbers(at, 1, "split") if given else [part] * len(outputs))]
    runs = [np.arange(a, min(b, slot.ids.size)) for a, b in pairwise(ends)]
    at.fix(SplitSizes(at.node, tuple(at.move(slot, (axis,), k, index=run) for k, run in enumerate(runs))))


def cut(at: At) -> None:
    """A Slice: a run of an axis, in steps of 1."""
    rank = len(at.shape(0))
    starts, ends = numbers(at, 1, "starts"), numbers(at, 2, "ends")
    axes = axes_of(at, 3, rank)
    axes = list(range(len(starts))) if axes is None else axes
    steps = numbers(at, 4) if at.name(4) else [1] * len(starts)
    for slot in at.take(0):
        if not set(slot.axes) & set(axes):
            at.move(slot, slot.axes)
        elif len(slot.axes) == 1 and steps[axes.index(slot.axes[0])] == 1:
            place = axes.index(slot.axes[0])
            start, stop, _ = slice(starts[place], ends[place]).indices(slot.ids.size)
            at.move(slot, slot.axes, index=np.arange(start, stop))
            at.fix(Bounds(at.node, place, slot, start, stop))
        else:
            at.leave(slot)


def gather(at: At) -> None:
    """Constant indices pick places; of a table that is looked up at run time the other axes pass."""
    axis = at.attr("axis", 0) % len(at.shape(0))
    rank = len(at.shape(1))
    chosen = at.numbers(1)
    for slot in at.take(0):
        if axis not in slot.axes:
            at.move(slot, [a if a < axis else a + rank - 1 for a in slot.axes])
        elif chosen is None or rank > 1:
            at.leave(slot)
        else:
            at.fix(Indices(at.node, 1, slot, axis))
            place = slot.axes.index(axis)
            picked = np.arange(slot.ids.size).reshape(slot.ids.shape).take(chosen if rank else chosen[0], place)
            if picked.ndim:
                left = [a for a in slot.axes if rank or a != axis]
                at.move(slot, [a if a <= axis else a + rank - 1 for a in left], index=picked)
            else:  # a single channel: it stays
                at.wiring.pins.append(slot.ids[[chosen[0]]])


def shape(at: At) -> None:
    """Sizes are no values: those of axes that may shrink have to end where they are sizes again."""
    shrinking = {a for slot in at.take(0) for a in slot.axes}

    def matters(source: Source) -> bool:
        return isinstance(source, Measured) and source.value == at.name(0) and source.axis in shrinking

    if shrinking and not at.wiring.shapes.only_sizes(at.node, matters):
        at.leave(*at.take(0))


def constant_of_shape(at: At) -> None:
    """Each axis can shrink whose size stands in a constant."""
    tensor = at.attr("value")
    value = 0.0 if tensor is None else float(at.wiring.model.array(tensor).reshape(-1)[0])
    for axis, size in enumerate(at.out_shape()):
        slot = at.give((axis,), at.wiring.fresh(size)) if isinstance(size, int) and size > 1 else None
        at.sized(0, axis, slot, axis)
        if slot is not None:
            at.wiring.flows.append(Filled(slot, value))


def expand(at: At) -> None:
    """Axes of size 1 grow, the others pass."""
    before, after = at.shape(0), at.out_shape()
    by = len(after) - len(before)
    made: dict[int, Slot] = {}
    for slot in at.take(0):
        if all(after[a + by] == before[a] for a in slot.axes):
            made |= {a + by: target for target in [at.move(slot, [a + by for a in slot.axes])] for a in slot.axes}
        else:
            at.leave(slot)
    length = at.shape(1)[0]
    if not isinstance(length, int):
        raise Unknown
    for index in range(length):
        axis = len(after) - length + index
        at.sized(1, index, made.get(axis), axis)


def tile(at: At) -> None:
    """Axes that are not repeated pass."""
    repeats = numbers(at, 1)
    for slot in at.take(0):
        if all(repeats[a] == 1 for a in slot.axes):
            at.move(slot, slot.axes)
        else:
            at.leave(slot)


def depth_to_space(at: At) -> None:
    """A block of channels becomes a square of one channel: it goes as one."""
    slot = at.take_axis(0, 1)
    if slot is not None:
        area, places = at.attr("blocksize") ** 2, np.arange(slot.ids.size)
        rows = places.reshape(area, -1) if at.attr("mode", b"DCR") == b"DCR" else places.reshape(-1, area).T
        at.wiring.unite(slot.ids[rows], slot.ids[rows[0]])
        block = Slot("", (0, 1), slot.ids[rows])
        at.wiring.flows += [Moved(block, slot, rows), Narrowed(at.give((1,), slot.ids[rows[0]]), block)]


def space_to_depth(at: At) -> None:
    """Each channel becomes a block of channels."""
    slot = at.take_axis(0, 1)
    if slot is not None:
        at.move(slot, (1,), index=np.tile(np.arange(slot.ids.size), at.attr("blocksize") ** 2))


# what is summed up along other axes ------------------------------------------------------------------------------


def pool(zero_only: Callable[[At], bool]) -> Rule:
    """Windows over the axes behind the channels; where `zero_only`, a constant other than 0 does not stay one."""

    def rule(at: At) -> None:
        if len(at.node.output) > 1 and at.node.output[1]:
            raise Unknown  # MaxPool's indices count channels
        slot = at.take_axis(0, 1)
        if slot is not None:
            at.move(slot, (1,), zero_only=zero_only(at))

    return rule


def counts_borders(at: At) -> bool:
    """Whether an average counts the padding around."""
    return padded(at) and bool(at.attr("count_include_pad", 0))


def reduce(*, zero_only: bool = False, known: bool = True) -> Rule:
    """One number for all along some axes."""

    def rule(at: At) -> None:
        rank = len(at.shape(0))
        axes = axes_of(at, 1, rank)
        if not axes:
            axes = [] if at.attr("noop_with_empty_axes", 0) else list(range(rank))
        _without(at, axes, keep=at.attr("keepdims", 1), zero_only=zero_only, known=known)

    return rule


def arg(at: At) -> None:
    """Where along an axis the extreme lies."""
    axis = at.attr("axis", 0) % len(at.shape(0))
    _without(at, [axis], keep=at.attr("keepdims", 1), known=False)


def _without(at: At, axes: list[int], *, keep: int = 0, zero_only: bool = False, known: bool = True) -> None:
    for slot in at.take(0):
        if set(slot.axes) & set(axes):
            at.leave(slot)
        else:
            gone = [] if keep else axes
            at.move(slot, [a - sum(g < a for g in gone) for a in slot.axes], zero_only=zero_only, known=known)


def pad(at: At) -> None:
    """Borders along other axes: of constants only the border's own value stays one, and that of copies."""
    pads = numbers(at, 1, "pads")
    rank = len(at.shape(0))
    if at.name(3) or len(pads) != 2 * rank:
        raise Unknown
    copies = at.attr("mode", b"constant") != b"constant" or not any(pads)
    border = at.wiring.constant(at.name(2)) if at.name(2) else None
    zero = not at.attr("value", 0.0) if border is None else not at.wiring.model.array(border).any()
    zero = zero and (border is not None or not at.name(2))
    for slot in at.take(0):
        if any(pads[a] or pads[a + rank] for a in slot.axes):
            at.leave(slot)
        else:
            at.move(slot, slot.axes, zero_only=not copies, known=copies or zero)


def resize(at: At) -> None:
    """Axes that keep their size pass."""
    before, after = at.shape(0), at.out_shape()
    smooth = at.attr("mode", b"nearest") in (b"nearest", b"linear")
    outside = at.attr("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    made: dict[int, Slot] = {}
    for slot in at.take(0):
        if all(isinstance(before[a], int) and before[a] == after[a] for a in slot.axes):
            made |= dict.fromkeys(slot.axes, at.move(slot, slot.axes, zero_only=outside or not smooth))
        else:
            at.leave(slot)
    if at.name(3):
        if at.attr("axes") is not None and made:
            raise Unknown
        for axis in range(len(after)):
            at.sized(3, axis, made.get(axis), axis)
