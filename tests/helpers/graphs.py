"""Random networks of every family with killed neurons, as hypothesis strategies.

Each draws (model, weight -> the shape that it must have once the dead neurons are gone, for those where it is clear).
`FAMILIES` names them all. With `kills=False` nothing is killed, and a weight's expected shape is short only of what
nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tests.helpers import graph_layers as gl
from tests.helpers.graph_builder import Net, Val
from tests.helpers.graph_sequences import attention, recurrent

OPSETS = (11, 13, 17, 21)
FAMILIES: dict[str, st.SearchStrategy] = {}
Body = Callable[[Net], tuple[Val, ...]]


def begin(draw, least: int = 11) -> Net:
    return Net(draw, draw(st.sampled_from([o for o in OPSETS if o >= least])), draw(st.sampled_from(["N", 2])))


def family(least: int = 11) -> Callable[[Body], Body]:
    """A body as a family: it builds on an empty net and gives the outputs."""

    def enter(body: Body) -> Body:
        @st.composite
        def drawn(draw, kills: bool = True):
            net = begin(draw, least)
            return net.finish(*body(net), kills=kills)

        FAMILIES[body.__name__] = drawn
        return body

    return enter


def block(net: Net, x: Val, out: int, k: int = 3, **kw) -> Val:
    """Conv with batch norm before the activation, after it, or nowhere."""
    y, where = gl.conv(net, x, out, k, **kw), net.pick("before", "after", "nowhere")
    y = gl.act(net, gl.batch_norm(net, y) if where == "before" else y)
    return gl.batch_norm(net, y) if where == "after" else y


def head(net: Net, x: Val) -> tuple[Val, ...]:
    """A classifier on an image: over all its pixels or over their means."""
    if net.flag():
        x = gl.pooled(net, x)
    return (gl.linear(net, gl.nothing(net, gl.flatten(net, x)), 3),)


@family()
def chain(net: Net) -> tuple[Val, ...]:
    x = net.input(3, 8, 8)
    for _ in range(net.pick(1, 2, 3)):
        x = block(net, x, net.pick(3, 5, 8), net.pick(1, 3), pad=net.pick(0, 1))
        if x.space[0] >= 6 and net.flag():
            x = net.pick(gl.pool, gl.pad, gl.scale)(net, x)
    return head(net, gl.nothing(net, x))


@family()
def residual(net: Net) -> tuple[Val, ...]:
    x = block(net, net.input(3, 6, 6), 6)
    for _ in range(net.pick(1, 2)):
        y = gl.conv(net, block(net, x, net.pick(4, 7)), 6, 3)
        if net.flag():
            y = gl.batch_norm(net, y)
        terms = [x if net.flag() else gl.conv(net, x, 6), y]
        if net.flag():
            terms.append(gl.conv(net, x, 6, 3))
        x = gl.act(net, gl.add(net, *terms))
    return head(net, x)


@family()
def dense(net: Net) -> tuple[Val, ...]:
    """DenseNet: everything made before goes on, through a norm of its own."""
    made = [gl.conv(net, net.input(3, 6, 6), 5, 3)]
    for _ in range(net.pick(2, 3)):
        x = gl.act(net, gl.batch_norm(net, gl.concat(net, *made) if len(made) > 1 else made[0]))
        made.append(gl.conv(net, gl.conv(net, x, 4) if net.flag() else x, net.pick(2, 3), 3))
    return head(net, gl.concat(net, *made))


@family()
def inception(net: Net) -> tuple[Val, ...]:
    x = block(net, net.input(3, 8, 8), 5)
    branches = [block(net, x, 3, 1), block(net, block(net, x, 4, 1), 5, 3), block(net, gl.pool(net, x), 4, 1)]
    sides = branches[2].space[0]
    branches[2] = gl.resize(net, branches[2]) if 2 * sides == x.space[0] else branches[0]
    y = gl.concat(net, *branches)
    if net.flag():
        y = gl.concat(net, y, x)
    return head(net, block(net, y, 6, net.pick(1, 3)))


@family()
def separable(net: Net) -> tuple[Val, ...]:
    """MobileNet: expand, depthwise, project, with a sum around it; squeeze-and-excite by chance."""
    x = block(net, net.input(3, 8, 8), 6)
    for _ in range(net.pick(1, 2)):
        y = block(net, x, net.pick(8, 10), 1)
        y = block(net, y, len(y.units), 3, group=len(y.units), pad=net.pick(0, 1, 1))
        if net.flag():
            y = gl.squeeze_excite(net, y)
        y = gl.conv(net, y, 6)
        x = gl.add(net, x, y) if y.space == x.space else y
    return head(net, x)


@family()
def grouped(net: Net) -> tuple[Val, ...]:
    """ShuffleNet: grouped convolutions with a shuffle between, or two halves that are shuffled (v2)."""
    x = block(net, net.input(3, 6, 6), 8, 1)
    for _ in range(net.pick(1, 2)):
        if net.flag():
            y = gl.act(net, gl.conv(net, x, 8, net.pick(1, 3), group=2))
            y = gl.shuffle(net, y, 2)
            y = gl.conv(net, y, 8, 3, group=8) if net.flag() else y
            x = block(net, y, 8, 1, group=net.pick(1, 2))
        else:
            a, b = gl.split(net, x, 4, 4)
            b = block(net, b, 4, 1)
            x = gl.shuffle(net, gl.concat(net, a, block(net, b, 4, 3, group=4)), 2)
    return head(net, x)


@family()
def unet(net: Net) -> tuple[Val, ...]:
    """Encoder and decoder with skips; an image comes out."""
    top = block(net, net.input(3, 8, 8), 5)
    down = block(net, gl.conv(net, top, 6, 2, stride=2, pad=0) if net.flag() else gl.pool(net, top), 6)
    if down.space[0] != 4:  # a pool with borders
        return gl.conv(net, down, 3), gl.conv(net, top, 2)
    skip = net.pick("concat", "add", "none")
    way = net.pick("deconv", "resize", "depth to space")
    if way == "deconv":
        up = gl.deconv(net, down, 5, net.pick(2, 4))
    else:
        up = gl.resize(net, gl.conv(net, down, 5)) if way == "resize" else gl.depth_to_space(net, block(net, down, 20))
    up = gl.act(net, up)
    joined = up if skip == "none" else (gl.concat if skip == "concat" else gl.add)(net, top, up)
    return (gl.conv(net, block(net, joined, 4), 3),)


@family()
def mlp(net: Net) -> tuple[Val, ...]:
    image = net.flag()
    x = net.input(2, 4, 4) if image else net.input(6)
    if image:
        x = gl.flatten(net, gl.act(net, gl.conv(net, x, 4, 3)))
    for _ in range(net.pick(1, 2, 3)):
        x = gl.linear(net, x, net.pick(4, 9))
        if net.draw(st.integers(0, 4)) == 0 and net.opset >= 13:
            x = gl.fake_quantised(net, x)
        x = gl.nothing(net, gl.act(net, gl.batch_norm(net, x) if net.flag() else x))
        if net.flag():
            x = gl.scale(net, x)
    return (gl.linear(net, x, 3),)


@family()
def transformer(net: Net) -> tuple[Val, ...]:
    """A block with its norm in front: attention, then a GELU network, each with a sum around it."""
    width, heads, size = 6, net.pick(2, 3), 4
    if net.flag():
        x = gl.to_sequence(net, gl.conv(net, net.input(3, 4, 4), width, 2, stride=2, pad=0))
    else:
        x = net.input(width, 4, axis=2)
    x = gl.add(net, x, gl.linear(net, attention(net, gl.layer_norm(net, x), heads, size), width))
    hidden = gl.linear(net, gl.layer_norm(net, x), net.pick(7, 12))
    return (gl.add(net, x, gl.linear(net, gl.nothing(net, gl.gelu(net, hidden)), width)),)


@family()
def rnn(net: Net) -> tuple[Val, ...]:
    x = net.input(4, 5, axis=2)
    if net.flag():
        x = gl.act(net, gl.linear(net, x, 6))
    x = net.val(net.emit("Transpose", [x.name], perm=[1, 0, 2]), x.units, 2, x.space)
    if net.flag():
        x = recurrent(net, x, net.pick(3, 5), sequence=True)
    x = recurrent(net, x, net.pick(4, 6), sequence=net.flag())
    if x.axis == 2:
        x = net.val(net.emit("Transpose", [x.name], perm=[1, 0, 2]), x.units, 2, x.space)
    return (gl.linear(net, gl.nothing(net, x), 3),)


@family()
def norms(net: Net) -> tuple[Val, ...]:
    """Norms that look at one channel, and norms that look at several."""
    x = block(net, net.input(3, 4, 4), 6)
    x = gl.instance_norm(net, x) if net.flag() else x
    y = gl.group_norm(net, gl.conv(net, x, 8, 3), 2) if net.flag() else gl.conv(net, x, 8, 3)
    return head(net, block(net, gl.act(net, y), 5))


@family()
def pieces(net: Net) -> tuple[Val, ...]:
    """Channels that are split, cut and picked; what nobody takes is dead."""
    x = block(net, net.input(3, 4, 4), 9)
    a, b, c = gl.split(net, x, 2, 4, 3) if net.flag() else gl.split(net, x, 3, 3, 3)
    d = gl.cut(net, x, *net.pick((0, 5), (2, 9), (3, 6)))
    picks = net.draw(st.lists(st.integers(0, 8), min_size=2, max_size=5))
    # a channel that is picked twice would have two columns; it goes only where nobody reads either
    e = gl.gather(net, x, picks)
    parts = [block(net, p, 4, 1) for p in (gl.concat(net, a, c), b, net.pick(d, e))]
    return head(net, gl.concat(net, *parts))


@family(13)
def quantised(net: Net) -> tuple[Val, ...]:
    """Weights in int8 behind DequantizeLinear, values through pairs of QuantizeLinear and DequantizeLinear."""
    x = net.input(3, 6, 6)
    for _ in range(2):
        x = gl.conv(net, x, net.pick(4, 6), 3, pad=net.pick(0, 1), quantised=net.flag())
        x = gl.act(net, x)
        if net.flag():
            x = gl.fake_quantised(net, x)
    return head(net, x)


@family()
def reshaped(net: Net) -> tuple[Val, ...]:
    """Two Reshapes that read one constant, between layers of the same width."""
    x = net.input(4, 3, 3)
    a, b = (gl.act(net, gl.conv(net, x, 5, net.pick(1, 3))) for _ in "ab")
    together = net.flag()
    shape = net.ints(0, 5 * 9) if net.flag() else net.ints(-1, 5 * 9)
    flat = []
    for y in (a, b):
        units = [u for u in y.units for _ in range(9)]
        flat.append(net.val(net.emit("Reshape", [y.name, shape]), units))
    if together:
        return (gl.linear(net, gl.add(net, *flat), 3),)
    return tuple(gl.linear(net, y, 2) for y in flat)


@family()
def attended(net: Net) -> tuple[Val, ...]:
    """A channel as query and key of spatial attention (non-local block): all of it is summed over."""
    x = block(net, net.input(3, 4, 4), 6)
    query, key, value = gl.conv(net, x, 4), gl.conv(net, x, 4), gl.conv(net, x, 5)
    net.unite(query.units, key.units)
    net.spare |= set(query.units)
    flat = [net.emit("Reshape", [y.name, net.ints(0, 0, -1)]) for y in (query, key, value)]
    scores = net.emit("MatMul", [net.emit("Transpose", [flat[0]], perm=[0, 2, 1]), flat[1]])
    weights = net.emit("Transpose", [net.emit("Softmax", [scores], axis=-1)], perm=[0, 2, 1])
    mixed = net.emit("MatMul", [flat[2], weights])
    shape = gl.target(net, x, 5, *x.space)
    y = net.val(net.emit("Reshape", [mixed, shape]), value.units, 1, x.space)
    net.unsure |= {y.name, value.name}
    return head(net, gl.conv(net, y, 4))
