"""compress on several models: the table, the lines, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
import pytest

from onnxprune.core.threads import cores
from onnxprune.errors import ModelError, OptionError
from onnxprune.runtime import session
from tests.batch.folders import files, put
from tests.helpers.commands import call


@pytest.mark.usefixtures("here")
def test_the_table_and_the_lines(models, tmp_path):
    (models / "broken.onnx").write_bytes(b"nothing")
    lines = []
    for status in ("done", "skipped"):
        result = call("compress", models, "-o", tmp_path / "out", "--json", tmp_path / "f.jsonl", code=1)
        lines.append([json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()])
        assert [Path(line["path"]).name for line in lines[-1]] == ["b.onnx", "broken.onnx", "c.onnx", "a.onnx"]
        assert [line["status"] for line in lines[-1]] == [status, "failed", status, status]
        (error,) = [line["error"] for line in lines[-1] if line["error"]]
        assert error == f"{models / 'broken.onnx'} is not an ONNX model, or it is damaged"
        assert result.stderr == f"Error: {error}\n"
        assert f"4 models: 3 {status}" in result.stdout
        assert "1 failed" in result.stdout
        assert "deep/c.onnx" in result.stdout
    assert [line["result"] for line in lines[0]] == [line["result"] for line in lines[1]]
    assert lines[0][0]["result"]["deviation"]["source"] == "synthetic"
    quiet = call("compress", models, "-o", tmp_path / "out", "-q", code=1)
    assert (quiet.stdout, quiet.stderr.count("\n")) == ("", 1)


@pytest.mark.usefixtures("here")
def test_missed_tolerances_are_3_and_failures_1(models, tmp_path):
    rule = ["--sparsity", "0.9", "--values", "exact", "--metric", "sqnr", "--tolerance", "200"]
    result = call("compress", models, "-o", tmp_path / "out", *rule, "--json", tmp_path / "f.jsonl", code=3)
    assert result.stderr.count("tolerance missed, nothing written") == 3
    assert "3 models: 3 missed the tolerance" in result.stdout
    assert {json.loads(line)["status"] for line in (tmp_path / "f.jsonl").read_text().splitlines()} == {"missed"}
    assert files(tmp_path / "out") == {}
    (models / "broken.onnx").write_bytes(b"")
    call("compress", models, "-o", tmp_path / "out", *rule, code=1)


def test_usage(models, tmp_path):
    for given in ([models], [models / "b.onnx", models / "deep" / "c.onnx"]):
        with pytest.raises(OptionError, match="give -o OUT"):
            call("compress", *given, code=1)
    with pytest.raises(OptionError, match="an empty name"):
        call("compress", "", models, "-o", tmp_path / "out", code=1)
    with pytest.raises(ModelError, match="not a regular file"):  # an empty shell variable is not this folder
        call("compress", "", "-o", tmp_path / "out", code=1)
    assert "several models" in call("compress", models / "b.onnx", "--cluster", "tcp://127.0.0.1:9", code=2).stderr
    assert "MODEL" in call("compress", code=2).stderr


def test_each_process_has_its_share_of_the_cores(monkeypatch, tmp_path):
    put(tmp_path / "m.onnx")
    assert session.open_session(tmp_path / "m.onnx").get_session_options().intra_op_num_threads == 0
    monkeypatch.setattr(session, "_threads", 0)
    session.use_threads(3)
    assert session.open_session(tmp_path / "m.onnx").get_session_options().intra_op_num_threads == 3
    one = ort.SessionOptions()
    one.intra_op_num_threads = 1  # a caller's own choice stands: a scan's trials have one thread each
    assert session.open_session(tmp_path / "m.onnx", options=one).get_session_options().intra_op_num_threads == 1
    assert cores() >= 1
