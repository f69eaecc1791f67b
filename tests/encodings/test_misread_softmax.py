"""A Softmax of several axes, which some runtimes take along one: for these the opset is raised."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.model.model import Model
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import put, run

ROWS = {"x": normal(2, 3, 64, seed=1)}


def several(opset: int, kind: str = "Softmax", **attributes: int) -> ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(kind, ["h"], ["y"], **attributes)]
    return model(nodes, [info("x", [2, 3, 64])], [info("y", [2, 3, 48])], {"w": normal(64, 48) / 64}, opset=opset)


def compressed(folder, proto, *targets):
    source = put(folder / "m.onnx", proto)
    result = onnxprune.compress(source, folder / "o.onnx", target=targets)
    before, after = (run(path.read_bytes(), ROWS)[0] for path in (source, folder / "o.onnx"))
    assert np.square(before - after).sum() < 0.02 * np.square(before).sum()
    return Model.load(folder / "o.onnx"), result


@pytest.mark.parametrize("target", ["openvino", "opencv", "mnn", "litert", "any"])
@pytest.mark.parametrize(("kind", "axis"), [("Softmax", {}), ("Softmax", {"axis": 1}), ("LogSoftmax", {"axis": 1})])
@pytest.mark.parametrize("opset", [9, 11, 12])
def test_it_is_raised_to_where_all_read_it_right(tmp_path, target, kind, axis, opset):
    opened, result = compressed(tmp_path, several(opset, kind, **axis), target)
    assert opened.opset == 13
    assert any(f"raised from {opset} to 13" in note for note in result.notes)
    kinds = [each.op_type for each in opened.proto.graph.node]
    assert kinds.index("Flatten") < kinds.index(kind) < kinds.index("Reshape", kinds.index(kind))


@pytest.mark.parametrize("axis", [2, -1])
def test_that_of_the_last_axis_stays(tmp_path, axis):
    opened, _ = compressed(tmp_path, several(12, axis=axis), "openvino")
    assert opened.opset == 12


@pytest.mark.parametrize("target", ["tract", "tvm", "onnxruntime>=1.32", "onnxruntime-web"])
def test_for_runtimes_that_read_it_right_nothing_changes(tmp_path, target):
    opened, _ = compressed(tmp_path, several(12, axis=1), target)
    assert "Flatten" not in [each.op_type for each in opened.proto.graph.node]


def test_what_may_not_be_raised_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.runtime.opset.equal", lambda a, b: False)
    opened, result = compressed(tmp_path, several(11, axis=1), "openvino", "opencv")
    assert opened.opset == 11
    assert {"opencv", "openvino"} == {note.split()[0] for note in result.notes if "along one axis of several" in note}


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_opencv_computes_it(tmp_path, kind):
    cv2 = pytest.importorskip("cv2")
    compressed(tmp_path, several(11, kind, axis=1), "opencv")
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "o.onnx"))
    net.setInput(ROWS["x"])
    right = run((tmp_path / "o.onnx").read_bytes(), ROWS)[0]
    np.testing.assert_allclose(net.forward().reshape(right.shape), right, atol=1e-5)


def test_compat_names_who_misreads_it(tmp_path):
    compressed(tmp_path, several(12, axis=1), "tract")
    facts = onnxprune.compat(tmp_path / "o.onnx")
    assert facts.wrong == ["litert", "mnn", "opencv", "openvino"]
    assert "tract" in facts.targets
    compressed(tmp_path, several(12, axis=1), "openvino")
    assert "openvino" in onnxprune.compat(tmp_path / "o.onnx").targets
