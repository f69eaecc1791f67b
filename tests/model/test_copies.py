"""Copies of a model: large tensors are shared, and what is done to one is not seen in the other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.model import Model


@pytest.fixture
def model(tmp_path) -> Model:
    weight = numpy_helper.from_array(np.arange(2000, dtype=np.float32).reshape(40, 50), "w")
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [weight])), tmp_path / "m.onnx")
    return Model.load(tmp_path / "m.onnx")


def weight_of(model: Model) -> TensorProto:
    return model.proto.graph.initializer[0]


def test_a_copy_is_changed_by_itself(model):
    before, model.spent = model.array(weight_of(model)).copy(), 0.5
    twin = model.copy()
    assert (twin.path, twin.spent, twin.opset) == (model.path, 0.5, model.opset)
    twin.replace(weight_of(twin), before + 1)
    twin.opset += 1
    twin.codings["w"] = None
    added = model.tensor("more", before + 2, TensorProto.FLOAT)  # the tokens of the two do not meet
    assert np.array_equal(model.array(weight_of(model)), before)
    assert np.array_equal(twin.array(weight_of(twin)), before + 1)
    assert np.array_equal(model.array(added), before + 2)
    assert (model.opset, model.codings) == (twin.opset - 1, {})


def test_large_tensors_are_shared(model):
    twin = model.copy()
    token = weight_of(model).external_data[0].value
    assert twin.payloads.get(token) is model.payloads.get(token) is not None
    model.drop(weight_of(model))
    assert twin.array(weight_of(twin))[-1, -1] == 1999


def test_what_memory_does_not_hold_lies_in_files_of_their_own(model, monkeypatch):
    monkeypatch.setattr("onnxprune.model.storage.RESIDENT", 0)
    first = model.tensor("a", np.full(2000, 1, np.float32), TensorProto.FLOAT)
    twin = model.copy()
    mine = model.tensor("b", np.full(2000, 2, np.float32), TensorProto.FLOAT)
    other = twin.tensor("b", np.full(2000, 3, np.float32), TensorProto.FLOAT)
    assert [model.array(tensor)[0] for tensor in (first, mine)] == [1, 2]
    assert [twin.array(tensor)[0] for tensor in (first, other)] == [1, 3]
