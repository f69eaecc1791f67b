"""dead_neurons on graphs that have one difficulty each: what may go, what has to stay, what must not get lost."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.model.model import Model
from onnxprune_passes import DeadNeurons
from tests.helpers import graph_checks as checks
from tests.helpers.builders import conv_net, info, mlp, model, node, normal, tensor
from tests.helpers.running import feeds_of, load, serialise

FP16 = TensorProto.FLOAT16


def layers(*between: onnx.NodeProto, out: int = 3, dtype=np.float32, **kw) -> onnx.ModelProto:
    """x [N, 6] @ a [6, 8] -> h, what stands between h and k, k @ b [8, out] -> y; units 2 and 5 are not read."""
    weights = {"a": normal(6, 8), "b": normal(8, out, seed=1)} | kw.pop("weights", {})
    weights["b"][[2, 5]] = 0
    weights = {n: w.astype(dtype) if w.dtype == np.float32 else w for n, w in weights.items()}
    between = between or (node("Relu", ["h"], ["k"]),)
    nodes = [node("MatMul", ["x", "a"], ["h"]), *between, node("MatMul", ["k", "b"], ["y"])]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [info("x", ["N", 6], element), *kw.pop("inputs", [])]
    outputs = [info("y", ["N", out], element), *kw.pop("outputs", [])]
    return model(nodes, inputs, outputs, weights, **kw)


def image(*nodes: onnx.NodeProto, weights, out: int = 3, side: int = 6, outside: int | None = None, **kw):
    """x [N, 3, side, side] -> what the nodes make of it -> y."""
    shape = ["N", out] + [outside or side] * 2
    return model(nodes, [info("x", ["N", 3, side, side])], [info("y", shape)], weights, **kw)


def check(proto: onnx.ModelProto, tolerance: float = 1e-5, **expected):
    """Strip, hold everything against it, and the shapes of some weights."""
    after, change = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after, tolerance)
    checks.assert_valid(after)
    checks.assert_names_kept(proto, after)
    found = checks.shapes(after)
    assert {name: found.get(name) for name in expected} == expected
    again, second = checks.stripped(after, DeadNeurons())
    assert not second.modified
    assert again == after
    return after, change


def untouched(proto: onnx.ModelProto):
    opened = load(proto)
    change = DeadNeurons().run(opened)
    assert not change.modified
    assert not change.removed
    assert serialise(opened) == serialise(load(proto))
    return change


def test_the_record_names_what_went():
    _, change = check(layers(), a=(6, 6), b=(6, 3))
    assert [(r.name, r.axis, r.before, r.after, list(r.indices)) for r in change.removed] == [
        ("a", 1, 8, 6, [2, 5]),
        ("b", 0, 8, 6, [2, 5]),
    ]
    assert change.modified


def test_a_damaged_matrix_of_one_axis_is_left_alone():
    proto = mlp((16, 40, 10))
    weight = next(t for t in proto.graph.initializer if t.name == "fc0.weight")
    del weight.dims[:]
    weight.dims.append(640)
    assert not DeadNeurons().run(load(proto)).removed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_element_types(dtype):
    check(layers(dtype=dtype), 1e-2 if dtype == np.float16 else 1e-5, a=(6, 6), b=(6, 3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_constant_goes_into_a_bias_that_was_not_there(dtype):
    proto = layers(node("Sigmoid", ["h"], ["k"]), dtype=dtype)
    a, b = (next(t for t in proto.graph.initializer if t.name == n) for n in "ab")
    zeroed = normal(6, 8)
    zeroed[:, 1] = 0
    a.CopyFrom(tensor("a", zeroed.astype(dtype)))
    b.CopyFrom(tensor("b", normal(8, 3, seed=1).astype(dtype)))
    check(proto, 1e-2 if dtype == np.float16 else 1e-5, a=(6, 7), b=(7, 3))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_layer_that_is_dead_altogether_keeps_a_channel(axis):
    proto = layers(node("Softplus", ["h"], ["k"]))
    name, shape = ("ab"[axis], (6, 8) if axis == 0 else (8, 3))
    next(t for t in proto.graph.initializer if t.name == name).CopyFrom(tensor(name, np.zeros(shape, np.float32)))
    after, _ = check(proto)
    assert all(min(shape) >= 1 for shape in checks.shapes(after).values())
    assert checks.shapes(after)["a"][1] == 1


def test_it_goes_on_until_nothing_is_dead():
    """Only dead units read unit 1 of the first layer; only it reads ..."""
    proto = mlp((4, 5, 5, 5, 3))
    held = {t.name: t for t in proto.graph.initializer}
    w1, w2, w3 = (onnx.numpy_helper.to_array(held[f"fc{i}.weight"]).copy() for i in (1, 2, 3))
    w3[:, 4] = 0
    w2[:4, 3] = 0
    w1[[0, 1, 2, 4], 1] = 0
    for name, array in (("fc1.weight", w1), ("fc2.weight", w2), ("fc3.weight", w3)):
        held[name].CopyFrom(tensor(name, array))
    check(proto, **{"fc0.weight": (4, 4), "fc1.weight": (4, 4), "fc2.weight": (4, 4), "fc3.weight": (3, 4)})


# what has to stay ---------------------------------------------------------------------------------------------------

SMOOTH = np.array([0.5, -0.5], np.float32)
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


# where weights live -------------------------------------------------------------------------------------------------


def test_a_weight_of_two_layers_loses_what_is_dead_in_both():
    b, c = normal(8, 3, seed=1), normal(8, 3, seed=2)
    b[[1, 4]] = 0
    c[[4, 6]] = 0
    nodes = [node("MatMul", [x, "a"], [f"{x}h"]) for x in "xz"]
    nodes += [node("MatMul", ["xh", "b"], ["y"]), node("MatMul", ["zh", "c"], ["v"])]
    inputs, outputs = ([info(n, ["N", d]) for n in names] for names, d in (("xz", 6), ("yv", 3)))
    proto = model(nodes, inputs, outputs, {"a": normal(6, 8), "b": b, "c": c})
    check(proto, a=(6, 7), b=(7, 3), c=(7, 3))


def test_an_initializer_that_a_caller_may_override_stays():
    proto = layers()
    proto.graph.input.append(info("b", [8, 3]))
    untouched(proto)


def test_ir_3_lists_its_initializers_as_inputs():
    proto = layers(opset=8, ir_version=3)
    after, _ = check(proto, a=(6, 6), b=(6, 3))
    assert [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in after.graph.input[1:]] == [[6, 6], [6, 3]]


def test_weights_of_constant_nodes():
    proto = layers()
    for tensor_ in list(proto.graph.initializer):
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor_.name], name=tensor_.name, value=tensor_))
    del proto.graph.initializer[:]
    after, _ = check(proto)
    found = {n.name: tuple(n.attribute[0].t.dims) for n in after.graph.node if n.op_type == "Constant"}
    assert found == {"a": (6, 6), "b": (6, 3)}


def branch(name: str, dead: int) -> onnx.GraphProto:
    weights = {"a": normal(6, 8), "b": normal(8, 3, seed=1)}
    weights["b"][:dead] = 0
    nodes = [
        node("MatMul", ["x", "a"], [f"{name}h"]), node("Relu", [f"{name}h"], [f"{name}k"]),
        node("MatMul", [f"{name}k", "b"], [f"{name}y"]),
    ]  # fmt: skip
    return helper.make_graph(nodes, name, [], [info(f"{name}y", ["N", 3])], [tensor(n, w) for n, w in weights.items()])


def test_each_branch_is_a_graph_of_its_own():
    nodes = [helper.make_node("If", ["c"], ["y"], name="If", then_branch=branch("t", 2), else_branch=branch("e", 3))]
    inputs = [info("x", ["N", 6]), info("c", [], TensorProto.BOOL)]
    proto = model(nodes, inputs, [info("y", ["N", 3])])
    after, change = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after)
    checks.assert_valid(after)
    found = {}
    for attribute in after.graph.node[0].attribute:
        found[attribute.name] = {t.name: tuple(t.dims) for t in attribute.g.initializer}
    assert found == {"then_branch": {"a": (6, 6), "b": (6, 3)}, "else_branch": {"a": (6, 5), "b": (5, 3)}}
    assert {r.name for r in change.removed} == {f"If.{b}_branch/{w}" for b in ("then", "else") for w in "ab"}


def test_what_a_branch_captures_stays():
    """Both a value and a weight."""
    then = helper.make_graph([node("MatMul", ["k", "b"], ["t"])], "then", [], [info("t", ["N", 3])])
    other = helper.make_graph([node("ReduceMean", ["k"], ["m"], axes=[1]), node("Add", ["m", "shift"], ["e"])], "else",
                              [], [info("e", ["N", 3])])  # fmt: skip
    weights = {"a": normal(6, 8), "b": normal(8, 3, seed=1), "shift": normal(3)}
    weights["b"][[2, 5]] = 0
    nodes = [
        node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["k"]),
        helper.make_node("If", ["c"], ["y"], name="If", then_branch=then, else_branch=other),
    ]  # fmt: skip
    inputs = [info("x", ["N", 6]), info("c", [], TensorProto.BOOL)]
    untouched(model(nodes, inputs, [info("y", ["N", 3])], weights))


def test_external_data(tmp_path: Path):
    proto = layers()
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(layers(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    opened = Model.load(path)
    change = DeadNeurons().run(opened)
    opened.save(out)
    assert change.modified
    after = onnx.load(out)
    assert checks.shapes(after) == {"a": (6, 6), "b": (6, 3)}
    checks.assert_equal_outputs(proto, after)


def test_nothing_else_is_lost():
    facts = {"producer_name": "someone", "producer_version": "1.2", "domain": "org", "model_version": 7}
    proto = layers(doc_string="what it is", **facts)
    proto.metadata_props.add(key="licence", value="MIT")
    graph = proto.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="k", value="v")
    graph.node[0].doc_string = "a node"
    graph.node[0].metadata_props.add(key="from", value="there")
    graph.initializer[0].doc_string = "a weight"
    graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    graph.value_info.append(info("h", ["N", 8]))
    graph.value_info[0].doc_string = "a value"
    body = [helper.make_node("Add", ["v", "v"], ["r"])]
    proto.functions.append(helper.make_function("local", "Twice", ["v"], ["r"], body, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    opened = load(proto)
    assert DeadNeurons().run(opened).modified
    after = onnx.load_from_string(serialise(opened))
    for held in (proto, after):  # all that may differ: numbers, and sizes
        for entry in held.graph.initializer:
            for name in ("raw_data", "dims"):
                entry.ClearField(name)
        held.graph.value_info[0].type.tensor_type.shape.dim[1].Clear()
    assert after == proto


# unread inputs, recurrent layers ------------------------------------------------------------------------------------


def test_inputs_that_a_large_layer_never_reads_are_gathered_away():
    proto = mlp((784, 300, 10))
    held = {t.name: t for t in proto.graph.initializer}
    weight = onnx.numpy_helper.to_array(held["fc0.weight"]).copy()
    weight[:, 100:500] = 0
    weight[:, 770] = 0
    held["fc0.weight"].CopyFrom(tensor("fc0.weight", weight))
    after, change = check(proto, **{"fc0.weight": (300, 383), "fc1.weight": (10, 300)})
    assert [n.op_type for n in after.graph.node].count("Gather") == 1
    assert [(r.name, r.axis, r.before, r.after) for r in change.removed] == [("fc0.weight", 1, 784, 383)]


def test_a_small_layer_reads_all_its_inputs():
    proto = mlp((6, 5, 3))
    held = {t.name: t for t in proto.graph.initializer}
    weight = onnx.numpy_helper.to_array(held["fc0.weight"]).copy()
    weight[:, 2] = 0
    held["fc0.weight"].CopyFrom(tensor("fc0.weight", weight))
    untouched(proto)


@pytest.mark.parametrize("ways", ["one", "both"])
def test_a_unit_of_a_recurrent_layer_goes_in_both_directions_or_not_at_all(ways):
    w, r, fc = normal(2, 20, 4), normal(2, 20, 5, seed=1), normal(10, 3, seed=2)
    for way in range(2 if ways == "both" else 1):
        r[way, :, 3] = 0
        fc[5 * way + 3] = 0
    nodes = [
        node("LSTM", ["x", "w", "r"], ["all", "last"], hidden_size=5, direction="bidirectional"),
        node("Transpose", ["last"], ["t"], perm=[1, 0, 2]),
        node("Reshape", ["t", "shape"], ["f"]),
        node("MatMul", ["f", "fc"], ["y"]),
    ]
    weights = {"w": w, "r": r, "fc": fc, "shape": np.array([-1, 10], np.int64)}
    proto = model(nodes, [info("x", [7, "N", 4])], [info("y", ["N", 3])], weights)
    if ways == "one":
        untouched(proto)
    else:
        check(proto, w=(2, 16, 4), r=(2, 16, 4), fc=(8, 3))


def test_convolutions_of_one_and_three_dimensions():
    for rank in (1, 3):
        w, v = normal(5, 3, *[3] * rank), normal(2, 5, *[3] * rank, seed=1)
        w[1] = 0
        v[:, 3] = 0
        nodes = [node("Conv", ["x", "w"], ["h"], pads=[1] * 2 * rank), node("Conv", ["h", "v"], ["y"])]
        inputs, outputs = [info("x", ["N", 3, *[5] * rank])], [info("y", ["N", 2, *[3] * rank])]
        check(model(nodes, inputs, outputs, {"w": w, "v": v}), w=(3, 3, *[3] * rank), v=(2, 3, *[3] * rank))


def test_a_model_without_dead_neurons():
    for proto in (conv_net(), mlp()):
        assert feeds_of(proto)
        untouched(proto)


@pytest.mark.parametrize("kind", ["Add", "Sub"])
@pytest.mark.parametrize("last", [False, True])
def test_a_branch_that_adds_nothing_goes_with_the_sum(kind, last):
    """h + conv(relu(conv(h))) whose last convolution is zero; not where the sum itself is an output."""
    weights = {"a": normal(8, 3, 1, 1), "b": normal(8, 8, 3, 3, seed=1), "c": np.zeros((8, 8, 3, 3), np.float32)}
    nodes = [
        node("Conv", ["x", "a"], ["h"]),
        node("Conv", ["h", "b"], ["i"], pads=[1, 1, 1, 1]),
        node("Relu", ["i"], ["j"]),
        node("Conv", ["j", "c"], ["k"], pads=[1, 1, 1, 1]),
        node(kind, ["h", "k"], ["y" if last else "s"]),
        *([] if last else [node("Relu", ["s"], ["y"])]),
    ]
    proto = model(nodes, [info("x", ["N", 3, 4, 4])], [info("y", ["N", 8, 4, 4])], weights)
    after, change = checks.stripped(proto, DeadNeurons())
    assert {"b", "c"}.isdisjoint(checks.shapes(after)) != last
    assert any("adds nothing" in n or "added nothing" in n for n in change.notes) != last
    checks.assert_equal_outputs(proto, after)
    again, second = checks.stripped(after, DeadNeurons())
    assert not second.modified
    assert again.SerializeToString() == after.SerializeToString()


@pytest.mark.parametrize(("multiple", "kept"), [(1, 5), (2, 6), (4, 8), (8, 8), (3, 6), (16, 8)])
def test_dead_channels_stay_up_to_a_multiple(multiple, kept):
    proto = layers()
    read = np.where(np.arange(8)[:, None] < 5, normal(8, 3), 0)
    proto.graph.initializer[1].CopyFrom(tensor("b", read.astype(np.float32)))
    after, _ = checks.stripped(proto, DeadNeurons(multiple=multiple))
    assert checks.shapes(after) == {"a": (6, kept), "b": (kept, 3)}
    checks.assert_equal_outputs(proto, after)
    assert not checks.stripped(after, DeadNeurons(multiple=multiple))[1].modified


def test_what_both_passes_remark_is_said_once(tmp_path):
    unknown = node("Einsum", ["h"], ["k"], equation="ij->ij")
    (tmp_path / "m.onnx").write_bytes(layers(unknown).SerializeToString())
    notes = onnxprune.strip(tmp_path / "m.onnx", tmp_path / "o.onnx", channels=0.5).notes
    assert sum("Einsum" in note for note in notes) == 1
    assert len(set(notes)) == len(notes)
