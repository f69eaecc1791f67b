"""What layers cost in every kind of graph."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import DataError, OptionError
from onnxprune.layer_costs.costs import Costs, LayerCost
from tests.helpers import builders
from tests.helpers.builders import MODELS, info, model, node, normal
from tests.helpers.repository import DIGITS, LENETS
from tests.helpers.running import costs_of, run


def by_name(costs: Costs) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in costs.layers}


# every kind of graph --------------------------------------------------------------------------------


def without_times_and_bytes(costs: Costs) -> dict:
    facts = costs.facts()
    for part in (facts["total"], *facts["layers"]):
        for key in ("bytes", "latency_ms", "layers_ms", "other_ms"):
            part.pop(key, None)
    facts.pop("other_ms")
    return facts


@pytest.mark.parametrize(
    ("name", "values"),
    [*((name, "int8") for name in MODELS), ("lenet-5", "exact"), ("lenet-5", "shared:4"), ("lenet-5", "int8")],
)
def test_an_encoded_model_costs_what_its_decoded_one_does(tmp_path, name, values):
    source = LENETS.get(name) or tmp_path / "m.onnx"
    if name not in LENETS:
        onnx.save(MODELS[name][0](), source)
    small, dense = tmp_path / "small.onnx", tmp_path / "dense.onnx"
    onnxprune.compress(source, small, sparsity=0.8, values=values, verify=False, strip=False)
    onnxprune.decode(small, dense, verify=False)
    encoded, decoded = onnxprune.costs(small, samples=3), onnxprune.costs(dense, samples=3)
    assert without_times_and_bytes(encoded) == without_times_and_bytes(decoded)
    assert encoded.total.bytes <= decoded.total.bytes
    assert [layer.latency_ms is None for layer in encoded.layers] == [
        layer.latency_ms is None for layer in decoded.layers
    ]
    if name == "lenet-5":
        assert encoded.total.bytes < decoded.total.bytes / 3
        assert all(layer.latency_ms for layer in encoded.layers)


def test_every_layer_of_every_model_has_its_weights_and_operations(case, tmp_path):
    proto, names = case
    costs = costs_of(proto, tmp_path)
    assert {name for layer in costs.layers for name in layer.weights} == names
    assert costs.total.flops == sum(layer.flops for layer in costs.layers) > 0
    rows = {row["name"]: row for row in onnxprune.inspect(tmp_path / "m.onnx")}
    assert costs.total.parameters == sum(rows[name]["total"] for name in names)
    assert costs.total.nonzero == sum(rows[name]["total"] - rows[name]["zeros"] for name in names)
    assert costs.total.bytes == sum(rows[name]["bytes"] for name in names)
    assert json.loads(json.dumps(costs.facts(), allow_nan=False))["samples"] == costs.samples


def test_a_weight_that_two_layers_read_counts_once(tmp_path):
    costs = costs_of(builders.shared(), tmp_path)
    assert [layer.parameters for layer in costs.layers] == [48 * 48] * 2
    assert (costs.total.parameters, costs.total.flops) == (48 * 48, 2 * 2 * 48 * 48)


def test_what_lies_in_branches_is_not_measured(tmp_path):
    proto = builders.if_branches()
    for branch in proto.graph.node[0].attribute:
        for inner in branch.g.node:
            inner.input[:] = ["x0" if name == "x" else name for name in inner.input]
    proto.graph.node.insert(0, node("MatMul", ["x", "w"], ["x0"]))
    proto.graph.initializer.append(builders.tensor("w", normal(64, 64, seed=7)))
    costs = costs_of(proto, tmp_path, x=normal(4, 64), c=np.ones(4, bool))
    layers = by_name(costs)
    first = layers["MatMul_x0"]
    assert (first.act_share, first.neurons, first.flop_share) == (None, None, 1.0)
    inside = [layer for name, layer in layers.items() if name.startswith("choice.")]
    assert all(layer.input_share is layer.act_share is layer.flop_share is None for layer in inside)
    assert layers["choice.then_branch/MatMul_a"].flops == 2 * 64 * 32
    assert layers["choice.else_branch/MatMul_h"].flops == 0
    assert costs.total.measured_flops == 2 * 64 * 64 < costs.total.flops


def test_a_loop_counts_every_turn(tmp_path):
    costs = costs_of(builders.loop(), tmp_path, x=normal(3, 32))
    (layer,) = costs.layers
    assert "Loop" not in costs.other_ms  # its time is that of its turns
    assert (layer.flops, layer.act_share, layer.flop_share) == (2 * 2 * 32 * 32, None, None)


def test_a_layer_behind_a_body_with_layers_is_measured(tmp_path):
    proto = builders.loop()
    proto.graph.node.append(node("Relu", ["y"], ["r"]))
    proto.graph.node.append(node("MatMul", ["r", "v"], ["z"]))
    proto.graph.initializer.append(builders.tensor("v", normal(32, 8)))
    proto.graph.output[0].CopyFrom(info("z", ["N", 8]))
    x = normal(30, 32)
    y = run(builders.loop(), {"x": x})[0]
    last = by_name(costs_of(proto, tmp_path, x=x))["MatMul_z"]
    assert last.flop_share == pytest.approx(np.mean(y > 0), abs=1e-3)
    assert 0 < last.flop_share < 1


def test_a_body_without_layers_is_passed_through(tmp_path):
    then, other = (
        helper.make_graph([node(kind, ["h"], [kind])], kind, [], [info(kind, ["N", 16])]) for kind in ("Relu", "Neg")
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["c"], ["r"], name="choice", then_branch=then, else_branch=other),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    inputs = [info("x", ["N", 8]), info("c", [], TensorProto.BOOL)]
    weights = {"w": normal(8, 16), "v": normal(16, 4, seed=1)}
    x = normal(20, 8, seed=2)
    proto = model(nodes, inputs, [info("y", ["N", 4])], weights)
    first, second = costs_of(proto, tmp_path, x=x[:, None], c=np.ones(20, bool)).layers
    assert first.act_share == second.flop_share == np.mean(x @ weights["w"] > 0)


def test_the_hidden_state_of_a_recurrent_layer_is_not_measured(tmp_path):
    (layer,) = costs_of(builders.lstm(), tmp_path).layers
    assert (layer.input_share, layer.flop_share) == (1.0, None)
    assert layer.act_share is not None
    assert layer.flops == 2 * 64 * (16 + 16)


def test_grouped_convolution_and_qdq(tmp_path):
    quantised = {"w": normal(8, 2, 3, 3).astype(np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        node("Conv", ["x", "v"], ["c"], group=4), node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("GlobalMaxPool", ["d"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 8, 6, 6])], [info("y", ["N", 8, 1, 1])],
                  {k: np.asarray(v) for k, v in quantised.items()})  # fmt: skip
    (layer,) = costs_of(proto, tmp_path, x=normal(30, 8, 6, 6)).layers
    assert layer.flops == 2 * 8 * 4 * 4 * (2 * 3 * 3)
    assert (layer.weights, layer.parameters, layer.neurons) == (("w",), 8 * 2 * 9, 8)
    assert layer.weight_share == np.count_nonzero(quantised["w"]) / (8 * 2 * 9)
    assert layer.latency_ms


def test_a_product_whose_left_side_is_transposed(tmp_path):
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transA=1)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = model(nodes, [info("x", [32, 5])], [info("y", [5, 16])], {"w": normal(32, 16)}, opset_imports=opsets)
    (layer,) = costs_of(proto, tmp_path).layers
    assert layer.flops * 32 == 2 * 32 * 16 * 5  # the first axis counts as samples


def test_a_model_without_layers(tmp_path):
    proto = model([node("Relu", ["x"], ["y"])], [info("x", ["N", 4])], [info("y", ["N", 4])])
    costs = costs_of(proto, tmp_path)
    assert (costs.layers, costs.total.flops, costs.total.weight_share, costs.total.act_share) == ((), 0, None, None)


def test_a_fixed_batch_holds_several_samples(tmp_path):
    free, fixed = builders.mlp((8, 16, 4)), builders.mlp((8, 16, 4))
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    x = normal(8, 8)
    a, b = costs_of(free, tmp_path, x=x), costs_of(fixed, tmp_path, x=x)
    assert (a.run_samples, b.run_samples, a.samples, b.samples) == (1, 4, 8, 8)
    assert [layer.flops for layer in a.layers] == [layer.flops for layer in b.layers]
    assert [layer.neurons for layer in a.layers] == [layer.neurons for layer in b.layers] == [16, 4]
    assert [layer.act_share for layer in a.layers] == pytest.approx([layer.act_share for layer in b.layers])


@pytest.mark.parametrize("name", ["lenet-5", "lenet-300-100"])
def test_each_layer_is_timed_where_onnxruntime_fuses_it(name):
    costs = onnxprune.costs(LENETS[name], data=DIGITS, samples=5)
    assert len(costs.layers) == {"lenet-5": 4, "lenet-300-100": 3}[name]
    assert all(layer.latency_ms for layer in costs.layers)
    assert costs.total.layers_ms == pytest.approx(sum(layer.latency_ms for layer in costs.layers))
    assert costs.total.other_ms == pytest.approx(sum(costs.other_ms.values()))
    assert costs.total.latency_ms > 0
    assert not {"Conv", "Gemm", "FusedConv", "FusedGemm"} & costs.other_ms.keys()


def test_convolutions_in_the_blocked_layout_are_found_behind_what_is_fused_into_them(tmp_path):
    """Conv + Add of a reshaped bias + Relu run as one node that is called after the Relu's output."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Reshape", ["b", "shape"], ["b4"]), node("Add", ["c", "b4"], ["a"]),
        node("Relu", ["a"], ["r"]), node("Conv", ["r", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(16, 8, 3, 3), "v": normal(16, 16, 3, 3), "b": normal(16), "shape": np.array([1, 16, 1, 1])}
    costs = costs_of(model(nodes, [info("x", ["N", 8, 9, 9])], [info("y", ["N", 16, 5, 5])], weights), tmp_path)
    assert len(costs.layers) == 2
    assert all(layer.latency_ms for layer in costs.layers)


# the request ----------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_one_error(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(builders.mlp(), path)
    with pytest.raises(OptionError, match="samples must be at least 1"):
        onnxprune.costs(path, samples=0)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="cannot read the data"):
        onnxprune.costs(path, data=tmp_path / "bad.npz")
    np.savez(tmp_path / "narrow.npz", x=normal(3, 7))
    with pytest.raises(DataError, match="has shape"):
        onnxprune.costs(path, data=tmp_path / "narrow.npz")
    strings = model([node("Identity", ["x"], ["y"])], *([info(n, ["N"], TensorProto.STRING)] for n in "xy"))
    onnx.save(strings, path)
    with pytest.raises(DataError, match="no inputs could be synthesised"):
        onnxprune.costs(path)


@pytest.mark.parametrize(
    ("equation", "shape", "multiplications"),
    [
        ("bsi,io->bso", [2, 3, 16], 2 * 3 * 16 * 32),
        ("b...i,io", [2, 3, 16], 2 * 3 * 16 * 32),
        (" ...i , oi -> ...o ", [2, 3, 5, 32], 2 * 3 * 5 * 32 * 16),
    ],
)
def test_an_einsum_counts_each_place_of_its_labels(tmp_path, equation, shape, multiplications):
    nodes = [node("Einsum", ["x", "w"], ["y"], equation=equation)]
    outputs = [info("y", [*shape[:-1], None])]
    proto = model(nodes, [info("x", shape)], outputs, {"w": normal(16, 32)})
    onnx.save(proto, tmp_path / "m.onnx")
    (layer,) = onnxprune.costs(tmp_path / "m.onnx", samples=2).layers
    assert layer.kind == "Einsum"
    assert layer.flops * 2 == 2 * multiplications  # the first axis counts as samples


def test_convolutions_of_float16_are_timed(tmp_path):
    """Which run in float32, in a blocked layout, under the names of what is cast around them."""
    held = {f"w{n}": normal(16, 16, 3, 3).astype(np.float16) for n in range(3)}
    nodes = [node("Conv", [f"v{n}" if n else "x", f"w{n}"], [f"v{n + 1}"], pads=[1, 1, 1, 1]) for n in range(3)]
    shape = [1, 16, 32, 32]
    proto = model(nodes, [info("x", shape, TensorProto.FLOAT16)], [info("v3", shape, TensorProto.FLOAT16)], held)
    assert all(layer.latency_ms for layer in costs_of(proto, tmp_path).layers)
