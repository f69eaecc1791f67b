"""Layers on a `graph_builder.Net`, in the forms in which exporters write them."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.helpers.graph_builder import Net, Read, Val

# convolutions -------------------------------------------------------------------------------------------------------


def conv(net: Net, x: Val, out: int, k: int = 1, *, pad: int | None = None, stride: int = 1, group: int = 1,
         bias: bool | None = None, quantised: bool = False) -> Val:  # fmt: skip
    """Conv; depthwise where every channel is its own group (and `out` is the same number)."""
    channels = len(x.units)
    pad = k // 2 if pad is None or x.space[0] + 2 * pad < k else pad
    share = channels // group
    if group == channels > 1:
        units, axes = list(x.units), {0: x.units}
    else:
        units = net.fresh(out)
        net.unite(*(x.units[g * share : (g + 1) * share] for g in range(group)))
        net.unite(*(units[g * out // group : (g + 1) * out // group] for g in range(group)))
        axes = {0: units, 1: x.units[:share]}
    values = net.random(len(units), share, k, k, fan=share * k * k)
    weight = net.const("conv", values, axes)
    operand = quantise(net, weight, units) if quantised else weight
    if 1 in axes:
        net.fed(units, weight, 0)
        net.read(x.units[:share], weight, 1, Read(x.name, hard=pad > 0))
    inputs = [x.name, operand]
    if net.flag() if bias is None else bias:
        inputs.append(net.bias(units))
    name = net.emit("Conv", inputs, group=group, pads=[pad] * 4, strides=[stride] * 2)
    return net.val(name, units, 1, [(s + 2 * pad - k) // stride + 1 for s in x.space])


def quantise(net: Net, weight: str, units) -> str:
    """An int8 weight with a scale (and perhaps a zero point) for each output, behind DequantizeLinear."""
    middle = net.pick(0, 3)
    values = net.weights[weight]
    whole = np.clip(np.round(values * 40), -100, 100) + middle
    net.weights[weight] = np.where(whole == middle, middle + 1, whole).astype(np.int8)
    net.zeros[weight] = middle
    inputs = [weight, net.const("scale", net.rng.uniform(0.01, 0.03, len(units)).astype(np.float32), {0: units})]
    if middle or net.flag():
        inputs.append(net.const("zero", np.full(len(units), middle, np.int8), {0: units}))
    return net.emit("DequantizeLinear", inputs, axis=0)


def deconv(net: Net, x: Val, out: int, k: int = 2) -> Val:
    """ConvTranspose that doubles both sides."""
    units = net.fresh(out)
    pad = (k - 2) // 2
    weight = net.const("deconv", net.random(len(x.units), out, k, k, fan=len(x.units) * k), {0: x.units, 1: units})
    net.fed(units, weight, 1)
    net.read(x.units, weight, 0, Read(x.name, hard=True))
    inputs = [x.name, weight, net.bias(units)] if net.flag() else [x.name, weight]
    name = net.emit("ConvTranspose", inputs, strides=[2, 2], pads=[pad] * 4)
    return net.val(name, units, 1, [2 * s for s in x.space])


def batch_norm(net: Net, x: Val) -> Val:
    scale, shift, mean = (net.random(len(x.units)) for _ in range(3))
    parts = (scale, shift, mean, net.rng.uniform(0.5, 1.5, len(x.units)).astype(np.float32))
    return net.like(x, "BatchNormalization", *(net.const("norm", part, {0: x.units}) for part in parts))


def instance_norm(net: Net, x: Val) -> Val:
    made = net.like(
        x, "InstanceNormalization", *(net.const("in", net.random(len(x.units)), {0: x.units}) for _ in "sb")
    )
    net.unsure |= {x.name, made.name}
    return made


def group_norm(net: Net, x: Val, groups: int) -> Val:
    """Over groups of channels: as an operator (opset 21), or as torch exports it."""
    shape = [net.const("gn", net.random(len(x.units)), {0: x.units}) for _ in "sb"]
    net.protect(x.units)
    if net.opset >= 21:
        made = net.like(x, "GroupNormalization", *shape, num_groups=groups)
        net.told.append(net.declared(made))  # which strict inference cannot tell
        return made
    ones = net.const("ones", np.ones(groups, np.float32)), net.const("ones", np.zeros(groups, np.float32))
    flat = net.emit("Reshape", [x.name, net.ints(0, groups, -1)])
    normed = net.emit("InstanceNormalization", [flat, *ones])
    back = net.emit("Reshape", [normed, target(net, x, len(x.units), *x.space)])
    for kind, name in zip(("Mul", "Add"), shape, strict=True):
        net.weights[name] = net.weights[name].reshape(-1, 1, 1)
        back = net.emit(kind, [back, name])
    return net.val(back, x.units, 1, x.space)


# element by element -------------------------------------------------------------------------------------------------


def act(net: Net, x: Val) -> Val:
    kinds = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSigmoid", "Clip", "PRelu", "silu", "gelu",
             "none"]  # fmt: skip
    kinds += ["HardSwish"] * (net.opset >= 14) + ["Gelu", "Mish"] * (net.opset >= 20)
    kind = net.pick(*kinds)
    if kind == "none":
        return x
    if kind == "Clip":
        return net.like(x, kind, *(net.const("clip", np.float32(b)) for b in (0, 6)))
    if kind == "PRelu":
        tail = [1] * len(x.space) if x.axis == 1 else []
        return net.like(x, kind, net.const("slope", net.random(len(x.units), *tail), {0: x.units}))
    if kind == "silu":
        return net.like(x, "Mul", net.emit("Sigmoid", [x.name]))
    if kind == "gelu":
        return gelu(net, x)
    return net.like(x, kind)


def gelu(net: Net, x: Val) -> Val:
    """As torch exports it: x * (erf(x / sqrt(2)) + 1) * 0.5."""
    two, one, half = (net.const("number", np.float32(n)) for n in (2**0.5, 1, 0.5))
    inner = net.emit("Add", [net.emit("Erf", [net.emit("Div", [x.name, two])]), one])
    return net.val(net.emit("Mul", [net.emit("Mul", [x.name, inner]), half]), x.units, x.axis, x.space)


def layer_norm(net: Net, x: Val) -> Val:
    """Over the channels, which are protected by it."""
    net.protect(x.units)
    scale, shift = (net.const("ln", net.random(len(x.units)), {0: x.units}) for _ in "sb")
    if net.opset >= 17:
        return net.like(x, "LayerNormalization", scale, shift, axis=-1)
    small, two = net.const("number", np.float32(1e-5)), net.const("number", np.float32(2))
    centred = net.emit("Sub", [x.name, net.emit("ReduceMean", [x.name], axes=[-1])])
    variance = net.emit("ReduceMean", [net.emit("Pow", [centred, two])], axes=[-1])
    normed = net.emit("Div", [centred, net.emit("Sqrt", [net.emit("Add", [variance, small])])])
    return net.val(net.emit("Add", [net.emit("Mul", [normed, scale]), shift]), x.units, x.axis, x.space)


def add(net: Net, *terms: Val) -> Val:
    net.unite(*(t.units for t in terms))
    if len(terms) > 2:
        return net.like(terms[0], "Sum", *(t.name for t in terms[1:]))
    return net.like(terms[0], "Add", terms[1].name)


def scale(net: Net, x: Val) -> Val:
    """A number for each channel."""
    shape = [len(x.units), *[1] * len(x.space)] if x.axis == 1 else [len(x.units)]
    return net.like(x, "Mul", net.const("gamma", net.random(*shape), {0: x.units}))


def fake_quantised(net: Net, x: Val) -> Val:
    """QuantizeLinear and DequantizeLinear, with one scale."""
    step, zero = net.const("step", np.float32(0.03)), net.const("middle", np.uint8(128))
    quantised = net.emit("QuantizeLinear", [x.name, step, zero])
    made = net.val(net.emit("DequantizeLinear", [quantised, step, zero]), x.units, x.axis, x.space)
    net.unsure |= {x.name, made.name}
    return made


def nothing(net: Net, x: Val) -> Val:
    """Operators that change no number."""
    kind = net.pick("none", "Identity", "Dropout", "Cast")
    return x if kind == "none" else net.like(x, kind, **({"to": TensorProto.FLOAT} if kind == "Cast" else {}))


# shapes -------------------------------------------------------------------------------------------------------------


def target(net: Net, x: Val, *tail: int) -> str:
    """The shape [batch, *tail] for a Reshape: a constant, or computed from the shape of `x` as torch exports it."""
    if net.flag():
        return net.ints(net.pick(0, -1) if net.batch == "N" else net.pick(0, -1, net.batch), *tail)
    rows = net.emit("Gather", [net.emit("Shape", [x.name]), net.const("shape", np.int64(0))], axis=0)
    parts = [net.axed("Unsqueeze", rows, [0]), *(net.ints(n) for n in tail)]
    return net.emit("Concat", parts, axis=0)


def flatten(net: Net, x: Val) -> Val:
    """[N, C, H, W] -> [N, C * H * W]."""
    size = prod(x.space)
    units = [u for u in x.units for _ in range(size)]
    if net.flag():
        name = net.emit("Flatten", [x.name], axis=1)
    else:
        name = net.emit("Reshape", [x.name, net.ints(0, -1) if net.flag() else target(net, x, len(units))])
    return net.val(name, units)


def to_sequence(net: Net, x: Val) -> Val:
    """[N, C, H, W] -> [N, H * W, C]."""
    size = prod(x.space)
    flat = net.emit("Reshape", [x.name, net.ints(0, 0, -1) if net.flag() else target(net, x, len(x.units), size)])
    return net.val(net.emit("Transpose", [flat], perm=[0, 2, 1]), x.units, 2, [size])


def pooled(net: Net, x: Val) -> Val:
    """[N, C, H, W] -> [N, C, 1, 1]."""
    kind = net.pick("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
    if kind.startswith("Global"):
        name = net.emit(kind, [x.name])
    else:
        name = net.axed(kind, x.name, [2, 3] if net.flag() else [-1, -2], since=18, keepdims=1)
    return net.val(name, x.units, 1, [1] * len(x.space))


def pool(net: Net, x: Val) -> Val:
    """Half of each side."""
    kind = net.pick("MaxPool", "AveragePool", "padded")
    more = {"pads": [1, 1, 0, 0], "count_include_pad": net.pick(0, 1)} if kind == "padded" else {}
    name = net.emit("AveragePool" if more else kind, [x.name], kernel_shape=[2, 2], strides=[2, 2], **more)
    return net.val(name, x.units, 1, [(s + bool(more)) // 2 for s in x.space])


def pad(net: Net, x: Val) -> Val:
    mode = net.pick("constant", "value", "reflect", "edge")
    inputs = [x.name, net.ints(0, 0, 1, 1, 0, 0, 1, 1)]
    if mode == "value":
        inputs.append(net.const("number", np.float32(0.5)))
    name = net.emit("Pad", inputs, mode="constant" if mode == "value" else mode)
    return net.val(name, x.units, 1, [s + 2 for s in x.space])


def resize(net: Net, x: Val) -> Val:
    """Twice each side: by scales, by sizes, or by sizes computed as torch exports them."""
    mode, form = net.pick("nearest", "linear"), net.pick("scales", "sizes", "computed")
    sides = [2 * s for s in x.space]
    scales = sizes = ""
    if form == "scales":
        scales = net.const("scales", np.array([1, 1, 2, 2], np.float32))
    elif form == "sizes" and net.batch != "N":
        sizes = net.ints(net.batch, len(x.units), *sides)
    else:
        bounds = [net.ints(0), net.ints(2), net.ints(0)]
        sizes = net.emit(
            "Concat", [net.emit("Slice", [net.emit("Shape", [x.name]), *bounds]), net.ints(*sides)], axis=0
        )
    inputs = [x.name, "", scales, sizes] if sizes else [x.name, "", scales]
    if net.opset < 13:  # where the region of interest may not be left out
        inputs[1] = net.const("roi", np.zeros(0, np.float32))
        if sizes:
            inputs[2] = net.const("roi", np.zeros(0, np.float32))
    return net.val(net.emit("Resize", inputs, mode=mode), x.units, 1, sides)


def concat(net: Net, *parts: Val) -> Val:
    name = net.emit("Concat", [p.name for p in parts], axis=net.pick(1, -3) if parts[0].space else 1)
    return net.val(name, [u for p in parts for u in p.units], 1, parts[0].space)


def split(net: Net, x: Val, *sizes: int) -> list[Val]:
    """Parts of the channels; the sizes are written down unless they are equal and chance says no."""
    attributes = {"axis": x.axis}
    inputs = [x.name]
    if len(set(sizes)) > 1 or net.flag():
        if net.opset < 13:
            attributes["split"] = list(sizes)
        else:
            inputs.append(net.ints(*sizes))
    elif net.opset >= 18:
        attributes["num_outputs"] = len(sizes)
    names = net.emit("Split", inputs, count=len(sizes), **attributes)
    ends = np.cumsum(sizes)
    return [
        net.val(name, x.units[end - size : end], x.axis, x.space)
        for name, size, end in zip(names, sizes, ends, strict=True)
    ]


def cut(net: Net, x: Val, start: int, stop: int) -> Val:
    """Channels from `start` to before `stop`, counted from the end by chance."""
    count = len(x.units)
    first = start - count if start and net.flag() else start
    last = net.pick(stop, 2**31) if stop == count else net.pick(stop, stop - count)
    name = net.emit("Slice", [x.name, net.ints(first), net.ints(last), net.ints(x.axis)])
    return net.val(name, x.units[start:stop], x.axis, x.space)


def gather(net: Net, x: Val, picks) -> Val:
    """Some of the channels, in any order, perhaps twice."""
    units = [x.units[p] for p in picks]
    index = net.const("index", np.array(picks, np.int64), {0: units})
    return net.val(net.emit("Gather", [x.name, index], axis=x.axis), units, x.axis, x.space)


def shuffle(net: Net, x: Val, groups: int) -> Val:
    """Channel shuffle, by reshape and transpose."""
    share = len(x.units) // groups
    net.unite(*(x.units[g * share : (g + 1) * share] for g in range(groups)))
    wide = net.emit("Reshape", [x.name, target(net, x, groups, share, *x.space)])
    turned = net.emit("Transpose", [wide], perm=[0, 2, 1, 3, 4])
    flat = net.emit("Reshape", [turned, target(net, x, len(x.units), *x.space)])
    return net.val(flat, [x.units[g * share + j] for j in range(share) for g in range(groups)], 1, x.space)


def depth_to_space(net: Net, x: Val) -> Val:
    mode, count = net.pick("DCR", "CRD"), len(x.units) // 4
    blocks = [x.units[k * count : (k + 1) * count] if mode == "DCR" else x.units[k::4] for k in range(4)]
    net.unite(*blocks)
    name = net.emit("DepthToSpace", [x.name], blocksize=2, mode=mode)
    return net.val(name, blocks[0], 1, [2 * s for s in x.space])


# fully connected ----------------------------------------------------------------------------------------------------


def linear(net: Net, x: Val, out: int, form: str = "", bias: bool | None = None) -> Val:
    """Gemm or Einsum (their matrix either way round) or MatMul, with a bias or without."""
    products = ["matmul", *["einsum", "turned einsum"] * (net.opset >= 12)]
    form = form or net.pick(*["gemm", "turned gemm"] * (x.axis == 1), *products)
    bias = net.flag() if bias is None else bias
    units, values = net.fresh(out), net.random(len(x.units), out, fan=len(x.units))
    turned = form.startswith("turned")
    rows, columns = (1, 0) if turned else (0, 1)
    weight = net.const("fc", values.T.copy() if turned else values, {rows: x.units, columns: units})
    net.fed(units, weight, columns)
    net.read(x.units, weight, rows, Read(x.name, soft=form in products and not bias))
    if form in products:
        if form == "matmul":
            name = net.emit("MatMul", [x.name, weight])
        else:
            terms = ["...a", "ba" if turned else "ab"][:: net.pick(1, -1)]
            operands = [x.name, weight][:: 1 if terms[0] == "...a" else -1]
            name = net.emit("Einsum", operands, equation=f"{','.join(terms)}->...b")
        if bias:
            operands = [name, net.bias(units)]
            name = net.emit("Add", operands[:: net.pick(1, -1)])
    else:
        inputs = [x.name, weight, net.bias(units)] if bias else [x.name, weight]
        more = {"alpha": 0.5, "beta": 2.0} if net.draw(st.integers(0, 3)) == 0 else {}
        name = net.emit("Gemm", inputs, transB=int(turned), **more)
    return net.val(name, units, x.axis, x.space)


def squeeze_excite(net: Net, x: Val) -> Val:
    """Each channel times a gate that is computed from the means of all."""
    squeezed = act(net, conv(net, pooled(net, x), 3))
    gate = conv(net, squeezed, len(x.units))
    net.unite(x.units, gate.units)
    return net.like(x, "Mul", net.emit(net.pick("Sigmoid", "HardSigmoid"), [gate.name]))
