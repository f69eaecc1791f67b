"""Checkpoints of every kind, and what is none."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from onnxprune.errors import CheckpointError
from onnxprune.masks import checkpoints
from onnxprune.masks.matching.match import match
from tests.helpers.builders import matmul, normal
from tests.helpers.running import load

FLOAT, HALF, BFLOAT, DOUBLE = np.float32, np.float16, ml_dtypes.bfloat16, np.float64


def test_checkpoints(tmp_path):
    arrays = {"a": normal(4, 5), "b": normal(3).astype(HALF), "n": np.arange(3)}
    save_file(arrays | {"c": np.zeros(0, FLOAT)}, tmp_path / "c.safetensors")
    np.savez(tmp_path / "c.npz", **arrays)
    for suffix in ("safetensors", "npz"):
        read = checkpoints.read(tmp_path / f"c.{suffix}")
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".h5", ""])
def test_what_is_no_checkpoint(tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    with pytest.raises(CheckpointError, match=path.name):
        checkpoints.read(path)
    for data in (b"", b"hello" * 20, b"PK\3\4 nothing", bytes(100)):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoints.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=path.name):
        checkpoints.read(path)


def test_without_torch(tmp_path, monkeypatch):
    (tmp_path / "c.pt").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match="needs torch"):
        checkpoints.read(tmp_path / "c.pt")


def test_an_empty_checkpoint(tmp_path):
    np.savez(tmp_path / "c.npz")
    with pytest.raises(CheckpointError, match="holds no arrays"):
        checkpoints.read(tmp_path / "c.npz")
    assert match(load(matmul()), {}).parameters == {}
