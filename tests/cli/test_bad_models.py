"""Models that are no models, or models of another kind: one line that says what is wrong, nothing left behind."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import OnnxPruneError
from tests.cli.bad_files import bad_files
from tests.helpers.builders import mlp
from tests.helpers.commands import SIZES, TOOL
from tests.helpers.repository import LENETS
from tests.helpers.running import put

LENET = LENETS["lenet-5"]


@pytest.mark.parametrize("kind", bad_files())
@pytest.mark.parametrize("command", ["compress", "inspect", "decode"])
def test_not_a_model(refused, tmp_path, kind, command):
    (tmp_path / "bad.onnx").write_bytes(bad_files()[kind])
    output = [] if command == "inspect" else ["-o", tmp_path / "o.onnx"]
    assert "bad.onnx" in refused(1, command, tmp_path / "bad.onnx", *output)


def test_costs_on_data_that_does_not_fit(refused, model, tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 no archive")
    assert "cut.npz" in refused(1, "inspect", model, "--data", tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", nothing=np.zeros((2, 2), np.float32))
    assert "holds no array named" in refused(1, "inspect", model, "--data", tmp_path / "other.npz", "--json")
    assert "samples must be at least 1" in refused(1, "inspect", model, "--samples", "-1")


def test_no_model_there(refused, tmp_path):
    assert "No such file" in refused(1, "inspect", tmp_path / "gone.onnx")
    assert "regular" in refused(1, "inspect", tmp_path)
    assert "regular" in refused(1, "inspect", "/dev/zero")
    assert "gone.onnx" in refused(1, "compress", tmp_path / "gone.onnx")
    refused(1, "compress", "")
    refused(1, "compress", "/")
    refused(1, "compress", "x" * 300)
    assert "gone.onnx" in refused(1, "verify", tmp_path / "gone.onnx", LENET)
    assert "gone.onnx" in refused(1, "verify", LENET, tmp_path / "gone.onnx")


def test_a_pipe_is_refused_and_not_waited_for(refused, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = subprocess.run([TOOL, "inspect", tmp_path / "fifo"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert "regular" in done.stderr


def test_every_truncation(tmp_path):
    whole = LENET.read_bytes()
    boundaries = [0, 1, 2, 7, *np.linspace(10, len(whole) - 1, 60).astype(int), *range(len(whole) - 12, len(whole))]
    for cut in boundaries:
        (tmp_path / "cut.onnx").write_bytes(whole[:cut])
        with pytest.raises(OnnxPruneError, match=r"cut\.onnx"):
            onnxprune.compress(tmp_path / "cut.onnx", verify=False)
        assert os.listdir(tmp_path) == ["cut.onnx"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(refused, tmp_path, value):
    proto = mlp(sizes=SIZES)
    weight = proto.graph.initializer[0]
    array = numpy_helper.to_array(weight).copy()
    array[3, 3] = value
    weight.raw_data = array.tobytes()
    line = refused(1, "compress", put(tmp_path / "nan.onnx", proto))
    assert "fc0.weight" in line


def test_a_weight_that_does_not_fit_its_shape(refused, tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].dims[0] += 1
    assert "fc0.weight" in refused(1, "compress", put(tmp_path / "bad.onnx", proto))


def test_a_model_that_onnxruntime_refuses(refused, tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.node[0].op_type = "Nonsense"
    assert "ONNX Runtime" in refused(1, "compress", put(tmp_path / "bad.onnx", proto))


def test_no_error_of_our_own_is_shown_as_a_traceback(shell, model, monkeypatch):
    """What nobody foresaw is one line as well."""

    def fail(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("onnxprune.api.compress.compress", fail)
    code, out, err = shell("compress", model)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_a_memory_error_is_one_line(shell, model, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("onnxprune.api.compress.compress", fail)
    assert shell("compress", model) == (1, "", "Error: not enough memory for this model\n")
