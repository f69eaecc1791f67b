"""Factors of weights that optimisers leave to be computed from constants."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.model.discovery import find
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, put, run

AXES = np.array([1, 2, 3], np.int64)


def folded(opset=17, axes=AXES, extra=()):
    """A convolution with the scale of a batch norm in its weight, as onnxoptimizer folds it."""
    unsqueeze = node(
        "Unsqueeze", ["q", "axes"] if opset > 12 else ["q"], ["f"], **({} if opset > 12 else {"axes": axes})
    )
    nodes = [
        node("Cast", ["eps"], ["e"], to=1), node("Add", ["variance", "e"], ["v"]), node("Sqrt", ["v"], ["d"]),
        node("Div", ["scale", "d"], ["q"]), unsqueeze, node("Mul", ["w", "f"], ["c"]),
        node("Conv", ["x", "c"], ["y"], pads=[1, 1, 1, 1]), *extra,
    ]  # fmt: skip
    held = {"w": normal(32, 8, 3, 3), "scale": normal(32, seed=1) ** 2 + 0.5, "variance": normal(32, seed=2) ** 2 + 0.5}
    held |= {"eps": np.float64(1e-5)} | ({"axes": axes} if opset > 12 else {})
    outputs = [info(each.output[0], None) for each in (*extra, nodes[6])]
    return model(nodes, [info("x", ["N", 8, 10, 10])], outputs, {k: np.asarray(v) for k, v in held.items()}, opset)


@pytest.mark.parametrize("twice", [False, True], ids=["deep", "wide"])
def test_what_multiplies_a_weight_is_not_followed_without_end(twice):
    """Thousands of operators, or a value that each of them reads twice, are no factor, and take no time."""
    chain = [node("Add", [f"a{at}", f"a{at}" if twice else "one"], [f"a{at + 1}"]) for at in range(3000)]
    nodes = [*chain, node("Mul", ["w", "a3000"], ["v"]), node("MatMul", ["x", "v"], ["y"])]
    held = {"w": normal(32, 16), "a0": normal(1, 16), "one": np.ones((1, 16), np.float32)}
    proto = model(nodes, [info("x", ["N", 32])], [info("y", None)], held)
    assert the_weight(proto).reason is not None


def the_weight(proto):
    return next(weight for weight in find(load(proto)) if weight.name == "w")


@pytest.mark.parametrize("opset", [11, 17])
def test_a_computed_factor_leaves_a_weight_a_weight(tmp_path, opset):
    weight = the_weight(folded(opset))
    assert (weight.kind, weight.reason, weight.out_axis, weight.in_axes) == ("conv", None, 0, (1, 2, 3))
    source = put(tmp_path / "m.onnx", folded(opset))
    assert onnxprune.compress(source, tmp_path / "o.onnx").ratio > 2
    feeds = {"x": normal(2, 8, 10, 10, seed=5)}
    before, after = (run(path.read_bytes(), feeds)[0] for path in (source, tmp_path / "o.onnx"))
    assert np.square(after - before).sum() < 0.02 * np.square(before).sum()


@pytest.mark.parametrize(
    "proto",
    [
        folded(axes=np.array([0, 1, 2], np.int64), extra=[node("Shape", ["f"], ["s"])]),
        folded(extra=[node("Exp", ["w"], ["s"])]),
    ],
    ids=["it does not fit", "something else reads the weight"],
)
def test_what_no_factor_leaves_a_weight_is_told(proto):
    assert the_weight(proto).reason is not None
