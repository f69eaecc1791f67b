"""What ONNX Runtime does with encoded weights, seen in a run: decoded once, read by a kernel, decoded at each run."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.compose
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.errors import DataError
from onnxprune.layer_costs.decoding import Decoding
from tests.helpers.builders import info, model, node, normal
from tests.helpers.commands import call

RELEASE = tuple(map(int, ort.__version__.split(".")[:2]))


@pytest.fixture
def files(tmp_path):
    """A dense model of a matrix product and a convolution, and functions that encode it."""
    nodes = [
        node("MatMul", ["x", "first"], ["h"]), node("Reshape", ["h", "sizes"], ["image"]),
        node("Conv", ["image", "kernel"], ["y"]),
    ]  # fmt: skip
    weights = {"first": normal(64, 256), "kernel": normal(64, 16, 4, 4, seed=1), "sizes": np.array([-1, 16, 4, 4])}
    onnx.save(model(nodes, [info("x", ["N", 64])], [info("y", ["N", 64, 1, 1])], weights), tmp_path / "m.onnx")
    onnxprune.prune(tmp_path / "m.onnx", tmp_path / "p.onnx", sparsity=0.6, verify=False)

    def encoded(values: str, encoding: str):
        result = onnxprune.encode(tmp_path / "p.onnx", tmp_path / "e.onnx", values=values, encoding=encoding)
        return tmp_path / "e.onnx", result.deviation.decoding

    return encoded


@pytest.mark.parametrize("encoding", ["flat", "rows", "bitmask", "dense"])
def test_what_folds_is_not_timed(files, encoding):
    path, seen = files("shared:4", encoding)
    assert set(seen.folded) == {"first", "kernel"}
    assert not seen.fused
    assert not seen.each_run
    assert seen.latency_ms == {}
    assert onnxprune.decoding(path) == seen


@pytest.mark.skipif(RELEASE < (1, 25), reason="older releases have no such kernel")
def test_what_a_kernel_reads_is_timed_beside_the_dense_model(files):
    path, seen = files("int8", "flat")
    assert (seen.folded, seen.fused, seen.each_run) == (["kernel"], ["first"], [])
    assert set(seen.latency_ms) == {"before", "after"}
    assert seen.slower == pytest.approx(seen.latency_ms["after"] / seen.latency_ms["before"])
    text = call("compat", path, "--run").stdout
    assert "first   read as integers" in text
    assert "kernel  decoded at load" in text
    assert "ms a run, measured here" in text
    held = json.loads(call("compat", path, "--run", "--json").stdout)["decoding"]
    assert (held["folded"], held["fused"], held["each_run"]) == (["kernel"], ["first"], [])


@pytest.mark.skipif(RELEASE < (1, 25), reason="older releases have no such kernel")
def test_weights_that_stay_as_they_are_encoded_are_not_timed(files, tmp_path):
    path, _ = files("int8", "flat")
    assert "speed" not in call("verify", path, path).stdout
    assert "speed" not in call("encode", path, "-o", tmp_path / "again.onnx").stdout
    assert "speed       " in call("verify", tmp_path / "p.onnx", path).stdout


def test_a_run_that_was_timed_has_one_line(tmp_path):
    """Rows of a table are decoded at each run: nothing is said of zeros besides."""
    proto = model(
        [node("Gather", ["t", "i"], ["y"])],
        [info("i", ["n"], onnx.TensorProto.INT64)],
        [info("y", ["n", 64])],
        {"t": normal(6000, 64)},
    )
    onnx.save(proto, tmp_path / "m.onnx")
    shown = call("compress", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx").stdout
    assert "1 table is decoded row by row" in shown
    assert shown.count("  speed  ") == 1


@pytest.mark.skipif(RELEASE < (1, 27), reason="older releases fold nodes of unknown size")
def test_a_file_that_lost_its_declared_shapes_is_decoded_at_each_run_and_that_is_said(files, tmp_path):
    path, seen = files("half", "bitmask")
    assert not seen.each_run
    stripped = onnx.load(path)
    del stripped.graph.value_info[:]
    onnx.save(stripped, tmp_path / "s.onnx")
    seen = onnxprune.decoding(tmp_path / "s.onnx")
    assert set(seen.each_run) == {"first", "kernel"}
    shown = call("verify", path, tmp_path / "s.onnx")
    assert "at every run, by onnxruntime" in shown.stdout
    assert "'first'" in shown.stdout
    prefixed = tmp_path / "net.onnx"
    onnx.save(onnx.compose.add_prefix(stripped, "net_"), prefixed)
    assert set(onnxprune.decoding(prefixed).each_run) == {"net_first", "net_kernel"}


def test_a_dense_model_decodes_nothing(files, tmp_path):
    assert onnxprune.decoding(tmp_path / "m.onnx") == Decoding()
    assert onnxprune.verify(tmp_path / "m.onnx", tmp_path / "p.onnx").decoding is None


def test_it_runs_on_data_too(files, tmp_path):
    path, _ = files("int8", "flat")
    np.savez(tmp_path / "data.npz", x=normal(4, 64, seed=9))
    assert onnxprune.decoding(path, data=tmp_path / "data.npz").folded == ["kernel"]
    np.savez(tmp_path / "bad.npz", z=normal(4, 64, seed=9))
    with pytest.raises(DataError):
        onnxprune.decoding(path, data=tmp_path / "bad.npz")
