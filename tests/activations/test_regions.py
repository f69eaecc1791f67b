"""Which nodes compute with integers goes by structure."""

import numpy as np
import pytest

from onnxprune.activations.regions import integer_nodes
from tests.activations.networks import closed, conv, residual
from tests.helpers.builders import info, node, normal
from tests.helpers.running import load


def chosen(proto) -> list[str]:
    return [each.output for each in integer_nodes(load(proto))]


def test_convolutions_and_sums_but_the_last_convolution():
    assert chosen(residual()) == ["a.relu", "b", "sum.relu"]


@pytest.mark.parametrize("opset", [9, 13])
def test_the_relu_goes_with_its_node(opset):
    found = integer_nodes(load(residual(opset)))
    assert [None if each.activation is None else each.activation.op_type for each in found] == ["Relu", None, "Relu"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["a.relu"]),
        ({"group": 8}, []),  # depthwise
        ({"group": 2}, []),
        ({"kernel": 1}, []),  # 8 inputs
        ({"kernel": 5}, ["a.relu"]),
    ],
    ids=str,
)
def test_groups_and_few_inputs_gain_nothing(options, expected):
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "a", 8, 16, 1, weights, **options), node("Relu", ["a"], ["a.relu"])]
    assert chosen(closed(nodes, "a.relu", 16, weights)) == expected


def behind(*nodes, weights=None):
    """What is chosen of a convolution and of the nodes between it and the last one."""
    weights = {} if weights is None else weights
    first = conv("x", "a", 8, 16, 1, weights)
    return chosen(closed([first, *nodes], nodes[-1].output[0], 16, weights))


def test_what_follows_a_convolution_decides():
    silu = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["m"])]
    assert behind(*silu) == ["a", "s", "m"]
    assert behind(node("HardSwish", ["a"], ["h"])) == []
    assert behind(node("Relu", ["a"], ["r"]), node("HardSwish", ["r"], ["h"])) == []
    assert behind(node("Relu", ["a"], ["r"]), node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2])) == ["r", "p"]
    assert behind(
        node("Sigmoid", ["a"], ["s"]), node("Add", ["s", "x16"], ["m"]), weights={"x16": normal(16, 1, 1)}
    ) == [
        "a",
        "s",
    ]


def test_a_clip_from_0_on_vanishes_and_another_does_not():
    def between(least):
        bounds = {"least": np.float32(least), "most": np.float32(6)}
        return behind(node("Clip", ["a", "least", "most"], ["c"]), weights=bounds)

    assert between(0) == ["c"]
    assert between(-1) == ["a"]


def test_outputs_of_the_graph_are_not_rounded():
    proto = residual()
    proto.graph.output.append(info("a.relu", None))
    assert "a.relu" not in chosen(proto)


def test_a_weight_with_two_readers_or_a_default_that_callers_override_stays():
    proto = residual()
    proto.graph.node[2].input[1] = "head.weight"  # of 16 inputs both
    proto.graph.node[-2].input[1] = "head.weight"
    assert chosen(proto) == []
    proto = residual()
    proto.graph.input.add().CopyFrom(proto.graph.input[0])
    proto.graph.input[1].name = "a.weight"
    assert "a.relu" not in chosen(proto)
