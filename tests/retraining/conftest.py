"""A folder with a model, a trainer and a judge."""

from __future__ import annotations

import pytest

from tests.helpers.builders import mlp
from tests.retraining.rounds import JUDGE, SIZES, TRAINER


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(mlp(SIZES).SerializeToString())
    (tmp_path / "train.py").write_text(TRAINER)
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path
