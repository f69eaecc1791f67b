"""Networks that get random weights, and the digits of MNIST."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.repository import TOOLS


@pytest.mark.parametrize("ir_version", [3, 8])
def test_fill_replaces_constant_of_shape(monkeypatch: pytest.MonkeyPatch, ir_version: int) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    fill = importlib.import_module("fill_light").fill

    def model() -> onnx.ModelProto:
        shape = numpy_helper.from_array(np.array([3, 4]), "shape")
        nodes = [
            helper.make_node("ConstantOfShape", ["shape"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", 3), ("y", 4))]
        inputs = [ends[0]]
        if ir_version < 4:
            inputs.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
        graph = helper.make_graph(nodes, "g", inputs, [ends[1]], [shape])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=ir_version)

    filled = fill(model())
    onnx.checker.check_model(filled)
    assert [n.op_type for n in filled.graph.node] == ["MatMul"]
    (weight,) = filled.graph.initializer
    values = numpy_helper.to_array(weight)
    assert values.shape == (3, 4)
    assert len(np.unique(values)) == 12
    assert filled == fill(model())


def test_a_network_is_written_with_weights(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "fill_light.py"), "squeezenet", str(tmp_path / "s.onnx")]
    subprocess.run(command, check=True)
    model = onnx.load(tmp_path / "s.onnx")
    assert "ConstantOfShape" not in {n.op_type for n in model.graph.node}
    assert sum(numpy_helper.to_array(i).size for i in model.graph.initializer) > 1e6


def test_digits_that_were_not_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    mnist = importlib.import_module("mnist")
    monkeypatch.setattr(mnist, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"^Error: .*-ubyte is not there: python tools/fetch_models.py fashion-mnist$"):
        mnist.load("t10k", "fashion")
