"""A scan: what each trial measures, and what is left when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.allocation import curves
from onnxprune.errors import DataError, MetricError, OptionError, OutputError
from onnxprune.runtime.session import open_session, run
from onnxprune.search import sensitivity
from onnxprune.search.trials import opened
from tests.helpers.repository import LENETS

LEVELS = (0.3, 0.8, 0.95)
LENET = LENETS["lenet-5"]


def by_hand(model: Path, data: Path, layer: str, level: float, folder: Path) -> float:
    """Agreement after the layer alone is pruned, from a file in ONNX Runtime."""
    x = np.load(data)["x"]
    onnxprune.prune(model, folder / "pruned.onnx", set=(f"{layer}={level}",), verify=False)
    a, b = (run(open_session(p), {"x": x})["y"].argmax(1) for p in (model, folder / "pruned.onnx"))
    return 100 * float((a == b).mean())


def test_every_point_is_that_layer_alone(model, data, tmp_path):
    found = sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    assert curves.read(tmp_path / "s.json") == found
    assert [c.name for c in found.layers] == ["fc0.weight", "fc1.weight", "fc2.weight"]
    assert (found.baseline, found.samples, found.metric, found.of) == (100, 150, "agreement", "weights")
    for layer in found.layers:
        for point in layer.points:
            assert point.metric == pytest.approx(by_hand(model, data, layer.name, point.sparsity, tmp_path))
    assert not (tmp_path / "s.json.trials").exists()


def test_the_same_on_any_number_of_processes_and_from_an_encoded_model(model, data, tmp_path):
    one = sensitivity.scan(model, tmp_path / "1.json", data=data, levels=LEVELS, jobs=1)
    sensitivity.scan(model, tmp_path / "2.json", data=data, levels=LEVELS, jobs=2)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    onnxprune.encode(model, tmp_path / "e.onnx", encoding="flat")
    encoded = sensitivity.scan(tmp_path / "e.onnx", tmp_path / "3.json", data=data, levels=LEVELS, jobs=1)
    assert encoded.layers == one.layers


def test_channels_of_one_layer_go(model, data, tmp_path):
    found = sensitivity.scan(model, tmp_path / "s.json", data=data, levels=(0.5, 0.9), channels=True, jobs=1)
    assert [(c.name, c.size) for c in found.layers] == [("fc0.weight", 40), ("fc1.weight", 30)]
    assert found.of == "channels"
    x = np.load(data)["x"]
    for layer in found.layers:
        for point in layer.points:
            only = f'channels{{sparsity={point.sparsity}, only=["{layer.name}"]}}'
            (cut,) = [r for r in onnxprune.transform(model, tmp_path / "c.onnx", [only]).removed if r.axis == 0
                      and r.name == layer.name]  # fmt: skip
            assert cut.after == layer.size - round(point.sparsity * layer.size)
            a, b = (run(open_session(p), {"x": x})["y"].argmax(1) for p in (model, tmp_path / "c.onnx"))
            assert point.metric == pytest.approx(100 * float((a == b).mean()))


def test_external_data_and_an_external_scan(model, data, tmp_path):
    one = sensitivity.scan(model, tmp_path / "1.json", data=data, levels=LEVELS, jobs=1)
    onnx.save(onnx.load(model), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    two = sensitivity.scan(tmp_path / "e.onnx", tmp_path / "2.json", data=data, levels=LEVELS, jobs=1)
    assert two.layers == one.layers
    assert two.model != one.model


def test_a_killed_scan_goes_on(model, data, tmp_path, monkeypatch):
    counted = []
    first = sensitivity.scan(model, tmp_path / "a.json", data=data, levels=LEVELS, jobs=1)
    real = sensitivity.trial

    def failing(item, shared):
        counted.append(item)
        if len(counted) == 5:
            raise KeyboardInterrupt
        return real(item, shared)

    monkeypatch.setattr(sensitivity, "trial", failing)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    assert not (tmp_path / "s.json").exists()
    with (tmp_path / "s.json.trials").open("ab") as file:
        file.write(b'{"trial": "0.95 fc2.wei')  # what kill -9 leaves of a line
    counted.clear()
    monkeypatch.setattr(sensitivity, "trial", lambda item, shared: counted.append(item) or real(item, shared))
    again = sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    assert len(counted) == 10 - 4  # nine trials and the model as it is
    assert again == first


def test_trials_of_other_data_are_not_taken(model, data, tmp_path, monkeypatch):
    def stopped(item, shared):
        if item[0]:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(sensitivity, "trial", stopped)
    with pytest.raises(KeyboardInterrupt):
        sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    with pytest.raises(OptionError, match="another model, metric or data"):
        sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1, samples=10)


@pytest.mark.parametrize("content", [b"[1]\n", b"{\n", b'{"version": 1}\nx\n', b'{"version": 1}\n{}\n'])
def test_damaged_trials(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises((OutputError, OptionError), match="delete it"), opened(tmp_path / "t", {}):
        pass


def test_two_runs_do_not_share_a_file(tmp_path):
    with opened(tmp_path / "t", {"a": 1}) as one:
        with pytest.raises(OutputError, match="another run"), opened(tmp_path / "t", {"a": 1}):
            pass
        one.add("x", 1.5)
    with opened(tmp_path / "t", {"a": 1}) as again:
        assert again.get("x") == 1.5
    with pytest.raises(OptionError, match="of another"), opened(tmp_path / "t", {"a": 2}):
        pass


def test_kill_9_loses_only_what_is_in_flight(data, tmp_path):
    """And the worker processes end with the one that was killed."""
    images = np.random.default_rng(0).random((2000, 1, 28, 28), np.float32)
    np.savez(tmp_path / "images.npz", image=images)
    words = ["sensitivity", LENET, "--data", tmp_path / "images.npz", "-o", tmp_path / "s.json", "--jobs", "2"]
    tool = [sys.executable, "-c", "from onnxprune.cli import main; main()", *map(str, words), "--levels", "0.5,0.9"]
    process = subprocess.Popen(tool, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "s.json.trials"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    known = journal.read_bytes().rpartition(b"\n")[0].splitlines()  # the last line may be torn
    assert len(known) >= 4
    found = sensitivity.scan(LENET, tmp_path / "s.json", data=tmp_path / "images.npz", levels=(0.5, 0.9), jobs=1)
    values = {f"{p.sparsity!r} {c.name}": p.metric for c in found.layers for p in c.points}
    values["baseline"] = found.baseline  # one of the trials: two workers finish it where they will
    for line in known[1:]:
        record = json.loads(line)
        assert values[record["trial"]] == record["value"]
    assert [len(c.points) for c in found.layers] == [2] * 4


DEADLY = """
import multiprocessing, os, pathlib, signal

def share(outputs, data):
    marker = pathlib.Path(__file__).with_name("worker.killed")
    if multiprocessing.parent_process() is not None and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(outputs["y"].mean())
"""


def test_a_killed_worker_loses_no_result(model, data, tmp_path, monkeypatch):
    (tmp_path / "deadly_metric.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    one = sensitivity.scan(model, tmp_path / "1.json", data=data, levels=LEVELS, jobs=1, metric="deadly_metric:share")
    two = sensitivity.scan(model, tmp_path / "2.json", data=data, levels=LEVELS, jobs=2, metric="deadly_metric:share")
    assert list(tmp_path.glob("*.killed"))
    assert two == one
    sys.modules.pop("deadly_metric")


def test_on_a_cluster(model, data, tmp_path):
    distributed = pytest.importorskip("distributed")
    one = sensitivity.scan(model, tmp_path / "1.json", data=data, levels=LEVELS, jobs=1)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        found = sensitivity.scan(model, tmp_path / "2.json", data=data, levels=LEVELS, cluster=address)
        assert found == one
        workers = [w.pid for w in cluster.workers.values()]
        os.kill(workers[0], signal.SIGKILL)
        again = sensitivity.scan(model, tmp_path / "3.json", data=data, levels=LEVELS, cluster=address)
    assert again == one


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": (0.5, 1.0)}, OptionError, "levels"),
        ({"levels": ()}, OptionError, "levels"),
        ({"jobs": 0}, OptionError, "jobs"),
        ({"samples": 0}, OptionError, "samples"),
        ({"data": None}, OptionError, "needs data"),
        ({"metric": "top1"}, OptionError, "targets"),
        ({"metric": "nowhere:f"}, MetricError, "cannot be imported"),
        ({"skip": ("*",)}, OptionError, "no weight"),
        ({"skip": ("*",), "channels": True}, OptionError, "no channel"),
        ({"include": ("*",), "channels": True}, OptionError, "include"),
        ({"cluster": "tcp://127.0.0.1:9"}, OptionError, "scheduler"),
    ],
)
def test_one_line_and_nothing_written(model, data, tmp_path, options, error, message):
    pytest.importorskip("distributed")
    with pytest.raises(error, match=message):
        sensitivity.scan(model, tmp_path / "s.json", **({"data": data} | options))
    assert not (tmp_path / "s.json").exists()


def test_no_samples(model, tmp_path):
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 20), np.float32))
    with pytest.raises(DataError, match="no samples"):
        sensitivity.scan(model, tmp_path / "s.json", data=tmp_path / "none.npz")
