"""Models are saved whole or not at all, with external data and scratch files where they must."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.model.model import Model
from tests.helpers.builders import mlp
from tests.model.external_data import external


def test_in_place_on_external_data(tmp_path):
    path = external(tmp_path)
    for value in (1, 2):
        model = Model.load(path)
        model.replace(model.proto.graph.initializer[0], np.full((300, 8), value, np.float32))
        model.save(path)
    assert (numpy_helper.to_array(onnx.load(path).graph.initializer[0]) == 2).all()
    own = [p.name for p in tmp_path.glob("m.????????.data")]
    assert len(own) == 1, "the data of the first overwrite went with it"
    assert (tmp_path / "m.data").exists(), "what somebody else wrote stays"


def test_a_second_output_does_not_break_the_first(tmp_path):
    model = Model.load(external(tmp_path))
    model.save(tmp_path / "o.onnx")
    old = Model.load(tmp_path / "o.onnx")
    model.replace(model.proto.graph.initializer[0], np.ones((300, 8), np.float32))
    model.save(tmp_path / "o.onnx")
    np.testing.assert_array_equal(
        old.array(old.proto.graph.initializer[0]), numpy_helper.to_array(mlp(sizes=(8, 300, 4)).graph.initializer[0])
    )
    assert (numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[0]) == 1).all()


def test_a_model_over_the_protobuf_limit_gets_external_data(tmp_path, monkeypatch):
    proto = mlp(sizes=(64, 64, 64))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    opened = Model.load(tmp_path / "m.onnx")
    monkeypatch.setattr("onnxprune.model.model.PROTOBUF_LIMIT", 2**20 + 20_000)  # 1 MB of slack is kept
    opened.save(tmp_path / "o.onnx")
    (companion,) = tmp_path.glob("o.*.data")
    assert companion.stat().st_size >= 2 * 64 * 64 * 4
    onnx.checker.check_model(tmp_path / "o.onnx", full_check=True)
    assert onnx.load(tmp_path / "o.onnx").graph.node == proto.graph.node
    again = Model.load(tmp_path / "o.onnx")
    for before, after in zip(proto.graph.initializer, again.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(again.array(after), numpy_helper.to_array(before))


def test_new_tensors_beyond_the_budget_go_to_a_scratch_file(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(mlp(sizes=(64, 64, 64)).SerializeToString())
    opened = Model.load(tmp_path / "m.onnx")
    opened.payloads.scratch = tmp_path
    monkeypatch.setattr("onnxprune.model.storage.RESIDENT", 20_000)
    weights = [t for t in opened.proto.graph.initializer if t.name.endswith("weight")]
    for number, tensor in enumerate(weights):
        opened.replace(tensor, np.full((64, 64), number, np.float32))
    assert len(opened.payloads._resident) == 1
    opened.payloads.forget_pages()
    opened.save(tmp_path / "o.onnx")
    assert [numpy_helper.to_array(t).max() for t in onnx.load(tmp_path / "o.onnx").graph.initializer[::2]] == [0, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "o.onnx"]
