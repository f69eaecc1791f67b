"""A model to report on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.builders import mlp
from tests.helpers.running import put


@pytest.fixture
def source(tmp_path) -> Path:
    return put(tmp_path / "m.onnx", mlp(sizes=(64, 128, 10)))
