"""Several models at once: each for itself, nothing done twice, nothing half-written, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.batch import compress_many as many
from onnxprune.batch.ledger import NAME
from onnxprune.core.files import alone_in
from onnxprune.core.threads import cores
from onnxprune.core.workers import spread
from onnxprune.errors import DataError, ModelError, OptionError, OutputError
from onnxprune.runtime import session
from tests.helpers.builders import mlp
from tests.helpers.commands import call
from tests.helpers.processes import command_line, local_cluster
from tools.bench.crowd import await_outputs, begin, workers
from tools.bench.made import crowd

SIZES = (32, 64, 8)
FAST = {"sparsity": 0.5, "values": "exact", "verify": False}


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mlp(sizes=SIZES, seed=seed).SerializeToString())
    return path


def put_external(path: Path, data: str, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(mlp(sizes=(64, 128, 8), seed=seed), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


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
    monkeypatch.setattr(many, "spread", lambda function, items, **options: spread(function, items))
    monkeypatch.setattr(session, "_threads", 0)


def files(folder: Path) -> dict[str, bytes]:
    """What is there, but for the ledger, whose lines come in the order in which models are finished."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != NAME}


def states(batch) -> dict[str, str]:
    return {model.path: model.status for model in batch.models}


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.onnx") if p.parent.name[-4:] != ".tmp"
    }


# what is compressed, and where it goes -------------------------------------------------------------------


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


# what is done again ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_a_rerun_does_what_is_not_done(models, tmp_path):
    out = tmp_path / "out"
    a, b, c = models / "deep" / "er" / "a.onnx", models / "b.onnx", models / "deep" / "c.onnx"

    def rerun(**options) -> list[str]:
        """The models that were compressed; what the others have is neither touched nor told otherwise."""
        before, batch = stamps(out), onnxprune.compress_many([models], out, **(FAST | options))
        assert batch.exit_code == 0
        done = [m for m in batch.models if m.status == "done"]
        written = {o for o, stamp in stamps(out).items() if before.get(o) != stamp}
        assert written == {str(Path(m.output).relative_to(out)) for m in done}
        assert all(m.result["output"]["bytes"] > 0 for m in batch.models)
        return sorted(Path(m.path).name for m in done)

    assert rerun() == ["a.onnx", "b.onnx", "c.onnx"]
    assert rerun() == []
    first = files(out)
    assert rerun(sparsity=0.6) == ["a.onnx", "b.onnx", "c.onnx"]
    assert rerun() == ["a.onnx", "b.onnx", "c.onnx"]
    assert files(out) == first

    put(b, seed=9)  # another model
    assert rerun() == ["b.onnx"]
    os.utime(b)  # the same in another second
    assert rerun() == []
    data = bytearray((models / "deep" / "c.data").read_bytes())
    data[5] ^= 1
    (models / "deep" / "c.data").write_bytes(data)  # the model itself is the same
    assert rerun() == ["c.onnx"]
    (out / "deep" / "er" / "a.onnx").unlink()
    assert rerun() == ["a.onnx"]
    (companion,) = (out / "deep").glob("c.*.data")
    companion.write_bytes(companion.read_bytes()[:-1])
    assert rerun() == ["c.onnx"]
    companion.unlink()
    assert rerun() == ["c.onnx"]
    shutil.copy(out / "b.onnx", out / "deep" / "er" / "a.onnx")
    assert rerun() == ["a.onnx"]
    assert put(models / "d.onnx", seed=5)
    assert rerun() == ["d.onnx"]
    a.unlink()
    c.unlink()
    assert rerun() == []
    assert (out / "deep" / "er" / "a.onnx").is_file(), "what was made of a model outlives it"


@pytest.mark.usefixtures("here")
def test_other_data_is_other_options(tmp_path):
    model, data = put(tmp_path / "m.onnx"), tmp_path / "d.npz"
    for seed, status in ((0, "done"), (0, "skipped"), (1, "done"), (1, "skipped")):
        np.savez(data, x=np.random.default_rng(seed).random((4, SIZES[0]), np.float32))
        batch = onnxprune.compress_many([model], tmp_path / "out", data=data)
        assert states(batch) == {str(model): status}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("harm", ["torn", "other version", "garbage", "not UTF-8", "gone"])
def test_a_damaged_ledger_costs_work_and_no_more(models, tmp_path, harm):
    out = tmp_path / "out"
    onnxprune.compress_many([models], out, **FAST)
    expected, lines = files(out), (out / NAME).read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    (out / NAME).write_bytes({
        "torn": lines[0] + lines[1] + lines[2][:-9],
        "other version": b"".join(line.replace(b'"version": 1', b'"version": 2') for line in lines[2:]) + lines[0],
        "garbage": b'null\n[]\n{"version": 1}\n{"version": 1, "output": 1, "key": 2, "files": 3}\n' + lines[0],
        "not UTF-8": b"\xff\xfe\n" + lines[0],
        "gone": b"",
    }[harm])  # fmt: skip
    for left in ({"torn": 1, "gone": 3}.get(harm, 2), 0):
        batch = onnxprune.compress_many([models], out, **FAST)
        assert (batch.exit_code, batch.count("done")) == (0, left)
    assert files(out) == expected
    assert len((out / NAME).read_bytes().splitlines()) == 3


def test_two_runs_do_not_share_a_folder(models, tmp_path):
    with alone_in(tmp_path / "out"), pytest.raises(OutputError, match="another run is working in"):
        onnxprune.compress_many([models], tmp_path / "out", **FAST)


# the command -----------------------------------------------------------------------------------------------


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
    one = session.ort.SessionOptions()
    one.intra_op_num_threads = 1  # a caller's own choice stands: a scan's trials have one thread each
    assert session.open_session(tmp_path / "m.onnx", options=one).get_session_options().intra_op_num_threads == 1
    assert cores() >= 1


# killed ----------------------------------------------------------------------------------------------------


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
