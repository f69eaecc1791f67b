"""Models as other tools write them: unnamed nodes, attributes that a function takes from its caller, one name twice."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.model.discovery import find
from onnxprune.model.scopes import scopes_of
from onnxprune.pruning.scores import magnitudes
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load


def by_reference(kind, inputs, attribute, code, source):
    made = node(kind, inputs, ["o"])
    made.attribute.add(name=attribute, type=code, ref_attr_name=source)
    return made


def called(body, given, held, attributes=("a",), defaults=()):
    """A model that calls one function of the domain f on x and the held tensors."""
    call = helper.make_node("f", ["x", *held], ["y"], domain="f", **given)
    proto = model([call], [info("x", [2, 32])], [info("y", None)], held)
    names = ["x", *held]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("f", "f", names, ["o"], body, opsets, attributes, defaults))
    proto.opset_import.append(helper.make_opsetid("f", 1))
    return proto


@pytest.mark.parametrize("default", [False, True])
def test_a_function_takes_transposition_from_its_caller(tmp_path, default):
    body = [by_reference("Gemm", ["x", "w"], "transB", onnx.AttributeProto.INT, "a")]
    how = {"defaults": [helper.make_attribute("a", 1)], "attributes": ()} if default else {}
    proto = called(body, {} if default else {"a": 1}, {"w": normal(64, 32)}, **how)
    [weight] = find(load(proto))
    assert (weight.out_axis, weight.in_axes) == (0, (1,))
    onnx.save(proto, tmp_path / "m.onnx")
    result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "c.onnx", pattern="2:4", values="exact")
    assert result.weights[0].zeros == 1024


def test_a_function_takes_a_constant_from_its_caller(tmp_path):
    body = [by_reference("Constant", [], "value", onnx.AttributeProto.TENSOR, "a"), node("MatMul", ["x", "k"], ["o"])]
    body[0].output[0] = "k"
    proto = called(body, {"a": numpy_helper.from_array(normal(32, 64))}, {})
    assert find(load(proto)) == []
    onnx.save(proto, tmp_path / "m.onnx")
    onnxprune.compress(tmp_path / "m.onnx", tmp_path / "c.onnx", values="exact", sparsity=0.5)


def branch(name, held):
    nodes = [node("MatMul", ["x", "w"], ["o"])]
    return helper.make_graph(
        nodes, name, [], [info("o", [2, 32])], [numpy_helper.from_array(normal(32, 32), "w")][:held]
    )


def conditional(outer):
    nodes = [
        node("MatMul", ["x", "v"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch("t", 1), else_branch=branch("e", 1 - outer)),
    ]
    held = {"v": normal(32, 32)} | ({"w": normal(32, 32)} if outer else {})
    ins = [info("x", [2, 32]), info("c", [], TensorProto.BOOL)]
    return model(nodes, ins, [info("y", [2, 32]), info("z", [2, 32])], held)


def test_weights_below_an_unnamed_node_keep_their_names_when_nodes_come_before_it(tmp_path):
    onnx.save(conditional(0), tmp_path / "m.onnx")
    result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "c.onnx", values="exact", sparsity=0.5)
    facts = {w.name: (w.zeros, w.encoding) for w in result.weights}
    expected = (512, "bitmask")
    assert facts == {"v": expected, "If(z).then_branch/w": expected, "If(z).else_branch/w": expected}


def test_a_name_that_an_inner_body_binds_again_is_written_by_no_node(tmp_path):
    onnx.save(conditional(1), tmp_path / "m.onnx")
    result = onnxprune.compress(
        tmp_path / "m.onnx", tmp_path / "c.onnx", encoding="graph", values="exact", sparsity=0.5
    )
    assert {w.name: w.encoding for w in result.weights} == {
        "v": "bitmask", "w": "dense", "If(z).then_branch/w": "dense",
    }  # fmt: skip
    main = scopes_of(onnx.load(tmp_path / "c.onnx"))[0]
    assert "w" in main.initializers
    assert np.count_nonzero(numpy_helper.to_array(main.initializers["w"])) == 512


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantised_lstm_has_a_scale_for_each_direction(tmp_path, per_channel):
    rng = np.random.default_rng(0)
    hidden, into = 16, 24
    params = (2, 4 * hidden) if per_channel else (2,)
    held = {
        "w": rng.integers(-127, 128, (2, into, 4 * hidden), np.int8),
        "r": rng.integers(-127, 128, (2, hidden, 4 * hidden), np.int8),
        "b": normal(2, 8 * hidden),
        "ws": rng.uniform(0.005, 0.02, params).astype(np.float32),
        "rs": rng.uniform(0.005, 0.02, params).astype(np.float32),
        "wz": np.zeros(params, np.int8),
        "rz": np.zeros(params, np.int8),
    }
    names = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    made = helper.make_node(
        "DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft", direction="bidirectional", hidden_size=hidden
    )
    proto = model([made], [info("x", [5, 1, into])], [info("y", [5, 2, 1, hidden])], held)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, tmp_path / "m.onnx")
    result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "c.onnx", sparsity=0.75, values="exact")
    assert {w.name: w.zeros / w.total for w in result.weights if w.name in "wr"} == {"w": 0.75, "r": 0.75}
    opened = onnxprune.load(tmp_path / "m.onnx")
    scores = np.abs(held["w"].astype(np.float32)) * held["ws"].reshape(2, 1, -1)
    [weight] = [w for w in find(opened) if w.name == "w"]
    np.testing.assert_array_equal(magnitudes(weight, weight.array(opened)), scores)
    onnxprune.prune(tmp_path / "m.onnx", tmp_path / "p.onnx", sparsity=0.75)
    assert onnxprune.verify(tmp_path / "p.onnx", tmp_path / "c.onnx").outputs[0]["max_abs"] == 0


@pytest.mark.parametrize(
    "indices", [[0, 32], [-1, 3], [0, 1, 2], [[0, 0], [0, 4]], [[0, -1], [1, 1]], [[0, 0, 0], [1, 1, 1]]]
)
def test_a_damaged_sparse_initializer_is_named(indices):
    proto = model([node("MatMul", ["x", "w"], ["y"])], [info("x", ["N", 8])], [info("y", ["N", 4])])
    sparse = proto.graph.sparse_initializer.add(dims=[8, 4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array(indices, np.int64), "w.indices"))
    [weight] = find(load(proto))
    with pytest.raises(onnxprune.OnnxPruneError, match="sparse initializer 'w' is damaged"):
        weight.array(load(proto))


@pytest.mark.parametrize("indices", [[5, 18], [[1, 1], [4, 2]]])
def test_a_sparse_initializer_has_linear_or_full_indices(indices):
    proto = model([node("MatMul", ["x", "w"], ["y"])], [info("x", ["N", 8])], [info("y", ["N", 4])])
    sparse = proto.graph.sparse_initializer.add(dims=[8, 4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([2, 3], np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array(indices, np.int64), "w.indices"))
    opened = load(proto)
    expected = np.zeros((8, 4), np.float32)
    expected[1, 1], expected[4, 2] = 2, 3
    np.testing.assert_array_equal(find(opened)[0].array(opened), expected)
