"""Several models at once: each for itself, and where it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import onnxprune
from onnxprune.errors import DataError, ModelError, OptionError, OutputError
from tests.batch.folders import FAST, files, put, put_external, states


def test_each_is_what_it_is_alone(models, tmp_path):
    """The same bytes as one by one, whatever the number of processes, where they lie below their folders."""
    other = put(tmp_path / "more" / "z.onnx", seed=3)
    for jobs in (1, 2):
        batch = onnxprune.compress_many([other, models], tmp_path / f"out{jobs}", jobs=jobs, **FAST)
        assert batch.exit_code == 0
        outputs = ["z.onnx", "b.onnx", "deep/c.onnx", "deep/er/a.onnx"]
        assert [model.output for model in batch.models] == [str(tmp_path / f"out{jobs}" / o) for o in outputs]
    assert files(tmp_path / "out1") == files(tmp_path / "out2")
    assert {o for o in files(tmp_path / "out1") if o.endswith(".onnx")} == set(outputs)
    (tmp_path / "alone").mkdir()
    for model in batch.models:
        result = onnxprune.compress(model.path, tmp_path / "alone" / Path(model.output).name, **FAST)
        assert Path(model.output).read_bytes() == Path(result.output.path).read_bytes()
        assert model.result["output"]["bytes"] == result.output.bytes
        assert model.result["weights"] == [vars(weight) for weight in result.weights]


@pytest.mark.usefixtures("here")
def test_progress_ends_at_all_of_them(models, tmp_path):
    heard = []
    onnxprune.compress_many([models], tmp_path / "out", progress=lambda *told: heard.append(told), **FAST)
    assert heard == [("models", done, 3) for done in (1, 2, 3)]


@pytest.mark.usefixtures("here")
def test_external_data_that_is_called_a_model_is_none(tmp_path):
    put_external(tmp_path / "in" / "m.onnx", "weights.onnx")
    for status in ("done", "skipped"):
        batch = onnxprune.compress_many([tmp_path / "in"], tmp_path / "out", **FAST)
        assert states(batch) == {str(tmp_path / "in" / "m.onnx"): status}


@pytest.mark.usefixtures("here")
def test_an_output_folder_in_the_input_folder_is_no_input(models):
    for status in ("done", "skipped"):
        batch = onnxprune.compress_many([models], models / "deep" / "out", **FAST)
        assert set(states(batch).values()) == {status}
        assert len(batch.models) == 3


@pytest.mark.parametrize(
    ("given", "out", "error", "said"),
    [
        ("models", "models", OutputError, "models is an input as well: choose another folder"),
        ("models models/deep/../b.onnx other/b.onnx", "out", OptionError, "b.onnx would both be written to"),
        ("models nothing.onnx", "out", ModelError, "nothing.onnx: no such file or folder"),
        ("models empty", "out", ModelError, "empty holds no .onnx file"),
        ("models other/b.onnx", "other", OptionError, "would both be written"),
        ("models/deep other/b.onnx", "other", OutputError, "b.onnx would lie among the inputs"),
        ("nested/models", "nested", OutputError, "models/x.onnx would lie among the inputs"),
        ("models", "models/b.onnx", OutputError, "b.onnx is not a folder"),
        ("models", "models/b.onnx/out", OutputError, "cannot use the folder"),
    ],
)
def test_requests_that_cannot_be_met(models, tmp_path, given, out, error, said):
    put(tmp_path / "other" / "b.onnx", seed=4)
    put(tmp_path / "nested" / "models" / "models" / "x.onnx")
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    with pytest.raises(error, match=said.replace(".", r"\.")):
        onnxprune.compress_many([tmp_path / name for name in given.split()], tmp_path / out, **FAST)
    assert files(tmp_path) == before


def test_a_folder_that_cannot_be_read(models, tmp_path, monkeypatch):
    real = os.listdir

    def listdir(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(ModelError, match=r"cannot read the folder .*deep: Permission denied"):
        onnxprune.compress_many([models], tmp_path / "out", **FAST)


@pytest.mark.usefixtures("here")
def test_links(models, tmp_path):
    """Links are followed, those that lead back are told, and a broken one is one failure."""
    (models / "deep" / "up").symlink_to("..")
    (models / "beside").symlink_to("deep/er")
    (models / "none.onnx").symlink_to("none.onnx")
    batch = onnxprune.compress_many([models, models / "b.onnx"], tmp_path / "out", **FAST)
    outputs = {str(Path(m.output).relative_to(tmp_path / "out")): m.status for m in batch.models}
    assert outputs == {
        "b.onnx": "done", "beside/a.onnx": "done", "deep/c.onnx": "done", "deep/er/a.onnx": "done",
        "none.onnx": "failed",
    }  # fmt: skip
    assert len(batch.notes) == 2
    assert "up is a link back to" in batch.notes[0]
    assert "b.onnx was given twice and is compressed once" in batch.notes[1]


def test_options_of_one_model(models, tmp_path):
    for name in ("masks", "names_from", "in_place"):
        with pytest.raises(OptionError, match=f"{name.replace('_', '-')} is of one model"):
            onnxprune.compress_many([models], tmp_path / "out", **{name: "x"})
    with pytest.raises(DataError, match="no data at"):
        onnxprune.compress_many([models], tmp_path / "out", data=tmp_path / "none.npz")
    with pytest.raises(OptionError, match="jobs must be at least 1, not 0"):
        onnxprune.compress_many([models], tmp_path / "out", jobs=0)
