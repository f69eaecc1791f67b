"""dead_neurons where tensors have several readers, or where constants meet odd operators: equal outputs above all."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune_passes import DeadNeurons
from tests.helpers import graph_checks as checks
from tests.helpers.builders import info, model, node, normal, tensor


def two(*extra, bias=None, outputs=(), kill=(1,), **weights):
    """Two towers on one input: x @ a + p -> Sigmoid -> @ b + s -> y, and x @ c + q -> Sigmoid -> @ d + t -> z.

    `kill`: units of both towers whose inputs are zero, so that they emit sigmoid(bias).
    """
    held = {"a": normal(4, 6), "c": normal(4, 6, seed=1), "b": normal(6, 3, seed=2), "d": normal(6, 3, seed=3),
            "p": normal(6, seed=4), "q": normal(6, seed=5), "s": normal(3, seed=6), "t": normal(3, seed=7)}  # fmt: skip
    for name in "ac":
        held[name][:, list(kill)] = 0
    held |= weights
    names = {n: n for n in held} | (bias or {})
    nodes = [*extra]
    for x, shift, out, last, y in (("a", "p", "b", "s", "y"), ("c", "q", "d", "t", "z")):
        nodes += [
            node("Gemm", ["x", names[x], names[shift]], [f"{y}h"]), node("Sigmoid", [f"{y}h"], [f"{y}k"]),
            node("Gemm", [f"{y}k", names[out], names[last]], [y]),
        ]  # fmt: skip
    used = {n for one in nodes for n in one.input} | set(outputs)
    held = {n: w for n, w in held.items() if n in used}
    outs = [info("y", ["N", 3]), info("z", ["N", 3]), *(info(n, list(held[n].shape)) for n in outputs)]
    return model(nodes, [info("x", ["N", 4])], outs, held)


def same(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Strip, compare, and give the shapes that are left."""
    after, _ = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after)
    checks.assert_valid(after)
    checks.assert_names_kept(proto, after)
    assert not checks.stripped(after, DeadNeurons())[1].modified
    return checks.shapes(after)


def test_both_towers_lose_their_unit():
    found = same(two())
    assert {n: found[n] for n in "abcdpq"} == {
        "a": (4, 5), "c": (4, 5), "b": (5, 3), "d": (5, 3), "p": (5,), "q": (5,),
    }  # fmt: skip


def test_a_bias_of_two_layers_takes_up_what_neither_of_the_others_emits():
    same(two(bias={"t": "s"}))


def test_a_bias_that_is_an_output_stays_as_it_is():
    assert same(two(outputs=["s"]))["s"] == (3,)


def test_a_bias_that_a_caller_may_override():
    proto = two()
    proto.graph.input.append(info("s", [3]))
    same(proto)


def test_a_bias_that_is_computed():
    extra = node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT)
    same(two(extra, bias={"s": "wide"}, half=normal(3).astype(np.float16)))


def test_a_bias_of_two_layers_in_front_of_dead_units():
    found = same(two(bias={"q": "p"}))
    assert found["p"] == (5,)


def test_a_bias_of_two_layers_of_which_one_lost_a_unit():
    proto = two(bias={"q": "p"})
    held = {t.name: t for t in proto.graph.initializer}
    held["c"].CopyFrom(tensor("c", normal(4, 6, seed=1)))
    same(proto)


def test_the_second_layer_is_one_for_both_towers():
    """Each tower's constant has another value, and there is one bias for both, or one for each."""
    same(two(bias={"d": "b"}))
    same(two(bias={"d": "b", "t": "s"}))


def test_a_weight_that_is_an_output_stays():
    assert same(two(outputs=["b"]))["b"] == (6, 3)


@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_and_its_transpose(turned):
    """Tied weights of an autoencoder: units are columns here and rows there."""
    a = normal(5, 8)
    a[:, [2, 6]] = 0
    back = ["a"] if turned else ["at"]
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["k"])]
    nodes += [node("Gemm", ["k", *back], ["y"], transB=1)] if turned else [
        node("Transpose", ["a"], ["at"], perm=[1, 0]), node("MatMul", ["k", "at"], ["y"])
    ]  # fmt: skip
    found = same(model(nodes, [info("x", ["N", 5])], [info("y", ["N", 5])], {"a": a}))
    assert found["a"] == (5, 6)


def image(*between, out=("v", 6), side=6, **weights):
    """Conv -> h [N, 6, side, side], channel 1 emits 0.5 and channel 3 is not read, ... -> k -> 1x1 Conv -> means."""
    w, v = normal(6, 3, 3, 3), normal(4, out[1], 1, 1, seed=1)
    w[1] = 0
    if out[1] == 6:
        v[:, 3] = 0
    shift = np.array([1, 0.5, -1, 2, 0.2, -0.3], np.float32)
    nodes = [
        node("Conv", ["x", "w", "c"], ["h"], pads=[1, 1, 1, 1]), *between, node("Conv", ["k", "v"], ["m"]),
        node("GlobalMaxPool", ["m"], ["p"]), node("Flatten", ["p"], ["y"]),
    ]  # fmt: skip
    weights = {"w": w, "c": shift, "v": v} | weights
    return model(nodes, [info("x", ["N", 3, side, side])], [info("y", ["N", 4])], weights)


ODD = {
    "ceil": (node("AveragePool", ["h"], ["k"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),),
    "ceil and pad": (
        node("AveragePool", ["h"], ["k"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1,
             count_include_pad=1),
    ),
    "largest of padded": (node("MaxPool", ["h"], ["k"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),),
    "norm of window": (node("LpPool", ["h"], ["k"], kernel_shape=[2, 2]),),
    "norm of all": (node("GlobalLpPool", ["h"], ["k"]),),
    "sum of all": (node("ReduceSum", ["h", "axes"], ["k"], keepdims=1),),
    "squares": (node("ReduceSumSquare", ["h"], ["k"], axes=[2, 3]),),
    "log of sum": (node("ReduceLogSumExp", ["h"], ["k"], axes=[2, 3]),),
    "product": (node("ReduceProd", ["h"], ["k"], axes=[2, 3]),),
    "doubled height": (node("Concat", ["h", "h"], ["k"], axis=2),),
    "over itself": (node("Abs", ["h"], ["n"]), node("Add", ["n", "one"], ["o"]), node("Div", ["h", "o"], ["k"])),
    "power": (node("Abs", ["h"], ["n"]), node("Pow", ["n", "two"], ["k"])),
    "number to a power": (node("Pow", ["two", "h"], ["k"]),),
    "where": (node("Greater", ["h", "zero"], ["b"]), node("Where", ["b", "h", "one"], ["k"])),
    "largest": (node("Max", ["h", "zero", "deep"], ["k"]),),
    "mean of two": (node("Relu", ["h"], ["r"]), node("Mean", ["h", "r"], ["k"])),
    "tiled": (node("Tile", ["h", "times"], ["k"]),),
    "expanded": (node("GlobalAveragePool", ["h"], ["g"]), node("Expand", ["g", "shape"], ["k"])),
    "beside its mean": (node("ReduceMean", ["h"], ["g"], axes=[1]), node("Sub", ["h", "g"], ["k"])),
    "times its mean": (node("GlobalAveragePool", ["h"], ["g"]), node("Mul", ["h", "g"], ["k"])),
    "local response": (node("LRN", ["h"], ["k"], size=3),),
    "padded by a number": (node("Pad", ["h", "pads", "one"], ["k"]),),
    "padded by itself": (node("Pad", ["h", "pads"], ["k"], mode="edge"),),
    "padded by the same number": (node("Pad", ["h", "pads", "half"], ["k"]),),
    "instance norm": (node("InstanceNormalization", ["h", "deeper", "deeper"], ["k"]),),
    "softmax over width": (node("Softmax", ["h"], ["k"], axis=3),),
    "sum over width": (node("CumSum", ["h", "three"], ["k"]),),
    "lp norm": (node("LpNormalization", ["h"], ["k"], axis=2),),
    "casts": (node("Cast", ["h"], ["n"], to=TensorProto.FLOAT16), node("Cast", ["n"], ["k"], to=TensorProto.FLOAT)),
    "turned twice": (
        node("Transpose", ["h"], ["n"], perm=[0, 2, 3, 1]), node("Mul", ["n", "deeper"], ["o"]),
        node("Transpose", ["o"], ["k"], perm=[0, 3, 1, 2]),
    ),
    "stacked": (
        node("Unsqueeze", ["h", "one_axis"], ["n"]), node("Concat", ["n", "n"], ["o"], axis=1),
        node("ReduceMean", ["o"], ["k"], axes=[1], keepdims=0),
    ),
    "cubic": (node("Resize", ["h", "", "scales"], ["k"], mode="cubic"),),
    "cropped": (node("Slice", ["h", "starts", "ends", "axes"], ["k"]),),
    "every second": (node("Slice", ["h", "starts", "ends", "axes", "steps"], ["k"]),),
    "shape of it": (
        node("Shape", ["h"], ["n"]), node("ConstantOfShape", ["n"], ["o"]), node("Add", ["h", "o"], ["k"]),
    ),
    "channels counted": (
        node("Shape", ["h"], ["n"]), node("Gather", ["n", "one_index"], ["o"]),
        node("Cast", ["o"], ["number"], to=TensorProto.FLOAT), node("Div", ["h", "number"], ["k"]),
    ),
    "dropout with its mask": (node("Dropout", ["h"], ["k", "mask"]),),
}  # fmt: skip
NUMBERS = {
    "one": np.float32(1), "two": np.float32(2), "zero": np.float32(0), "half": np.float32(0.5), "three": np.int64(3),
    "axes": np.array([2, 3]), "starts": np.array([1, 0]), "ends": np.array([5, 6]), "steps": np.array([2, 2]),
    "times": np.array([1, 1, 2, 1]), "shape": np.array([1, 6, 4, 4]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "deep": normal(6, 1, 1, seed=8), "deeper": normal(6, seed=9), "one_axis": np.array([1]), "one_index": np.int64(1),
    "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_constants_and_dead_channels_through(name):
    nodes = ODD[name]
    used = {n for one in nodes for n in one.input}
    weights = {n: np.asarray(v) for n, v in NUMBERS.items() if n in used}
    same(image(*nodes, **weights))


@pytest.mark.parametrize("steps", [(0, 6, 2), (5, -7, -1), (1, 6, 3)])
def test_channels_in_steps(steps):
    start, stop, step = (np.array([n]) for n in steps)
    count = len(range(6)[steps[0] : None if steps[1] < 0 else steps[1] : steps[2]])
    cut = node("Slice", ["h", "start", "stop", "axis", "step"], ["k"])
    same(image(cut, out=("v", count), start=start, stop=stop, axis=np.array([1]), step=step))


def test_the_weight_on_the_left():
    """a [8, 5] @ x [5, 7]: units are rows."""
    a, b = normal(8, 5), normal(3, 8, seed=1)
    a[2] = 0
    b[:, 4] = 0
    nodes = [
        node("MatMul", ["a", "x"], ["h"]), node("Add", ["h", "c"], ["i"]), node("Tanh", ["i"], ["k"]),
        node("MatMul", ["b", "k"], ["j"]), node("Add", ["j", "d"], ["y"]),
    ]  # fmt: skip
    weights = {"a": a, "b": b, "c": normal(8, 1), "d": normal(3, 1, seed=2)}
    found = same(model(nodes, [info("x", [5, 7])], [info("y", [3, 7])], weights))
    assert found["a"][0] <= 7
    assert found["b"][1] == found["a"][0]


def test_the_body_of_a_loop():
    """A hidden unit of the body is dead; its state is not its own to change."""
    a, b = normal(4, 6), normal(6, 4, seed=1)
    b[[1, 4]] = 0
    nodes = [
        node("MatMul", ["state", "a"], ["h"]), node("Relu", ["h"], ["k"]), node("MatMul", ["k", "b"], ["next"]),
        node("Identity", ["keep"], ["again"]),
    ]  # fmt: skip
    inputs = [info("i", [], TensorProto.INT64), info("keep", [], TensorProto.BOOL), info("state", ["N", 4])]
    outputs = [info("again", [], TensorProto.BOOL), info("next", ["N", 4])]
    body = helper.make_graph(nodes, "body", inputs, outputs, [tensor("a", a), tensor("b", b)])
    loop = helper.make_node("Loop", ["times", "go", "x"], ["y"], name="loop", body=body)
    weights = {"times": np.array(2, np.int64), "go": np.array(True)}
    proto = model([loop], [info("x", ["N", 4])], [info("y", ["N", 4])], weights)
    after, _ = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after)
    found = next(a.g for a in after.graph.node[0].attribute if a.name == "body")
    assert {t.name: tuple(t.dims) for t in found.initializer} == {"a": (4, 4), "b": (4, 4)}


@pytest.mark.parametrize("dead", ["out", "v"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_head_goes_as_a_whole(dead, shared):
    """One that nothing reads, or whose values are all zero; the Reshapes have one constant, or one each."""
    weights = {n: normal(6, 12, seed=i) for i, n in enumerate("qkv")} | {"o": normal(12, 6, seed=3)}
    if dead == "v":
        weights["v"][:, 4:8] = 0
    else:
        weights["o"][4:8] = 0
    weights["flat"] = np.array([0, 5, 12])
    nodes = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        shape = "wide" if shared else f"wide_{name}"
        weights[shape] = np.array([0, 5, 3, 4])
        nodes += [
            node("MatMul", ["x", name], [f"{name}m"]), node("Reshape", [f"{name}m", shape], [f"{name}r"]),
            node("Transpose", [f"{name}r"], [f"{name}t"], perm=perm),
        ]  # fmt: skip
    nodes += [
        node("MatMul", ["qt", "kt"], ["a"]), node("Softmax", ["a"], ["s"], axis=-1), node("MatMul", ["s", "vt"], ["c"]),
        node("Transpose", ["c"], ["e"], perm=[0, 2, 1, 3]), node("Reshape", ["e", "flat"], ["f"]),
        node("MatMul", ["f", "o"], ["y"]),
    ]  # fmt: skip
    found = same(model(nodes, [info("x", ["N", 5, 6])], [info("y", ["N", 5, 6])], weights))
    assert {n: found[n] for n in "qkvo"} == {"q": (6, 8), "k": (6, 8), "v": (6, 8), "o": (8, 6)}


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_a_hidden_unit_that_stays_zero_goes_though_others_read_it(kind, gates):
    w, r = normal(1, gates * 5, 4), normal(1, gates * 5, 5, seed=1)
    for weight in (w, r):
        weight.reshape(gates, 5, -1)[:, 2] = 0
    nodes = [
        node(kind, ["x", "w", "r"], ["all", "last"], hidden_size=5), node("Squeeze", ["last", "axis"], ["k"]),
        node("MatMul", ["k", "f"], ["y"]),
    ]  # fmt: skip
    weights = {"w": w, "r": r, "f": normal(5, 3), "axis": np.array([0])}
    found = same(model(nodes, [info("x", [6, "N", 4])], [info("y", ["N", 3])], weights))
    assert (found["w"], found["r"], found["f"]) == ((1, gates * 4, 4), (1, gates * 4, 4), (4, 3))


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("opset", [11, 13])
def test_a_shape_that_is_computed_as_torch_does(opset, batch):
    w, f = normal(5, 3, 1, 1), normal(80, 3)
    w[1] = 0
    f[48:64] = 0
    weights = {"w": w, "f": f, "first": np.array(0), "size": np.array([80])}
    if opset >= 13:
        weights["axes"] = np.array([0])
    unsqueeze = node("Unsqueeze", ["g", "axes"], ["u"]) if opset >= 13 else node("Unsqueeze", ["g"], ["u"], axes=[0])
    nodes = [
        node("Conv", ["x", "w"], ["h"]), node("Shape", ["h"], ["s"]), node("Gather", ["s", "first"], ["g"]), unsqueeze,
        node("Concat", ["u", "size"], ["t"], axis=0), node("Reshape", ["h", "t"], ["k"]),
        node("MatMul", ["k", "f"], ["y"]),
    ]  # fmt: skip
    found = same(model(nodes, [info("x", [batch, 3, 4, 4])], [info("y", [batch, 3])], weights, opset))
    assert (found["w"], found["f"]) == ((3, 3, 1, 1), (48, 3))
