"""Layers whose inputs can be recorded: their vectors times their rows are what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.calibration.layers import Layer, layers_of
from onnxprune.model.discovery import find
from tests.helpers.builders import info, model, node, normal
from tests.helpers.deep import chain
from tests.helpers.running import load, run


def layers(proto) -> dict[str, Layer]:
    weights = find(load(proto))
    return layers_of([weight for weight in weights if weight.reason is None], weights)


@pytest.mark.parametrize("axis", ["matmul", "gemm", "conv", "conv_transpose", "lstm"])
def test_rows_go_back_where_they_came_from(axis):
    x, shape = {
        "matmul": (info("x", ["N", 24]), (24, 16)), "gemm": (info("x", ["N", 24]), (16, 24)),
        "conv": (info("x", ["N", 8, 9]), (20, 4, 5)), "conv_transpose": (info("x", ["N", 8, 9]), (8, 20, 5)),
        "lstm": (info("x", [3, "N", 24]), (2, 64, 24)),
    }[axis]  # fmt: skip
    made = {
        "matmul": node("MatMul", ["x", "w"], ["y"]), "gemm": node("Gemm", ["x", "w"], ["y"], transB=1),
        "conv": node("Conv", ["x", "w"], ["y"], group=2),
        "conv_transpose": node("ConvTranspose", ["x", "w"], ["y"], strides=[2]),
        "lstm": node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16, direction="bidirectional"),
    }[axis]  # fmt: skip
    weights = {"w": normal(*shape)} | ({"r": normal(2, 64, 16)} if axis == "lstm" else {})
    layer = layers(model([made], [x], [info("y", None)], weights))["w"]
    rows = layer.rows(weights["w"])
    assert rows.shape == (layer.groups, weights["w"].size // layer.groups // layer.inputs, layer.inputs)
    np.testing.assert_array_equal(layer.array(rows), weights["w"])


def test_a_transposed_convolution_is_a_product_at_each_place():
    weights, x = {"w": normal(12, 5, 2, 3)}, normal(2, 12, 4, 3, seed=1)
    step = node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 3])  # windows side by side
    proto = model([step], [info("x", [2, 12, 4, 3])], [info("y", [2, 5, 8, 9])], weights)
    layer = layers(proto)["w"]
    vectors = layer.vectors({"x": x}, layer.uses[0], 100, 0)
    products = (vectors @ layer.rows(weights["w"]).transpose(0, 2, 1)).reshape(2, 4, 3, 2, 3, 5)
    wanted = products.transpose(0, 5, 1, 3, 2, 4).reshape(2, 5, 8, 9)
    np.testing.assert_allclose(run(proto, {"x": x})[0], wanted, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("started", [True, False])
def test_a_simple_recurrent_layer_is_the_sum_of_its_two_products(direction, started):
    ways = 2 if direction == "bidirectional" else 1
    weights = {"w": normal(ways, 32, 12) / 4, "r": normal(ways, 32, 32, seed=1) / 8}
    names = ["x", "w", "r", "", "", "h"] if started else ["x", "w", "r"]
    rnn = node("RNN", names, ["y"], hidden_size=32, direction=direction, activations=["Tanh"] * ways)
    given = [info("x", [5, 3, 12])] + ([info("h", [ways, 3, 32])] if started else [])
    proto = model([rnn], given, [info("y", [5, ways, 3, 32])], weights)
    feeds = {"x": normal(5, 3, 12, seed=2)} | ({"h": normal(ways, 3, 32, seed=3)} if started else {})
    (y,) = run(proto, feeds)
    found = layers(proto)
    products = [
        np.einsum("dni,doi->dno", found[name].vectors({**feeds, "y": y}, found[name].uses[0], 100, 0), weights[name])
        for name in "wr"
    ]
    wanted = y.transpose(1, 0, 2, 3).reshape(ways, 15, 32)
    np.testing.assert_allclose(np.tanh(products[0] + products[1]), wanted, atol=1e-5)


def test_biases_are_found_wherever_exporters_put_them():
    weights = {
        "own": normal(16, 8, 3), "own.b": normal(16), "added": normal(16, 16, 1), "added.b": normal(1, 16, 1),
        "normed": normal(16, 16, 1), "scale": normal(16), "shift": normal(16), "mean": normal(16),
        "var": np.ones(16, np.float32), "bare": normal(16, 16, 1), "twice": normal(16, 16, 1), "both": normal(1, 16, 1),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "own", "own.b"], ["a"]),
        node("Conv", ["a", "added"], ["b"]), node("Add", ["b", "added.b"], ["c"]),
        node("Conv", ["c", "normed"], ["d"]),
        node("BatchNormalization", ["d", "scale", "shift", "mean", "var"], ["e"]),
        node("Conv", ["e", "bare"], ["f"]), node("Relu", ["f"], ["g"]),
        node("Conv", ["g", "twice"], ["h"]), node("Add", ["h", "both"], ["i"]), node("Add", ["i", "both"], ["y"]),
    ]  # fmt: skip
    found = layers(model(nodes, [info("x", ["N", 8, 9])], [info("y", None)], weights))
    biases = {name: None if layer.bias is None else layer.bias.weight.name for name, layer in found.items()}
    assert biases == {"own": "own.b", "added": "added.b", "normed": "mean", "bare": None, "twice": None}


def test_steps_that_a_sequence_does_not_have_are_left_out():
    weights, lengths = {"w": normal(2, 32, 12) / 4, "r": normal(2, 32, 32, seed=1) / 8}, np.array([5, 2, 3], np.int32)
    names = ["x", "w", "r", "", "lengths", "h"]
    rnn = node("RNN", names, ["y"], hidden_size=32, direction="bidirectional", activations=["Tanh"] * 2)
    given = [info("x", [5, 3, 12]), info("lengths", [3], 6), info("h", [2, 3, 32])]
    proto = model([rnn], given, [info("y", [5, 2, 3, 32])], weights)
    feeds = {"x": normal(5, 3, 12, seed=2), "lengths": lengths, "h": normal(2, 3, 32, seed=3)}
    (y,) = run(proto, feeds)
    found = layers(proto)
    products = [
        np.einsum("dni,doi->dno", found[name].vectors({**feeds, "y": y}, found[name].uses[0], 100, 0), weights[name])
        for name in "wr"
    ]
    there = (np.arange(5)[:, None] < lengths).reshape(-1)
    wanted = y.transpose(1, 0, 2, 3).reshape(2, 15, 32)[:, there]
    np.testing.assert_allclose(np.tanh(products[0] + products[1]), wanted, atol=1e-5)


def test_the_gate_of_a_gru_that_reads_a_reset_state_is_no_product_of_the_state():
    late = node("GRU", ["x", "w", "r"], ["y"], hidden_size=16, linear_before_reset=1)
    early = node("GRU", ["x", "w", "r"], ["y"], hidden_size=16)
    weights, inputs = {"w": normal(1, 48, 12), "r": normal(1, 48, 16)}, [info("x", [5, 3, 12])]
    assert set(layers(model([late], inputs, [info("y", None)], weights))) == {"w", "r"}
    assert set(layers(model([early], inputs, [info("y", None)], weights))) == {"w"}


def test_a_layer_may_read_its_weight_behind_any_number_of_roundings():
    nodes = [*chain("QuantizeLinear", "w", "q", "scale"), node("MatMul", ["x", "q"], ["y"])]
    weights = {"w": normal(64, 32), "scale": np.float32(1)}
    found = layers(model(nodes, [info("x", ["N", 64])], [info("y", None)], weights))
    assert [use.node.op_type for use in found["w"].uses] == ["MatMul"]


def test_layers_share_a_weight_that_is_passed_on():
    """As exporters write a layer that is used again, here also inside a branch."""
    branch = helper.make_graph([node("MatMul", ["b", "w2"], ["c"])], "then", [], [info("c", None)])
    other = helper.make_graph([node("Identity", ["b"], ["d"])], "else", [], [info("d", None)])
    nodes = [
        node("Identity", ["w"], ["w1"]), node("Identity", ["w1"], ["w2"]), node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "w1"], ["b"]), node("If", ["f"], ["y"], then_branch=branch, else_branch=other),
    ]  # fmt: skip
    inputs = [info("x", ["N", 32]), info("f", [], TensorProto.BOOL)]
    weights = find(load(model(nodes, inputs, [info("y", ["N", 32])], {"w": normal(32, 32)})))
    assert [use.node.input[0] for use in layers_of(weights, weights)["w"].uses] == ["x", "a", "b"]
