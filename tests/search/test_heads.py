"""What the outputs of a model are: scores of classes, states of recurrent layers, or neither."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.model.model import Model
from onnxprune.search.heads import heads_of
from tests.helpers.builders import FLOAT, info, model, node, normal
from tests.helpers.deep import chain, doubled

WEIGHTS = {"w": normal(16, 8), "v": normal(16, 8, seed=1), "b": normal(8), "one": np.ones(8, np.float32)}
LINEAR = node("MatMul", ["x", "w"], ["h"])
OTHER = node("MatMul", ["x", "v"], ["g"])


def heads(*nodes: onnx.NodeProto, **weights: np.ndarray):
    proto = model([LINEAR, *nodes], [info("x", ["N", 16])], [info("y", None)], WEIGHTS | weights)
    return heads_of(Model.of_bytes(proto.SerializeToString()))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Identity", ["h"], ["y"])],
        [node("Add", ["h", "b"], ["y"])],
        [node("Add", ["b", "h"], ["s"]), node("Mul", ["s", "one"], ["t"]), node("LogSoftmax", ["t"], ["y"])],
        [node("Constant", [], ["c"], value=helper.make_tensor("", FLOAT, [1], [2.0])), node("Div", ["h", "c"], ["y"])],
        [node("Cast", ["b"], ["bias"], to=FLOAT), node("Add", ["h", "bias"], ["y"])],  # as decoders write it
        [node("Odd", ["h"], ["y"], domain="user.ops")],  # nobody knows what it does
    ],
)
def test_a_linear_layer_gives_scores_whatever_scales_them(nodes):
    assert heads(*nodes).scores == {"y": None if nodes[0].op_type == "Odd" else 8}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("LayerNormalization", ["h", "one"], ["y"])],
        [OTHER, node("Concat", ["h", "g"], ["y"], axis=-1)],  # boxes and their scores
        [OTHER, node("Add", ["h", "g"], ["y"])],
        [node("Tanh", ["h"], ["y"])],
        [OTHER, node("Div", ["h", "g"], ["n"]), node("Mul", ["n", "one"], ["s"]), node("Add", ["s", "b"], ["y"])],
    ],
)
def test_features_and_boxes_are_no_scores(nodes):
    assert heads(*nodes).scores == {}


def test_scores_come_from_every_branch_of_an_if():
    def branch(last: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([last], "body", [], [info(last.output[0], None)])

    linear = branch(node("MatMul", ["x", "v"], ["t"]))
    for other, expected in ((node("MatMul", ["x", "w"], ["e"]), {"y": 8}), (node("Tanh", ["h"], ["e"]), {})):
        nodes = [node("If", ["yes"], ["y"], then_branch=linear, else_branch=branch(other))]
        assert heads(*nodes, yes=np.array(True)).scores == expected


@pytest.mark.parametrize(("place", "states"), [(0, set()), (1, {"y"}), (2, {"y"})])
def test_what_a_recurrent_layer_ends_with_is_a_state(place, states):
    outputs = ["", "", ""]
    outputs[place] = "z"
    nodes = [
        node("LSTM", ["x", "W", "R"], outputs, hidden_size=4),
        node("Transpose", ["z"], ["t"]),
        node("Concat", ["t", "t"], ["y"], axis=0),
    ]
    weights = {"W": normal(1, 16, 3), "R": normal(1, 16, 4)}
    proto = model(nodes, [info("x", ["T", "N", 3])], [info("y", None)], weights)
    found = heads_of(Model.of_bytes(proto.SerializeToString()))
    assert found.states == states
    assert found.scores == {}


@pytest.mark.parametrize(
    ("nodes", "scores"),
    [
        (chain("Mul", "h", "y", "one"), True),
        ([*doubled("Add", "b", "d"), node("Mul", ["h", "d"], ["y"])], True),
        ([*doubled("Add", "h", "d"), node("Mul", ["d", "one"], ["y"])], False),
        (doubled("Concat", "h", "y", axis=0), False),
    ],
)
def test_graphs_may_be_deep_and_branch(nodes, scores):
    found = heads(*nodes)
    assert found.scores == ({"y": 8} if scores else {})
    assert not found.states


def quantised(name: str) -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", [name, "s", "z"], [f"{name}q"]), node("DequantizeLinear", [f"{name}q", "s", "z"], ["y"])
    ]  # fmt: skip


def test_quantised_layers_give_as_many_scores():
    weights = {"q": np.ones((16, 8), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    weighed = [node("DequantizeLinear", ["q", "s"], ["d"]), node("MatMul", ["x", "d"], ["k"]), *quantised("k")]
    assert heads(*weighed, **weights).scores == {"y": 8}
    dynamic = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("MatMulInteger", ["xq", "q", "xz"], ["i"]),
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Mul", ["xs", "s"], ["scale"]),
        node("Mul", ["f", "scale"], ["k"]),
        node("Add", ["k", "b"], ["y"]),
    ]
    assert heads(*dynamic, **weights).scores == {"y": 8}
