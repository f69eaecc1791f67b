"""Models that are raised to the opset that an encoding needs, and those that keep theirs."""

import pytest

from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.discovery import find, opset_of
from onnxprune.runtime import opset
from tests.helpers import builders
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.running import encoded, outputs, serialise


def test_an_old_model_is_raised_to_opset_11_when_its_outputs_stay_equal():
    before, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.95)
    assert opened.opset == 11
    assert "raised from 9 to 11" in change.notes[0]
    assert {p.encoding for p in encoded_weights(opened)} <= {"flat", "rows"}
    assert outputs(serialise(opened)) == outputs(serialise(before))


def test_no_model_is_raised_that_gains_nothing():
    _, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.5)
    assert opened.opset == 9
    assert not change.notes
    assert {p.encoding for p in encoded_weights(opened)} == {"bitmask"}


def test_outputs_that_would_differ_keep_the_opset(monkeypatch):
    monkeypatch.setattr(opset, "equal", lambda a, b: False)
    _, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.95)
    assert opened.opset == 9
    assert "its outputs differ" in change.notes[0]


@pytest.mark.parametrize(
    "old", [("Clip", {"min": -1.0, "max": 1.0}), ("Pad", {"pads": [0, 0, 0, 1], "mode": "constant"})]
)
def test_attributes_that_became_inputs_keep_the_opset_and_the_weights_still_shrink(old):
    kind, attributes = old
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(kind, ["h"], ["y"], **attributes)]
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", "M"])], {"w": normal(64, 32)}, opset=9)
    before, opened, change = encoded(proto, sparsity=0.95)
    assert opened.opset == 9
    assert "the opset stays at 9" in change.notes[0]
    assert {p.encoding for p in encoded_weights(opened)} == {"bitmask"}
    assert outputs(serialise(opened)) == outputs(serialise(before))


def test_a_function_keeps_to_its_own_opset():
    _, opened, _ = encoded(builders.function())
    own = [w for w in find(opened) if w.scope.path] or [p for p in encoded_weights(opened) if p.scope.path]
    assert [opset_of(opened, item.scope) for item in own] == [17]
