"""A model to search and samples of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.builders import mlp


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "m.onnx").write_bytes(mlp(sizes=(20, 40, 30, 10)).SerializeToString())
    return tmp_path / "m.onnx"


@pytest.fixture
def data(tmp_path) -> Path:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).standard_normal((150, 20)).astype(np.float32))
    return tmp_path / "d.npz"
