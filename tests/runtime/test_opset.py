"""Models that are raised to the opset that an encoding needs, and those that keep theirs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.core.chunked import ChunkedArray
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.discovery import find, opset_of
from onnxprune.model.model import Model
from onnxprune.runtime import opset
from onnxprune.runtime.session import equal
from tests.helpers import builders
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.running import encoded, feeds_of, outputs, put, run, serialise


def followed_by(kind: str, **attributes):
    """A layer, and an operator of opset 9 behind it."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(kind, ["h"], ["y"], **attributes)]
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", "M"])], {"w": normal(64, 32)}, opset=9)


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Each model as it is, and as if it were too large to be run so."""
    if request.param == "large":
        monkeypatch.setattr(opset, "_LARGE", 0)
        monkeypatch.setattr(opset, "_ENTRIES", 256)
        monkeypatch.setattr(Model, "write", None)  # nothing as large as the model is written either


@pytest.mark.usefixtures("size")
def test_an_old_model_is_raised_to_opset_11_when_its_outputs_stay_equal():
    before, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.95)
    assert opened.opset == 11
    assert "raised from 9 to 11" in change.notes[0]
    assert {p.encoding for p in encoded_weights(opened)} <= {"flat", "rows"}
    assert outputs(opened.to_bytes()) == outputs(before.to_bytes())


def test_no_model_is_raised_that_gains_nothing():
    _, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.5)
    assert opened.opset == 9
    assert not change.notes
    assert {p.encoding for p in encoded_weights(opened)} == {"bitmask"}


@pytest.mark.usefixtures("size")
def test_outputs_that_would_differ_keep_the_opset(monkeypatch):
    monkeypatch.setattr(opset, "equal", lambda a, b: False)
    _, opened, change = encoded(followed_by("Clip", min=-1.0, max=1.0), sparsity=0.95)
    assert opened.opset == 9
    assert "its outputs differ" in change.notes[0]


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize(
    "old", [("Clip", {"min": -1.0, "max": 1.0}), ("Pad", {"pads": [0, 0, 0, 1], "mode": "constant"})]
)
def test_attributes_that_became_inputs_are_no_hindrance(old):
    before, opened, change = encoded(followed_by(old[0], **old[1]), sparsity=0.95)
    assert opened.opset == 11
    assert "raised from 9 to 11" in change.notes[0]
    assert outputs(opened.to_bytes()) == outputs(before.to_bytes())


@pytest.mark.usefixtures("size")
def test_weights_that_nobody_reads_or_that_say_where_they_are_are_no_hindrance(tmp_path):
    """The first leave the graph before ONNX Runtime takes arrays; the second were no references in memory."""
    proto = followed_by("Clip", min=-1.0, max=1.0)
    proto.graph.initializer.add().CopyFrom(proto.graph.initializer[0])
    proto.graph.initializer[-1].name = "unread"
    for tensor in proto.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT
    opened = Model.load(put(tmp_path / "m.onnx", proto))
    assert {tensor.data_location for tensor in opened.proto.graph.initializer} == {TensorProto.EXTERNAL}
    assert opset.raise_to(opened, 13) == ""
    assert opened.opset == 13


@pytest.mark.usefixtures("size")
def test_what_gets_slower_is_not_raised_so_far():
    """Not even where the bits of both kernels are the same, as those of windows of one entry are."""
    nodes = [
        node("Reshape", ["x", "image"], ["i"]), node("AveragePool", ["i"], ["a"], kernel_shape=[1, 1]),
        node("Reshape", ["a", "row"], ["r"]), node("MatMul", ["r", "w"], ["y"]),
    ]  # fmt: skip
    held = {"w": normal(64, 128), "image": np.array([-1, 1, 8, 8]), "row": np.array([-1, 64])}
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 128])], held, opset=11)
    assert 11 < encoded(proto, sparsity=0.5, values="int8")[1].opset < 19


@pytest.mark.usefixtures("size")
def test_weights_that_are_inputs_too_are_no_hindrance():
    """As all were before IR version 4."""
    proto = followed_by("Clip", min=-1.0, max=1.0)
    proto.graph.input.append(info("w", [64, 32]))
    proto.ir_version = 3
    _, opened, _ = encoded(proto, sparsity=0.95)
    assert opened.opset == 11


@pytest.mark.parametrize("shape", [(40,), (7, 5), (3, 4, 5), (1, 30, 2), (2, 3, 2, 2), (1, 1), (90, 1)])
def test_a_few_rows_stand_for_all(shape, monkeypatch):
    monkeypatch.setattr(opset, "_ENTRIES", 8)
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows, place = opset._rows(ChunkedArray.of(weight))
    assert rows.size <= max(8, rows.shape[1])
    assert (rows.ravel() == weight.ravel()[: rows.size]).all()
    assert rows[place].size == weight.size
    assert set(place) == set(range(len(rows)))


def test_what_the_converter_does_not_get_right_keeps_its_opset_and_the_weights_still_shrink():
    """Hardmax with an axis before the last takes all axes from there on at opset 12, and that axis at 13."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Hardmax", ["h"], ["y"], axis=1)]
    proto = model(nodes, [info("x", ["N", 4, 64])], [info("y", ["N", 4, 32])], {"w": normal(64, 32)}, opset=9)
    before, opened, change = encoded(proto, sparsity=0.95, values="int8")
    assert opened.opset < 13
    assert "the opset stays at 9" in change.notes[0] or opened.opset > 9
    assert outputs(serialise(opened)) == outputs(serialise(before))


def signed(kind: str) -> onnx.ModelProto:
    """int8 activations that are moved before a product, which releases from 1.27 on load below opset 21 alone."""
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]), node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node(kind, ["d", "axes"], ["m"]), node("Relu", ["m"], ["r"]), node("MatMul", ["r", "w"], ["y"]),
    ]  # fmt: skip
    held = {
        "w": normal(64, 128), "scale": np.array(0.03, np.float32), "zero": np.array(0, np.int8),
        "axes": np.array([0, 64] if kind == "Reshape" else [1]),
    }  # fmt: skip
    shape = ["N", 8, 8] if kind == "Reshape" else ["N", 1, 64]
    return model(nodes, [info("x", shape)], [info("y", ["N", 128])], held, opset=17)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("kind", ["Reshape", "Squeeze"])
def test_a_model_that_quantises_loads_optimised_too_whatever_it_is_raised_to(kind):
    _, opened, _ = encoded(signed(kind), sparsity=0.5, values="int8")
    assert run(opened.to_bytes(), feeds_of(signed(kind)))[0].shape == (3, 128)
    assert encoded_weights(opened)


def test_a_function_keeps_to_its_own_opset():
    _, opened, _ = encoded(builders.function())
    own = [w for w in find(opened) if w.scope.path] or [p for p in encoded_weights(opened) if p.scope.path]
    assert [opset_of(opened, item.scope) for item in own] == [17]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ([np.zeros(2), np.zeros(3)], [np.zeros(2), np.zeros(3)], True),
        ([np.zeros(2), np.zeros(3)], [np.zeros(2), np.ones(3)], False),
        ([np.zeros(2)], [np.zeros(2), np.zeros(3)], False),
        (np.array(["a", "bc"], object), np.array(["a", "bc"], object), True),
        (np.array(["a", "bc"], object), np.array(["a", "bd"], object), False),
        (np.zeros(2, np.float32), np.zeros(1, np.float64), False),
        (np.array([np.nan]), np.array([np.nan]), True),
        ({1: np.float32(2)}, {1: np.float32(2)}, True),
        ({1: np.float32(2)}, {2: np.float32(2)}, False),
        (None, None, True),
    ],
)
def test_outputs_of_every_kind_are_the_same_or_not(a, b, same):
    assert equal([{"y": a}], [{"y": b}]) == same


@pytest.mark.usefixtures("size")
def test_a_branch_that_reads_otherwise_keeps_the_opset():
    """The branch that both runs leave out could compute anything."""
    then = helper.make_graph([node("Clip", ["h"], ["a"], min=0.0)], "then", [], [info("a", ["N", 32])])
    other = helper.make_graph([node("Relu", ["h"], ["b"])], "else", [], [info("b", ["N", 32])])
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    ]  # fmt: skip
    inputs = [info("x", ["N", 64]), info("c", [], TensorProto.BOOL)]
    proto = model(nodes, inputs, [info("y", ["N", 32])], {"w": normal(64, 32)}, opset=9)
    _, opened, change = encoded(proto, sparsity=0.95)
    assert opened.opset == 9
    assert "Clip in a branch" in change.notes[0]
