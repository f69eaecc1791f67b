"""Weights that a graph tool made dense again."""

from __future__ import annotations

import onnx
import onnxruntime as ort

import onnxprune
from tests.helpers.builders import mlp
from tests.helpers.commands import call


def test_a_file_that_an_optimiser_wrote_is_told(tmp_path):
    onnx.save(mlp((96, 96, 96)), tmp_path / "m.onnx")
    onnxprune.compress(tmp_path / "m.onnx", tmp_path / "c.onnx", sparsity=0.8, values="exact", verify=False)
    assert onnxprune.expanded(tmp_path / "c.onnx") == onnxprune.expanded(tmp_path / "m.onnx") == []
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(str(tmp_path / "c.onnx"), options, providers=["CPUExecutionProvider"])
    assert len(onnxprune.expanded(tmp_path / "o.onnx")) == 2
    assert "2 weights were encoded and are dense now" in call("inspect", tmp_path / "o.onnx").output
    opened = onnxprune.load(tmp_path / "o.onnx")
    before = opened.to_bytes()
    assert onnxprune.expanded(opened) == onnxprune.expanded(tmp_path / "o.onnx")
    assert opened.to_bytes() == before
    onnxprune.decode(tmp_path / "c.onnx", tmp_path / "d.onnx", verify=False)
    assert onnxprune.expanded(tmp_path / "d.onnx") == []


def test_what_was_done_last_is_said_last(tmp_path):
    """Encoded, decoded and encoded again: each pass is said once, and the file counts as encoded."""
    onnx.save(mlp((96, 96, 96)), tmp_path / "a.onnx")
    onnxprune.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", sparsity=0.9, verify=False)
    said = []
    for source, target, step in (
        ("b", "c", "encode"),
        ("c", "d", "decode"),
        ("d", "e", "encode"),
        ("e", "f", "encode"),
    ):
        onnxprune.transform(tmp_path / f"{source}.onnx", tmp_path / f"{target}.onnx", [step], verify=False)
        held = {entry.key: entry.value for entry in onnx.load(tmp_path / f"{target}.onnx").metadata_props}
        said.append(held["onnxprune.passes"].split()[1:])
    assert [[spec.partition("{")[0] for spec in each] for each in said] == [
        ["encode"], ["encode", "decode"], ["decode", "encode"], ["decode", "encode"]
    ]  # fmt: skip
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(str(tmp_path / "e.onnx"), options, providers=["CPUExecutionProvider"])
    assert len(onnxprune.expanded(tmp_path / "o.onnx")) == 2
