"""Values inside bodies and functions: recorded as the same values of a model that computes them in its main graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import layer_of
from onnxprune.calibration.moments import moments
from onnxprune.model.discovery import find
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load

A, B = normal(24, 20), normal(20, 16, seed=1)
PLAIN = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
FLAG = numpy_helper.from_array(np.array(True), "flag")
OTHER = helper.make_graph([node("Identity", ["h"], ["z"])], "other", [], [info("z", None)])


def held(**weights: np.ndarray) -> list[TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in weights.items()]


def branch(own: list[TensorProto]) -> list[helper.NodeProto]:
    """An If whose branch has the second layer, with its weight inside or outside."""
    taken = helper.make_graph(
        [node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["v"])], "taken", [], [info("v", None)], own
    )
    choice = node("If", ["flag"], ["y"], then_branch=taken, else_branch=OTHER)
    return [node("MatMul", ["x", "a"], ["h"]), choice]


def nested() -> list[helper.NodeProto]:
    inner = helper.make_graph([node("MatMul", ["r", "b"], ["v"])], "inner", [], [info("v", None)], held(b=B))
    outer = helper.make_graph(
        [node("Relu", ["h"], ["r"]), node("If", ["flag"], ["u"], then_branch=OTHER, else_branch=OTHER),
         node("If", ["flag"], ["t"], then_branch=inner, else_branch=OTHER)],
        "outer", [], [info("t", None)],
    )  # fmt: skip
    choice = node("If", ["flag"], ["y"], else_branch=OTHER, then_branch=outer)
    return [node("MatMul", ["x", "a"], ["h"]), choice]


def function() -> ModelProto:
    """Both layers in a function, the second through another one."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local", "Inner", ["r"], ["y"],
        [node("Constant", [], ["b"], value=held(b=B)[0]), node("MatMul", ["r", "b"], ["y"])], opsets,
    )  # fmt: skip
    outer = helper.make_function(
        "local", "Outer", ["x"], ["y"],
        [node("Constant", [], ["a"], value=held(a=A)[0]), node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]),
         node("Inner", ["r"], ["y"], domain="local")], opsets,
    )  # fmt: skip
    proto = model([node("Outer", ["x"], ["y"], domain="local")], [info("x", ["N", 24])], [info("y", ["N", None])], {})
    proto.functions.extend([inner, outer])
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return proto


def measured(proto: ModelProto, x: np.ndarray, folder: Path) -> dict[str, np.ndarray | None]:
    """The moments of the weights, by the last part of their name."""
    opened = load(proto)
    np.savez(folder / "data.npz", x=x)
    weights = [weight for weight in find(opened) if weight.linear]
    found = moments(opened, [layer_of(weight, {}) for weight in weights], CalibrationSet(folder / "data.npz", 1000))
    return {weight.value: each for weight, each in zip(weights, found, strict=True)}


def in_main(nodes: list[helper.NodeProto], **weights: np.ndarray) -> ModelProto:
    proto = model(nodes, [info("x", ["N", 24])], [info("y", ["N", None])], weights)
    proto.graph.initializer.append(FLAG)
    return proto


@pytest.mark.parametrize("kind", ["own weight", "weight from outside", "nested", "functions"])
def test_layers_inside_see_what_they_would_outside(kind, tmp_path):
    x = normal(40, 24, seed=2)
    wanted = measured(in_main(PLAIN, a=A, b=B), x, tmp_path)
    proto = {
        "own weight": lambda: in_main(branch(held(b=B)), a=A), "nested": lambda: in_main(nested(), a=A),
        "weight from outside": lambda: in_main(branch([]), a=A, b=B), "functions": function,
    }[kind]()  # fmt: skip
    found = measured(proto, x, tmp_path)
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-5, atol=1e-5)


def test_a_branch_that_is_not_taken_says_nothing(tmp_path):
    proto = in_main(branch(held(b=B)), a=A)
    proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array(False), "flag"))
    found = measured(proto, normal(40, 24), tmp_path)
    assert found["b"] is None
    assert found["a"] is not None


def test_every_round_of_a_loop_counts(tmp_path):
    square = normal(24, 24) / 5
    body = helper.make_graph(
        [node("MatMul", ["state", "w"], ["next"]), node("Identity", ["go"], ["on"])], "body",
        [info("i", [], 7), info("go", [], 9), info("state", ["N", 24])], [info("on", [], 9), info("next", ["N", 24])],
        held(w=square),
    )  # fmt: skip
    proto = in_main([node("Loop", ["rounds", "", "x"], ["y"], body=body)], rounds=np.array(3))
    x = normal(8, 24, seed=2)
    read = np.concatenate([x, x @ square, x @ square @ square])
    np.testing.assert_allclose(measured(proto, x, tmp_path)["w"].mean(0)[0], read.T @ read / 24, rtol=1e-4, atol=1e-4)


def test_a_scan_hands_out_what_its_body_reads(tmp_path):
    weight = normal(24, 24) / 5
    body = helper.make_graph(
        [node("Relu", ["row"], ["r"]), node("MatMul", ["r", "w"], ["out"])], "body",
        [info("row", ["N", 24])], [info("out", ["N", 24])], held(w=weight),
    )  # fmt: skip
    scan = node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1])
    proto = model([scan], [info("x", ["N", 3, 24])], [info("y", ["N", 3, 24])], {})
    x = normal(8, 3, 24, seed=2)
    read = np.maximum(x, 0).reshape(-1, 24)
    np.testing.assert_allclose(measured(proto, x, tmp_path)["w"].mean(0)[0], read.T @ read / 24, rtol=1e-4, atol=1e-4)


def test_values_of_a_loop_that_change_their_shape_cost_only_the_layers_inside(tmp_path):
    body = helper.make_graph(
        [node("Concat", ["state", "state"], ["next"], axis=0), node("MatMul", ["next", "w"], ["seen"]),
         node("ReduceSum", ["seen"], ["sum"], keepdims=0), node("Identity", ["go"], ["on"])], "body",
        [info("i", [], 7), info("go", [], 9), info("state", None)],
        [info("on", [], 9), info("next", None), info("sum", [])], held(w=normal(20, 16)),
    )  # fmt: skip
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Loop", ["rounds", "", "h"], ["grown", "y"], body=body)]
    found = measured(in_main(nodes, a=A, rounds=np.array(3)), normal(8, 24, seed=2), tmp_path)
    assert found["w"] is None
    assert found["a"] is not None
