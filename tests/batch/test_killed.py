"""Several models, and whoever is killed: nothing is lost, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

import onnxprune
from onnxprune.batch.ledger import NAME
from tests.batch.folders import FAST, files, stamps, states
from tests.helpers.processes import command_line, local_cluster
from tools.bench.crowd import await_outputs, begin, workers
from tools.bench.made import crowd


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_a_worker_that_is_killed_costs_nothing(tmp_path):
    models, out = tmp_path / "models", tmp_path / "out"
    crowd(models, 40, 2)
    asker = begin(models, out, "--json", tmp_path / "f.jsonl")
    await_outputs(asker, out, 5)
    os.kill(workers(asker)[0], signal.SIGKILL)
    stdout, stderr = asker.communicate(timeout=100)
    assert asker.returncode == 1, stderr
    assert "40 models: 38 done, 2 failed" in stdout
    assert stderr.count("Error: ") == stderr.count("\n") == 2
    facts = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [fact["status"] for fact in facts].count("done") == 38
    written = {fact["output"] for fact in facts if fact["status"] == "done"}
    assert {str(p) for p in out.rglob("*") if p.is_file()} == written | {str(out / NAME)}
    onnxprune.compress_many([models], tmp_path / "calm", **FAST)
    assert files(out) == files(tmp_path / "calm")


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_goes_on(tmp_path, number):
    models, out = tmp_path / "models", tmp_path / "out"
    crowd(models, 40, 2)
    asker = begin(models, out)
    await_outputs(asker, out, 5)
    working = workers(asker)
    assert working
    (os.kill if number == signal.SIGKILL else os.killpg)(asker.pid, number)  # a terminal's Ctrl-C goes to all
    stdout, stderr = asker.communicate(timeout=60)
    assert stdout == ""
    if number == signal.SIGKILL:
        end = time.monotonic() + 30
        while any(b"spawn_main" in command_line(str(pid)) for pid in working) and time.monotonic() < end:
            time.sleep(0.05)
    else:
        assert asker.returncode == 130
        assert stderr == "Error: interrupted; the same command goes on from here\n"
        assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]
    assert not any(b"spawn_main" in command_line(str(pid)) for pid in working)
    there = stamps(out)
    assert 5 <= len(there) < 38
    again = begin(models, out, "--json", tmp_path / "f.jsonl")
    stdout, stderr = again.communicate(timeout=60)
    assert (again.returncode, stderr.count("Error: ")) == (1, 2)
    found = [json.loads(line)["status"] for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert (len(found), found.count("failed")) == (40, 2)
    assert found.count("skipped") >= len(there) - 2, "at most what was just being remembered is done again"
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {*stamps(out), NAME}


def test_on_a_cluster(models, tmp_path, monkeypatch):
    (models / "broken.onnx").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)  # relative paths, which the workers need not resolve as the asker does
    with local_cluster() as cluster:
        for status in ("done", "skipped"):
            batch = onnxprune.compress_many(["models"], "out", cluster=cluster.scheduler_address, **FAST)
            assert states(batch) == {
                "models/b.onnx": status, "models/broken.onnx": "failed", "models/deep/c.onnx": status,
                "models/deep/er/a.onnx": status,
            }  # fmt: skip
    (models / "broken.onnx").unlink()
    onnxprune.compress_many([models], tmp_path / "here", **FAST)
    assert files(tmp_path / "out") == files(tmp_path / "here")
