"""Several models again: nothing is done twice."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.allocation.curves import Curve, CurvePoint, Curves
from onnxprune.batch.ledger import NAME
from onnxprune.core.files import alone_in
from onnxprune.errors import CurvesError, MetricError, OutputError
from onnxprune.model.model import Model
from tests.batch.folders import FAST, SIZES, files, put, stamps, states


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
def test_another_metric_of_the_same_name_is_another_option(tmp_path, monkeypatch):
    model = put(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.zeros((4, SIZES[0]), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for answer, status in ((1, "done"), (1, "skipped"), (23, "done"), (23, "skipped")):
        (tmp_path / "edited.py").write_text(f"def metric(outputs, data):\n    return {answer}\n")
        monkeypatch.delitem(sys.modules, "edited", raising=False)  # a run of its own has not imported it
        batch = onnxprune.compress_many(
            [model], tmp_path / "out", data=tmp_path / "d.npz", sparsity=0.5, metric="edited:metric"
        )
        assert states(batch) == {str(model): status}
    with pytest.raises(MetricError, match="cannot be imported"):
        onnxprune.compress_many([model], tmp_path / "out", data=tmp_path / "d.npz", metric="edited:gone")


@pytest.mark.usefixtures("here")
def test_another_scan_of_the_same_name_is_another_option(tmp_path):
    model, place = put(tmp_path / "m.onnx"), tmp_path / "scan.json"
    for metric, status in ((90, "done"), (90, "skipped"), (80, "done"), (80, "skipped")):
        curve = Curve("fc0.weight", "linear", 2048, (CurvePoint(0.5, metric),))
        Curves(Model.load(model).sha256(), "top1", False, 100, 4, "weights", (curve,)).save(place)
        batch = onnxprune.compress_many([model], tmp_path / "out", scan=place, **FAST)
        assert states(batch) == {str(model): status}
    with pytest.raises(CurvesError, match=r"gone\.json: No such file"):
        onnxprune.compress_many([model], tmp_path / "out", scan=tmp_path / "gone.json", **FAST)


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
