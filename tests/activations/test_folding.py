"""What follows a convolution channel by channel goes into its weight and bias; the outputs stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.activations.editing import Editor
from onnxprune.activations.folding import fold
from onnxprune.activations.regions import dense_convolutions
from onnxprune.channels.cleanup import remove_unused
from onnxprune.model.scopes import scopes_of
from tests.activations.networks import closed, conv, samples
from tests.helpers.builders import node, normal
from tests.helpers.running import load, run, serialise

KINDS = ("BatchNormalization", "Mul", "Add", "Identity", "Mul of one", "Add of one")


def behind(kind: str, read: str, name: str, weights: dict):
    """A node that multiplies and adds by channel."""
    seed = len(weights)
    if kind == "Identity":
        return node(kind, [read], [name])
    if kind == "BatchNormalization":
        names = [f"{name}.{part}" for part in ("gamma", "beta", "mean", "variance")]
        weights |= {each: normal(16, seed=seed + place) for place, each in enumerate(names)}
        weights[names[3]] = np.abs(weights[names[3]]) + np.float32(0.5)
        return node(kind, [read, *names], [name], epsilon=1e-3)
    operator, *one = kind.split(" of ")
    weights[f"{name}.by"] = normal(*((1,) if one else (16, 1, 1)), seed=seed)
    return node(operator, [read, f"{name}.by"] if seed % 2 else [f"{name}.by", read], [name])


def folded(proto):
    opened = load(proto)
    editor = Editor(opened, scopes_of(opened.proto)[0])
    counts = [fold(opened, weight, each, editor) for weight, each in dense_convolutions(opened)]
    remove_unused(opened)
    return opened, counts


@settings(max_examples=25)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.booleans())
def test_outputs_stay_and_the_nodes_go(kinds, biased):
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "a", 8, 16, 1, weights)]
    if not biased:
        del nodes[0].input[2], weights["a.bias"]
    last = "a"
    for place, kind in enumerate(kinds):
        nodes.append(behind(kind, last, f"n{place}", weights))
        last = f"n{place}"
    nodes.append(node("Relu", [last], ["r"]))
    proto = closed(nodes, "r", 16, weights)
    opened, counts = folded(proto)
    assert counts == [len(kinds), 0]
    assert [each.op_type for each in opened.proto.graph.node] == ["Conv", "Relu", "Conv", "GlobalAveragePool"]
    assert len(opened.proto.graph.initializer) <= 4
    feeds = {"x": samples(2)}
    (before,), (after,) = run(proto, feeds), run(serialise(opened), feeds)
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reader", ["another node", "itself", "a number for each place"])
def test_what_is_no_channel_by_channel_step_of_one_reader_stays(reader):
    weights: dict[str, np.ndarray] = {}
    nodes = [conv("x", "a", 8, 16, 1, weights), behind("BatchNormalization", "a", "n", weights)]
    if reader == "another node":
        nodes += [node("Add", ["n", "a"], ["r"])]
    elif reader == "itself":
        nodes[1] = node("Mul", ["a", "a"], ["n"])
        nodes += [node("Relu", ["n"], ["r"])]
    else:
        weights["place"] = normal(1, 1, 12, 12)
        nodes[1] = node("Mul", ["a", "place"], ["n"])
        nodes += [node("Relu", ["n"], ["r"])]
    assert folded(closed(nodes, "r", 16, weights))[1] == [0, 0]
