"""Rules of linear layers: the weight has an axis for the channels that are read and one for the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.channels.coupling.removable_axes import LinearLayer, Product, RemovableAxis, Size, ZeroState
from onnxprune.channels.coupling.rule_context import Rule, RuleContext, Unsupported
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import einsum_labels

View = Callable[[Array], Array]


def padded(ctx: RuleContext) -> bool:
    """Whether windows may reach into padding."""
    return any(ctx.attr("pads", [])) or ctx.attr("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def conv(ctx: RuleContext) -> None:
    """Outputs are the weight's first axis. Groups keep one size, except in a depthwise Conv, which loses groups."""
    groups = ctx.attr("group", 1)
    outputs, inputs = _sizes(ctx)
    source, own, out = ctx.take_axis(0, 1), ctx.take_axis(1, 1), _outputs(ctx, ctx.take_axis(1, 0), outputs)
    rows = out.reshape(groups, -1)
    depthwise = groups > 1 and inputs == 1
    if depthwise and source is not None:
        ctx.builder.unite(rows, source.channels[:, None])
        ctx.rewrite(Size(ctx.node, "group", 0, source, 1))
    elif depthwise:
        ctx.builder.protected.append(out)
    else:
        ctx.builder.unite(rows, rows[:1])
        _read(ctx, source, own, groups)
    view: View = lambda w: w.reshape(groups, outputs // groups, inputs, -1)  # noqa: E731
    _layer(ctx, view, source, out, 1, padded=padded(ctx))


def conv_transpose(ctx: RuleContext) -> None:
    """As `conv` with the weight's first two axes exchanged; all groups share the axis of the outputs."""
    groups = ctx.attr("group", 1)
    inputs, outputs = _sizes(ctx)
    each = inputs // groups
    source, own, single = ctx.take_axis(0, 1), ctx.take_axis(1, 0), ctx.take_axis(1, 1)
    ctx.builder.couple(source, own)
    if groups > 1 and each == 1 and own is not None:  # depthwise
        ctx.builder.protect([single] if single is not None else [])
        ctx.rewrite(Size(ctx.node, "group", 0, own, 1))
        out = np.repeat(own.channels, outputs)
    else:
        out = np.tile(_outputs(ctx, single, outputs), groups)
        if own is not None:
            rows = own.channels.reshape(groups, each)
            ctx.builder.unite(rows, rows[:1])
    view: View = lambda w: w.reshape(groups, each, outputs, -1).swapaxes(1, 2)  # noqa: E731
    _layer(ctx, view, source, out, 1, padded=True)  # inside, more inputs add up than at the border


def gemm(ctx: RuleContext) -> None:
    """Alpha * A @ B + beta * C, B the weight."""
    if ctx.attr("transA", 0):
        raise Unsupported
    swapped = bool(ctx.attr("transB", 0))
    sizes = _sizes(ctx)
    source, own = ctx.take_axis(0, 1), ctx.take_axis(1, 1 if swapped else 0)
    out = _outputs(ctx, ctx.take_axis(1, 0 if swapped else 1), sizes[0 if swapped else 1])
    rows = ctx.take_axis(0, 0)
    ctx.builder.couple(source, own)
    if rows is not None:
        if ctx.name(2) and len(ctx.shape(2)) == 2 and ctx.shape(2)[0] != 1:
            ctx.builder.protect([rows])
        else:
            ctx.propagate(rows, (0,), known=False)
    view: View = lambda w: (w if swapped else w.T)[None, :, :, None]  # noqa: E731
    _layer(ctx, view, source, out, 1, scale=ctx.attr("alpha", 1.0), bias_scale=ctx.attr("beta", 1.0))


def matmul(ctx: RuleContext) -> None:
    """A matrix of weights on either side, perhaps with unit dimensions in front, or two computed values."""
    left, right = len(ctx.shape(0)), len(ctx.shape(1))
    if left >= right >= 2 and ctx.constant(1) and _single(ctx, 1):
        _linear(ctx, 1, right - 2, left - 1, range(left))
    elif right >= left >= 2 and ctx.constant(0) and _single(ctx, 0):
        _linear(ctx, 0, left - 1, right - 2, range(right))
    elif left == right and left >= 2:
        _product(ctx, left)
    else:
        raise Unsupported


def _single(ctx: RuleContext, position: int) -> bool:
    """Whether an operand is one matrix."""
    return all(size == 1 for size in ctx.shape(position)[:-2])


def einsum(ctx: RuleContext) -> None:
    """A matrix of weights on either side whose equation is a matrix product; the result may have its axes in any order.

    One label of the matrix is summed over, the other is one of the result alone, and all others of the value pass.
    """
    terms, result = einsum_labels(ctx.node)
    weight = 1 if ctx.constant(1) else 0
    if len(terms) != 2 or not ctx.constant(weight):
        raise Unsupported("of what is no matrix of weights")
    own, other = terms[weight], terms[1 - weight]
    others = len(ctx.shape(1 - weight)) - len(other.replace("...", ""))
    unnamed = "".join(map(str, range(others)))  # what "..." stands for; letters name the other axes
    data, made = other.replace("...", unnamed), result.replace("...", unnamed)
    inner, outer = (set(own) & set(labels) for labels in (data, made))
    shapes = ctx.shape(weight), ctx.shape(1 - weight), ctx.out_shape()
    distinct = all(len(a) == len(b) == len(set(b)) for a, b in zip(shapes, (own, data, made), strict=True))
    if not distinct or [*map(len, (own, inner, outer))] != [2, 1, 1] or set(data) - inner != set(made) - outer:
        raise Unsupported("that is no matrix product")
    (summed,), (new,) = inner, outer
    places = [made.index(new if label == summed else label) for label in data]
    _linear(ctx, weight, own.index(summed), data.index(summed), places)


def _linear(ctx: RuleContext, weight: int, inner: int, axis: int, places: Sequence[int]) -> None:
    """A weight matrix, perhaps with unit dimensions in front, that mixes one axis of a value; the other axes pass.

    Args:
        ctx: the node, of two inputs.
        weight: position of the weight.
        inner: its axis that is summed over; of the last two, the other one is that of the outputs.
        axis: the axis of the value that is summed over.
        places: where the axes of the value lie in the output, the outputs in place of `axis`.
    """
    data, rank = 1 - weight, len(ctx.shape(weight))
    outer = 2 * rank - 3 - inner
    source = ctx.take_axis(data, axis)
    ctx.builder.couple(source, ctx.take_axis(weight, inner))
    for removable in ctx.take(data):
        if axis not in removable.axes:
            ctx.permute(removable, [places[a] for a in removable.axes], zero_only=True)
    outputs = ctx.shape(weight)[outer]
    if not isinstance(outputs, int):
        raise Unsupported
    made = _outputs(ctx, ctx.take_axis(weight, outer), outputs)
    turned = inner < outer

    def view(w: Array) -> Array:
        matrix = w.reshape(w.shape[-2:])
        return (matrix.T if turned else matrix)[None, :, :, None]

    _emit_layer(ctx, LinearLayer(ctx.node, ctx.name(weight), view, source, RemovableAxis("", (places[axis],), made)))


def _product(ctx: RuleContext, rank: int) -> None:
    """Two computed values: batches (heads) go together, rows and columns pass, the axis that is summed over is used."""
    rows, columns = rank - 2, rank - 1
    for axis in range(rows):
        left, right = ctx.take_axis(0, axis), ctx.take_axis(1, axis)
        ctx.builder.couple(left, right)
        if left is not None and right is not None:
            ctx.builder.flows.append(Product(ctx.emit((axis,), left.channels), [left, right]))

    def inner(position: int, axis: int) -> RemovableAxis | None:
        # An axis that spans heads and features was answered for with the heads.
        spans = any(axis in s.axes and min(s.axes) < rows for s in ctx.builder.axes_of_value(ctx.name(position)))
        return None if spans else ctx.take_axis(position, axis)

    left, right = inner(0, columns), inner(1, rows)
    ctx.builder.couple(left, right)
    ctx.builder.used += [removable.channels for removable in (left, right) if removable is not None]
    for removable, axis in ((inner(0, rows), rows), (inner(1, columns), columns)):
        if removable is not None:
            ctx.propagate(removable, (axis,), zero_only=True)


def recurrent(gates: int, gate: int) -> Rule:
    """LSTM, GRU, RNN: a hidden unit goes from all gates, directions and states.

    gate: which of the gates feeds the state.
    """

    def rule(ctx: RuleContext) -> None:
        hidden, directions = ctx.attr("hidden_size"), ctx.shape(1)[0]
        if not isinstance(directions, int) or hidden is None or not (ctx.constant(1) and ctx.constant(2)):
            raise Unsupported
        source = ctx.take_axis(0, 2)
        ctx.builder.couple(source, ctx.take_axis(1, 2))
        channels = _outputs(ctx, ctx.take_axis(2, 2), hidden)
        for position, times in ((1, gates), (2, gates), (3, 2 * gates), (7, 3)):
            removable = ctx.take_axis(position, 1) if ctx.name(position) else None
            if removable is not None:
                ctx.builder.unite(removable.channels.reshape(times, hidden), channels)
        state = RemovableAxis(ctx.node.output[0], (3,), channels)
        starts = [ctx.take_axis(position, 2) for position in (5, 6) if ctx.name(position)]
        for start in starts:
            ctx.builder.couple(start, state)

        def rows(w: Array) -> Array:
            return w.reshape(directions, gates, hidden, -1).transpose(2, 3, 0, 1).reshape(1, hidden, w.shape[2], -1)

        outputs = [ctx.emit((axis,), channels, output) for output, axis in enumerate((3, 2, 2)[: len(ctx.node.output)])]
        for target in (state, *outputs):
            if None not in starts and not ctx.attr("activations"):
                known = tuple(s for s in starts if s is not None)
                ctx.builder.flows.append(ZeroState(target, ctx.node, gates, gate, known))
        ctx.builder.flows += [
            LinearLayer(ctx.node, ctx.name(1), rows, source, state, recurrent=True),
            LinearLayer(ctx.node, ctx.name(2), rows, state, state, recurrent=True),
        ]
        ctx.rewrite(Size(ctx.node, "hidden_size", 0, state, 3))

    return rule


def _sizes(ctx: RuleContext) -> tuple[int, int]:
    """The first two sizes of the weight.

    Raises:
        Unsupported: they are unknown, or the weight is computed.
    """
    shape = ctx.shape(1)
    if len(shape) < 2 or not ctx.constant(1):  # a damaged model's may have one axis
        raise Unsupported
    a, b = shape[:2]
    if not isinstance(a, int) or not isinstance(b, int):
        raise Unsupported
    return a, b


def _outputs(ctx: RuleContext, removable: RemovableAxis | None, size: int) -> Array:
    """The channel indices of a layer's outputs, [size]; a single output is protected."""
    if removable is not None:
        return removable.channels
    channels = ctx.builder.new_channels(size)
    ctx.builder.protected.append(channels)
    return channels


def _read(ctx: RuleContext, source: RemovableAxis | None, own: RemovableAxis | None, groups: int) -> None:
    """Join the channels that are read with the weight's axis of inputs, which all groups share."""
    if source is None or own is None or source.channels.size != groups * own.channels.size:
        ctx.builder.protect(s for s in (source, own) if s is not None)
    else:
        ctx.builder.unite(source.channels.reshape(groups, -1), own.channels)


def _layer(
    ctx: RuleContext, view: View, source: RemovableAxis | None, out: Array, axis: int, *,
    scale: float = 1.0, bias_scale: float = 1.0, padded: bool = False,
) -> None:  # fmt: skip
    """Emit a layer whose weight is input 1 and whose bias, if it has one, is input 2.

    Args:
        ctx: the node.
        view: the weight as [groups, outputs, inputs, rest].
        source: the axis that is summed over.
        out: channel indices of the outputs, [groups * outputs].
        axis: where they lie in the output.
        scale: factor of the sum.
        bias_scale: factor of the bias.
        padded: see `LinearLayer`.
    """
    target = RemovableAxis("", (axis,), out)
    if ctx.name(2):
        shape = ctx.shape(2)
        if shape and shape[-1] != 1:
            ctx.builder.couple(target, ctx.take_axis(2, len(shape) - 1))
    _emit_layer(ctx, LinearLayer(ctx.node, ctx.name(1), view, source, target, 2, scale, bias_scale, padded))


def _emit_layer(ctx: RuleContext, layer: LinearLayer) -> None:
    """Emit the layer's outputs; a single output is no removable axis."""
    if layer.target.channels.size > 1:
        layer.target = ctx.emit(layer.target.axes, layer.target.channels)
    ctx.builder.flows.append(layer)
