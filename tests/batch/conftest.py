"""Folders of models, compressed in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.batch import compress_many as many
from onnxprune.core.workers import spread
from onnxprune.runtime import session
from tests.batch.folders import put, put_external


@pytest.fixture
def models(tmp_path) -> Path:
    folder = tmp_path / "models"
    put(folder / "b.onnx")
    put(folder / "deep" / "er" / "a.onnx", seed=1)
    put_external(folder / "deep" / "c.onnx", "c.data", seed=2)
    (folder / "deep" / "read.me").write_text("no model")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "h.onnx").write_text("no model")
    return folder


@pytest.fixture
def here(monkeypatch):
    """Without processes, whose start takes longer than all else."""
    monkeypatch.setattr(many, "spread", lambda function, items, *, shared, **_: spread(function, items, shared=shared))
    monkeypatch.setattr(session, "_threads", 0)
