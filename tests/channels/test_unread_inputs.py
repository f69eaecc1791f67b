"""dead_neurons where a layer does not read all its inputs, and where a branch adds nothing."""

import numpy as np
import onnx
import pytest

from onnxprune_passes import DeadNeurons
from tests.channels.dead_channels import check, untouched
from tests.helpers import graph_checks as checks
from tests.helpers.builders import info, mlp, model, node, normal, tensor


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
