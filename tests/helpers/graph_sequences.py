"""Attention and recurrent layers on a `graph_builder.Net`."""

from __future__ import annotations

import numpy as np

from tests.helpers.graph_builder import Net, Read, Val
from tests.helpers.graph_layers import split, target


def _heads(net: Net, x: Val, name: str, heads: int, size: int, perm) -> str:
    """[N, S, heads * size] -> the heads on an axis of their own."""
    wide = net.emit("Reshape", [name, target(net, x, x.space[0], heads, size)])
    return net.emit("Transpose", [wide], perm=perm)


def _matrix(net: Net, x: Val, units, bias: bool, *, read: bool = True) -> tuple[str, str, str]:
    """x @ w + b: (value, weight, bias)."""
    weight = net.const("qkv", net.random(len(x.units), len(units), fan=len(x.units)), {0: x.units, 1: units})
    net.read(x.units, weight, 0, Read(x.name))
    name, shift = net.emit("MatMul", [x.name, weight]), ""
    if bias:
        shift = net.const("bias", net.random(len(units)), {0: units})
        name = net.emit("Add", [name, shift])
    return name, weight, shift


def attention(net: Net, x: Val, heads: int, size: int) -> Val:
    """Self attention over [N, S, D] up to the merged heads; each head is one unit.

    A head is fed by its part of v alone: without it it adds nothing, whatever q and k say.
    """
    units = net.fresh(heads)
    net.states |= set(units)
    wide = [u for u in units for _ in range(size)]
    form, bias = net.pick("apart", "split", "stacked"), net.flag()
    if form == "apart":
        made = [_matrix(net, x, wide, bias) for _ in "qkv"]
        names, fed = [m[0] for m in made], [(made[2][1], made[2][2], 0)]
    else:
        name, weight, shift = _matrix(net, x, wide * 3, bias)
        fed = [(weight, shift, 2 * len(wide))]
        if form == "split":
            names = [p.name for p in split(net, Val(name, wide * 3, 2, x.space), *[len(wide)] * 3)]
            net.values = net.values[:-3]  # nothing to observe: q and k vary
    for weight, shift, start in fed:
        net.feeds += [(u, weight, 1, start + i) for i, u in enumerate(wide)]
        if shift:
            net.biases += [(u, shift, 0, start + i) for i, u in enumerate(wide)]
    if form == "stacked":  # [N, S, 3, heads, size] -> [3, N, heads, S, size], as in vision transformers
        five = net.emit("Reshape", [name, target(net, x, x.space[0], 3, heads, size)])
        turned = net.emit("Transpose", [five], perm=[2, 0, 3, 1, 4])
        q, k, v = (net.emit("Gather", [turned, net.const("shape", np.int64(i))], axis=0) for i in range(3))
        k = net.emit("Transpose", [k], perm=[0, 1, 3, 2])
    else:
        q, k, v = (
            _heads(net, x, n, heads, size, perm)
            for n, perm in zip(names, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
    root = net.const("number", np.float32(size**0.5))
    scores = net.emit("Softmax", [net.emit("Div", [net.emit("MatMul", [q, k]), root])], axis=-1)
    mixed = net.emit("Transpose", [net.emit("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    merged = net.emit("Reshape", [mixed, net.ints(0, 0, -1) if net.flag() else target(net, x, x.space[0], len(wide))])
    return net.val(merged, wide, 2, x.space)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(net: Net, x: Val, hidden: int, *, sequence: bool) -> Val:
    """LSTM, GRU or RNN over [S, N, I] (the batch at axis 1), one way or both.

    Gives all states [S, N, H] or the last [N, H], with the directions side by side. A unit is one place
    in both directions; with nothing that feeds it and no bias it stays at 0.
    """
    kind, both = net.pick("LSTM", "GRU", "RNN"), net.flag()
    gates, ways, units = GATES[kind], 2 if both else 1, net.fresh(hidden)
    net.states |= set(units)
    fan = len(x.units) + hidden
    axes = {1: units * gates}
    w = net.const("w", net.random(ways, gates * hidden, len(x.units), fan=fan), axes | {2: x.units})
    r = net.const("r", net.random(ways, gates * hidden, hidden, fan=fan), axes | {2: units})
    net.read(x.units, w, 2, Read(x.name, soft=True))
    net.read(units, r, 2, Read(""))
    for weight in (w, r):
        net.fed(units * gates, weight, 1)
    inputs = [x.name, w, r, "", "", ""]
    if net.flag():
        inputs[3] = net.const("b", net.random(ways, 2 * gates * hidden), {1: units * 2 * gates})
        net.biased(units * 2 * gates, inputs[3], 1)
    if net.batch != "N" and net.flag():
        zeros = np.zeros((ways, net.batch, hidden), np.float32)
        inputs[5] = net.const("start", zeros, {2: units})
        if kind == "LSTM":
            inputs += [inputs[5]]
    if kind == "LSTM" and net.flag():
        inputs += [""] * (7 - len(inputs))
        inputs.append(net.const("p", net.random(ways, 3 * hidden), {1: units * 3}))
    while not inputs[-1]:
        inputs.pop()
    more = {"linear_before_reset": net.pick(0, 1)} if kind == "GRU" else {}
    if both:
        more["direction"] = "bidirectional"
    all_states, last = net.emit(kind, inputs, count=2, hidden_size=hidden, **more)
    return _states(net, x, all_states if sequence else last, units * ways, ways, sequence=sequence)


def _states(net: Net, x: Val, name: str, units, ways: int, *, sequence: bool) -> Val:
    if ways == 1:
        name = net.axed("Squeeze", name, [1 if sequence else 0])
    elif sequence:  # [S, 2, N, H]
        name = net.emit("Reshape", [net.emit("Transpose", [name], perm=[0, 2, 1, 3]), net.ints(0, 0, -1)])
    else:  # [2, N, H]
        flat = net.ints(-1, len(units)) if net.flag() else net.ints(0, -1)
        name = net.emit("Reshape", [net.emit("Transpose", [name], perm=[1, 0, 2]), flat])
    return net.val(name, units, 2, x.space) if sequence else net.val(name, units)
