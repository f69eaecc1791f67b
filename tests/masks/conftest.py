"""A model with its checkpoint, and its masks."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import onnxprune
from tests.helpers.builders import mlp, normal
from tests.helpers.running import initializers, put
from tests.masks.weights import SIZES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mlp_files(folder):
    """m.onnx, its checkpoint c.safetensors in a framework's names and orientation, and a retrained one, r."""
    proto = mlp(SIZES)
    put(folder / "m.onnx", proto)
    arrays = initializers(proto)
    before = {}
    for i in range(2):
        before[f"dense{i}/kernel"] = np.ascontiguousarray(arrays[f"fc{i}.weight"].T)
        before[f"dense{i}/bias"] = arrays[f"fc{i}.bias"]
    save_file(before, folder / "c.safetensors")
    after = {n: a + normal(*a.shape, seed=9) for n, a in before.items()}
    save_file(after, folder / "r.safetensors")
    return before, after


@pytest.fixture
def masked(mlp_files, folder):
    onnxprune.prune("m.onnx", "p.onnx", sparsity=0.9, masks="k.safetensors", names_from="c.safetensors")
    return folder
