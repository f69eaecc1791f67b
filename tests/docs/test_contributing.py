"""The pass, the encoding, the value form and the coupling rule of CONTRIBUTING.md do what it says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import encodings
from tests.helpers.builders import matmul, normal
from tests.helpers.documents import fences, folder_of
from tests.helpers.repository import ROOT
from tests.helpers.running import load


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """A file that CONTRIBUTING.md shows, as a module."""
    folder = folder_of(tmp_path, monkeypatch)

    def module(file: str) -> ModuleType:
        (body,) = (fence.body for fence in fences(ROOT / "CONTRIBUTING.md") if fence.notes.get("file") == file)
        name = f"contributed_{Path(file).stem}"
        (folder / f"{name}.py").write_text(body)
        return importlib.import_module(name)

    return module


def weights(path: str) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if len(t.dims) > 1}


def test_the_pass(contributed):
    clip = contributed("passes/onnxprune_passes/clip.py").Clip(limit=0.01)
    result = onnxprune.transform("models/lenet-300-100.onnx", "clipped.onnx", [clip], verify=False)
    assert result.passes == ["clip{limit=0.01}"]
    assert {float(np.abs(array).max()) for array in weights("clipped.onnx").values()} == {float(np.float32(0.01))}
    onnxprune.transform("clipped.onnx", "again.onnx", [clip], verify=False)
    assert Path("again.onnx").read_bytes() == Path("clipped.onnx").read_bytes()


def test_the_test_of_the_pass(contributed, monkeypatch):
    clip = contributed("passes/onnxprune_passes/clip.py")
    monkeypatch.setitem(sys.modules, "onnxprune_passes.clip", clip)
    contributed("tests/passes/test_clip.py").test_no_entry_is_beyond_the_limit()


def test_the_pass_changes_a_weight_with_nan_once(contributed):
    clip = contributed("passes/onnxprune_passes/clip.py").Clip(limit=0.3)
    weight = normal(64, 32)
    weight[0, :2] = np.nan, -np.inf
    opened = load(matmul(weight))
    assert clip.run(opened).modified
    assert not clip.run(opened).modified


def test_the_encoding(contributed, monkeypatch):
    coordinates = contributed("onnxprune/encodings/positions/coordinates.py").Coordinates()
    monkeypatch.setitem(encodings.GRAPH, coordinates.name, coordinates)
    onnxprune.prune("models/lenet-300-100.onnx", "pruned.onnx", sparsity=0.9, verify=False)
    for values in ("exact", "shared:4"):
        result = onnxprune.encode("pruned.onnx", "small.onnx", encoding=coordinates.name, values=values)
        assert {weight.encoding.split()[0] for weight in result.weights if weight.kind == "gemm"} == {coordinates.name}
        assert values != "exact" or all(output["max_abs"] == 0 for output in result.deviation.outputs)
        decoded = onnxprune.decode("small.onnx", "dense.onnx")
        assert all(output["max_abs"] == 0 for output in decoded.deviation.outputs)


def test_the_value_form(contributed, monkeypatch):
    brain = contributed("onnxprune/encodings/values/brain.py").Brain
    monkeypatch.setitem(encodings.FORMS, brain.name, brain)
    result = onnxprune.encode("models/lenet-300-100.onnx", "small.onnx", values=brain.name)
    assert result.ratio > 1.9
    onnxprune.decode("small.onnx", "dense.onnx", verify=False)
    before, after = weights("models/lenet-300-100.onnx"), weights("dense.onnx")
    assert all((np.abs(after[name] - before[name]) <= np.abs(before[name]) / 256).all() for name in before)


def test_the_coupling_rule(contributed, monkeypatch):
    """With it a channel goes that nothing reads behind an LpNormalization."""
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((6, 3, 3, 3)), rng.standard_normal((4, 6, 3, 3))]
    kernels[1][:, 4] = 0
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("LpNormalization", ["a"], ["b"], axis=2),
        helper.make_node("Conv", ["b", "w1"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["N", c, s, s]) for name, c, s in (("x", 3, 8), ("y", 4, 4))]
    held = [numpy_helper.from_array(kernel.astype(np.float32), f"w{i}") for i, kernel in enumerate(kernels)]
    graph = helper.make_graph(nodes, "normalised", ends[:1], ends[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    assert onnxprune.strip("m.onnx", "same.onnx").removed == []
    axes = contributed("onnxprune/channels/coupling/elementwise_rules.py").lp_normalization_axes
    rules = importlib.import_module("onnxprune.channels.coupling.rules")
    mixing = importlib.import_module("onnxprune.channels.coupling.elementwise_rules").mixing
    monkeypatch.setitem(rules._RULES, ("", "LpNormalization"), mixing(axes))
    removed = onnxprune.strip("m.onnx", "thin.onnx", multiple=1).removed
    assert [(cut.name, cut.axis, cut.indices) for cut in removed] == [("w0", 0, [4]), ("w1", 1, [4])]
