"""dead_neurons on graphs that have one difficulty each: what has to stay."""

import numpy as np
import pytest
from onnx import helper

from tests.channels.dead_channels import check, image, layers, untouched
from tests.helpers.builders import info, model, node, normal

PROTECTED = {
    "graph output": layers(node("Relu", ["h"], ["k"]), outputs=[info("k", ["N", 8])]),
    "softmax over channels": layers(node("Softmax", ["h"], ["k"], axis=-1)),
    "layer norm": layers(
        node("LayerNormalization", ["h", "s"], ["k"]), weights={"s": np.ones(8, np.float32)}
    ),
    "mean over channels": layers(
        node("ReduceMean", ["h"], ["m"], axes=[-1]), node("Sub", ["h", "m"], ["k"])
    ),
    "largest channels": layers(
        node("TopK", ["h", "count"], ["k", "where"]), weights={"count": np.array([8], np.int64)}
    ),
    "running sum": layers(node("CumSum", ["h", "axis"], ["k"]), weights={"axis": np.array(1, np.int64)}),
    "norm over channels": layers(node("LpNormalization", ["h"], ["k"], axis=1)),
    "beside an input": layers(node("Add", ["h", "z"], ["k"]), inputs=[info("z", ["N", 8])]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROTECTED)
def test_protected_channels_stay(name):
    untouched(PROTECTED[name])


@pytest.mark.parametrize(("kind", "domain"), [("Odd", "com.acme"), ("Twice", "local"), ("Trilu", "")])
def test_an_operator_without_a_rule_protects_what_it_touches_and_is_named(kind, domain):
    call = helper.make_node(kind, ["h"], ["k"], name="odd", domain=domain)
    imports = [helper.make_opsetid("", 17)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    functions = []
    if domain == "local":
        body = [helper.make_node("Add", ["v", "v"], ["r"])]
        functions = [helper.make_function("local", "Twice", ["v"], ["r"], body, imports[:1])]
    change = untouched(layers(call, opset_imports=imports, functions=functions))
    assert any(kind in note for note in change.notes), change.notes


def test_a_constant_in_front_of_padding_stays_and_a_note_says_so():
    w = normal(4, 3, 3, 3)
    w[1] = 0
    bias = np.array([1, 0.5, -1, 2], np.float32)
    nodes = [node("Conv", ["x", "w", "c"], ["h"]), node("Conv", ["h", "v"], ["y"], pads=[1, 1, 1, 1])]
    weights = {"w": w, "c": bias, "v": normal(3, 4, 3, 3, seed=1)}
    change = untouched(image(*nodes, weights=weights, outside=4))
    assert any("padding" in note and "Conv_y" in note for note in change.notes), change.notes
    inner = image(nodes[0], node("Conv", ["h", "v"], ["y"]), weights=weights, outside=2)
    check(inner, w=(3, 3, 3, 3), v=(3, 3, 3, 3))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_by_auto_pad(auto):
    w = normal(4, 3, 3, 3)
    w[1] = 0
    nodes = [
        node("Conv", ["x", "w", "c"], ["h"], auto_pad="VALID"),
        node("Conv", ["h", "v"], ["y"], auto_pad=auto, kernel_shape=[3, 3]),
    ]
    weights = {"w": w, "c": np.array([1, 0.5, -1, 2], np.float32), "v": normal(3, 4, 3, 3, seed=1)}
    proto = image(*nodes, weights=weights, outside=2 if auto == "VALID" else 4)
    if auto == "VALID":
        check(proto, w=(3, 3, 3, 3), v=(3, 3, 3, 3))
    else:
        untouched(proto)


def test_a_sum_loses_a_channel_only_where_every_member_does():
    a, b, out = normal(6, 8), normal(6, 8, seed=1), normal(8, 3, seed=2)
    a[:, [1, 4]] = 0
    b[:, [4, 6]] = 0
    nodes = [
        node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["x", "b"], ["g"]),
        node("Add", ["h", "g"], ["s"]), node("MatMul", ["s", "c"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 6])], [info("y", ["N", 3])], {"a": a, "b": b, "c": out})
    check(proto, a=(6, 7), b=(6, 7), c=(7, 3))


def test_a_flattened_channel_stays_while_one_of_its_pixels_is_read():
    w, fc = normal(4, 3, 3, 3), normal(4 * 16, 3, seed=1)
    fc[16:32] = 0
    fc[32:47] = 0
    nodes = [
        node("Conv", ["x", "w"], ["h"]), node("Flatten", ["h"], ["f"]), node("MatMul", ["f", "fc"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 3, 6, 6])], [info("y", ["N", 3])], {"w": w, "fc": fc})
    check(proto, w=(3, 3, 3, 3), fc=(48, 3))


@pytest.mark.parametrize("axis", [0, 2])
def test_a_weight_that_is_flattened_loses_no_axis_by_itself(axis):
    """The scale of a norm over two axes, written out: [8, 6] becomes the 48 numbers that meet those of a sample."""
    scale, out = normal(8, 6), normal(48, 3, seed=1)
    scale[3], out[6:12] = 0, 0
    nodes = [
        node("Flatten", ["x"], ["f"]), node("Flatten", ["scale"], ["s"], axis=axis),
        node("Transpose" if axis else "Identity", ["s"], ["r"]),
        node("Mul", ["f", "r"], ["k"]), node("MatMul", ["k", "b"], ["y"]),
    ]  # fmt: skip
    weights = {"scale": scale, "b": out}
    check(model(nodes, [info("x", ["N", 8, 6])], [info("y", ["N", 3])], weights), scale=(8, 6))


def test_a_channel_of_a_grouped_convolution_goes_only_where_all_groups_lose_it():
    w, v = normal(8, 3, 1, 1), normal(4, 4, 1, 1, seed=1)
    v[:2, 1] = 0  # place 1 of the first group
    v[:, 3] = 0  # place 3 of both
    nodes = [node("Conv", ["x", "w"], ["h"]), node("Conv", ["h", "v"], ["y"], group=2)]
    check(image(*nodes, weights={"w": w, "v": v}, out=4), w=(6, 3, 1, 1), v=(4, 3, 1, 1))


def test_a_depthwise_kernel_of_zeros():
    w, d, v = normal(5, 3, 1, 1), normal(5, 1, 3, 3, seed=1), normal(3, 5, 1, 1, seed=2)
    d[2] = 0
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        node("Conv", ["h", "d", "c"], ["g"], group=5, pads=[1, 1, 1, 1]),
        node("Conv", ["g", "v"], ["y"]),
    ]
    proto = image(*nodes, weights={"w": w, "d": d, "c": normal(5), "v": v})
    after, _ = check(proto, w=(4, 3, 1, 1), d=(4, 1, 3, 3), c=(4,), v=(3, 4, 1, 1))
    conv = next(n for n in after.graph.node if n.name == "Conv_g")
    assert {a.name: a.i for a in conv.attribute}["group"] == 4


def test_a_number_for_each_column_is_none_for_a_channel():
    """A bias of [8] on [N, 8, 6, 8] goes along the last axis; one of [8, 1, 1] along the channels."""
    w, v = normal(8, 3, 1, 1), normal(3, 8, 1, 1, seed=1)
    v[:, 2] = 0
    nodes = [
        node("Conv", ["x", "w"], ["h"]), node("Add", ["h", "wide"], ["g"]), node("Mul", ["g", "deep"], ["k"]),
        node("Conv", ["k", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": w, "v": v, "wide": normal(8), "deep": normal(8, 1, 1)}
    check(image(*nodes, weights=weights, side=8), w=(7, 3, 1, 1), v=(3, 7, 1, 1), wide=(8,), deep=(7, 1, 1))


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1,), (), (1, 1)])
def test_biases_of_gemm(shape):
    a, b, c = normal(6, 8), normal(8, 3, seed=1), np.asarray(normal(*shape) if shape else np.float32(0.7))
    a[:, 3] = 0
    b[4] = 0
    nodes = [
        node("Gemm", ["x", "a", "c"], ["h"], beta=0.5), node("Tanh", ["h"], ["k"]), node("Gemm", ["k", "b"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 6])], [info("y", ["N", 3])], {"a": a, "b": b, "c": c})
    check(proto, a=(6, 6), b=(6, 3), c=tuple(6 if d == 8 else d for d in shape))
