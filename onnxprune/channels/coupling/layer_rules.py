"""Rules of layers with weights: they read the slots of one axis and make those of their outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.channels.coupling.slots import Mix, Product, Silent, Size, Slot
from onnxprune.channels.coupling.wiring import At, Rule, Unknown
from onnxprune.core.dtypes import Array

View = Callable[[Array], Array]


def padded(at: At) -> bool:
    """Whether a window may reach over the border."""
    return any(at.attr("pads", [])) or at.attr("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def conv(at: At) -> None:
    """A channel is an index of the weight's first axis; groups stay of one size, unless a group is a channel."""
    groups = at.attr("group", 1)
    outputs, inputs = _sizes(at)
    reader, own, out = at.take_axis(0, 1), at.take_axis(1, 1), _outputs(at, at.take_axis(1, 0), outputs)
    rows = out.reshape(groups, -1)
    depthwise = groups > 1 and inputs == 1
    if depthwise and reader is not None:
        at.wiring.unite(rows, reader.ids[:, None])
        at.fix(Size(at.node, "group", 0, reader, 1))
    elif depthwise:
        at.wiring.pins.append(out)
    else:
        at.wiring.unite(rows, rows[:1])
        _read(at, reader, own, groups)
    view: View = lambda w: w.reshape(groups, outputs // groups, inputs, -1)  # noqa: E731
    _layer(at, view, reader, out, 1, padded=padded(at))


def conv_transpose(at: At) -> None:
    """As conv with the weight's first two axes exchanged; all groups share the axis of the outputs."""
    groups = at.attr("group", 1)
    inputs, outputs = _sizes(at)
    each = inputs // groups
    reader, own, single = at.take_axis(0, 1), at.take_axis(1, 0), at.take_axis(1, 1)
    at.wiring.couple(reader, own)
    if groups > 1 and each == 1 and own is not None:  # depthwise
        at.wiring.pin([single] if single is not None else [])
        at.fix(Size(at.node, "group", 0, own, 1))
        out = np.repeat(own.ids, outputs)
    else:
        out = np.tile(_outputs(at, single, outputs), groups)
        if own is not None:
            rows = own.ids.reshape(groups, each)
            at.wiring.unite(rows, rows[:1])
    view: View = lambda w: w.reshape(groups, each, outputs, -1).swapaxes(1, 2)  # noqa: E731
    _layer(at, view, reader, out, 1, padded=True)  # inside, more inputs meet than at the border


def gemm(at: At) -> None:
    """Alpha * A @ B + beta * C, B the weight."""
    if at.attr("transA", 0):
        raise Unknown
    swapped = bool(at.attr("transB", 0))
    sizes = _sizes(at)
    reader, own = at.take_axis(0, 1), at.take_axis(1, 1 if swapped else 0)
    out = _outputs(at, at.take_axis(1, 0 if swapped else 1), sizes[0 if swapped else 1])
    rows = at.take_axis(0, 0)
    at.wiring.couple(reader, own)
    if rows is not None:
        if at.name(2) and len(at.shape(2)) == 2 and at.shape(2)[0] != 1:
            at.wiring.pin([rows])
        else:
            at.move(rows, (0,), known=False)
    view: View = lambda w: (w if swapped else w.T)[None, :, :, None]  # noqa: E731
    _layer(at, view, reader, out, 1, scale=at.attr("alpha", 1.0), bias_scale=at.attr("beta", 1.0))


def matmul(at: At) -> None:
    """A matrix of weights on either side, or two values."""
    left, right = len(at.shape(0)), len(at.shape(1))
    if left >= 2 and right == 2 and at.constant(1):
        _linear(at, 0, 1, left - 1, lambda w: w.T[None, :, :, None])
    elif left == 2 and right >= 2 and at.constant(0):
        _linear(at, 1, 0, right - 2, lambda w: w[None, :, :, None])
    elif left == right and left >= 2:
        _product(at, left)
    else:
        raise Unknown


def _linear(at: At, data: int, weight: int, axis: int, view: View) -> None:
    """A matrix that mixes one axis of a value, whose further axes pass."""
    reader = at.take_axis(data, axis)
    inner, outer = 1 - weight, weight
    at.wiring.couple(reader, at.take_axis(weight, inner))
    for slot in at.take(data):
        if axis not in slot.axes:
            at.move(slot, slot.axes, zero_only=True)
    outputs = at.shape(weight)[outer]
    if not isinstance(outputs, int):
        raise Unknown
    made = _outputs(at, at.take_axis(weight, outer), outputs)
    _emit(at, Mix(at.node, at.name(weight), view, reader, Slot("", (axis,), made)))


def _product(at: At, rank: int) -> None:
    """Both sides are values: batches (heads) go together, rows and columns pass, what is summed over is used."""
    rows, columns = rank - 2, rank - 1
    for axis in range(rows):
        left, right = at.take_axis(0, axis), at.take_axis(1, axis)
        at.wiring.couple(left, right)
        if left is not None and right is not None:
            at.wiring.flows.append(Product(at.give((axis,), left.ids), [left, right]))

    def inner(position: int, axis: int) -> Slot | None:  # of features that heads share, the heads stand for them
        spans = any(axis in s.axes and min(s.axes) < rows for s in at.wiring.of(at.name(position)))
        return None if spans else at.take_axis(position, axis)

    left, right = inner(0, columns), inner(1, rows)
    at.wiring.couple(left, right)
    at.wiring.uses += [slot.ids for slot in (left, right) if slot is not None]
    for slot, axis in ((inner(0, rows), rows), (inner(1, columns), columns)):
        if slot is not None:
            at.move(slot, (axis,), zero_only=True)


def recurrent(gates: int, gate: int) -> Rule:
    """Hidden units, in all gates, directions and states; `gate` is the one that feeds the state."""

    def rule(at: At) -> None:
        hidden, directions = at.attr("hidden_size"), at.shape(1)[0]
        if not isinstance(directions, int) or hidden is None or not (at.constant(1) and at.constant(2)):
            raise Unknown
        reader = at.take_axis(0, 2)
        at.wiring.couple(reader, at.take_axis(1, 2))
        ids = _outputs(at, at.take_axis(2, 2), hidden)
        for position, times in ((1, gates), (2, gates), (3, 2 * gates), (7, 3)):
            slot = at.take_axis(position, 1) if at.name(position) else None
            if slot is not None:
                at.wiring.unite(slot.ids.reshape(times, hidden), ids)
        state = Slot(at.node.output[0], (3,), ids)
        starts = [at.take_axis(position, 2) for position in (5, 6) if at.name(position)]
        for start in starts:
            at.wiring.couple(start, state)

        def rows(w: Array) -> Array:
            return w.reshape(directions, gates, hidden, -1).transpose(2, 3, 0, 1).reshape(1, hidden, w.shape[2], -1)

        outputs = [at.give((axis,), ids, output) for output, axis in enumerate((3, 2, 2)[: len(at.node.output)])]
        for target in (state, *outputs):
            if None not in starts and not at.attr("activations"):
                known = tuple(s for s in starts if s is not None)
                at.wiring.flows.append(Silent(target, at.node, gates, gate, known))
        at.wiring.flows += [
            Mix(at.node, at.name(1), rows, reader, state, recurrent=True),
            Mix(at.node, at.name(2), rows, state, state, recurrent=True),
        ]
        at.fix(Size(at.node, "hidden_size", 0, state, 3))

    return rule


def _sizes(at: At) -> tuple[int, int]:
    """The first two sizes of the weight."""
    shape = at.shape(1)
    if len(shape) < 2 or not at.constant(1):  # a damaged model's may have one axis
        raise Unknown
    a, b = shape[:2]
    if not isinstance(a, int) or not isinstance(b, int):
        raise Unknown
    return a, b


def _outputs(at: At, slot: Slot | None, size: int) -> Array:
    """The atoms of a layer's outputs; a single output stays."""
    if slot is not None:
        return slot.ids
    ids = at.wiring.fresh(size)
    at.wiring.pins.append(ids)
    return ids


def _read(at: At, reader: Slot | None, own: Slot | None, groups: int) -> None:
    """The channels that are read, and the weight's axis for them, which all groups share."""
    if reader is None or own is None or reader.ids.size != groups * own.ids.size:
        at.wiring.pin(s for s in (reader, own) if s is not None)
    else:
        at.wiring.unite(reader.ids.reshape(groups, -1), own.ids)


def _layer(
    at: At, view: View, reader: Slot | None, out: Array, axis: int, *, scale: float = 1.0, bias_scale: float = 1.0,
    padded: bool = False,
) -> None:  # fmt: skip
    """A layer whose weight is input 1 and whose bias, if it has one, is input 2."""
    target = Slot("", (axis,), out)
    if at.name(2):
        shape = at.shape(2)
        if shape and shape[-1] != 1:
            at.wiring.couple(target, at.take_axis(2, len(shape) - 1))
    _emit(at, Mix(at.node, at.name(1), view, reader, target, 2, scale, bias_scale, padded))


def _emit(at: At, mix: Mix) -> None:
    """Give the node's output the slot of what the weight makes; one output alone has none."""
    if mix.target.ids.size > 1:
        mix.target = at.give(mix.target.axes, mix.target.ids)
    at.wiring.flows.append(mix)
