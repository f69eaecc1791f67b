"""Sessions on packed models."""

from __future__ import annotations

import tempfile

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.errors import PackedError, RuntimeFailure
from onnxprune.packed import reader
from tests.helpers.builders import mlp
from tests.helpers.running import outputs, put


def answers(session: ort.InferenceSession) -> list[bytes]:
    feeds = {
        i.name: np.ones([d if isinstance(d, int) else 2 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    return [np.asarray(a).tobytes() for a in session.run(None, feeds)]


def test_a_session_opens_either_form(model, small):
    small = small.rename(small.with_name("misleading.onnx"))  # by its magic, not by its name
    options = ort.SessionOptions()
    plain = answers(ort.InferenceSession(model))
    for path in (model, str(model), small, str(small)):
        assert answers(onnxprune.session(path, sess_options=options, providers=["CPUExecutionProvider"])) == plain
    assert outputs(reader.Packed(small).model_bytes()) == outputs(model.read_bytes())


@pytest.mark.parametrize("large", [False, True])
def test_a_session_unpacks_to_a_folder_and_removes_it(external, tmp_path, monkeypatch, large):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if large:
        external = put(tmp_path / "one.onnx", mlp((32, 64, 16)))
        monkeypatch.setattr("onnxprune.api.files.IN_MEMORY", 100)
    onnxprune.pack(external, tmp_path / "m.onnxz")
    expected = answers(ort.InferenceSession(external))
    assert answers(onnxprune.session(tmp_path / "m.onnxz")) == expected
    assert not list(folder.iterdir())


def test_sessions_that_do_not_open(small, tmp_path):
    small.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(PackedError, match="damaged"):
        onnxprune.session(small)
    with pytest.raises(RuntimeFailure, match=r"nowhere\.onnx"):
        onnxprune.session(tmp_path / "nowhere.onnx")
