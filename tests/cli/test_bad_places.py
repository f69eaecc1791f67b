"""Where results go: outputs that cannot be written, names and numbers that a terminal or JSON cannot hold."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time

import numpy as np
import onnx
import pytest

from tests.helpers.builders import mlp
from tests.helpers.commands import SIZES, TOOL, snapshot
from tests.helpers.repository import LENETS
from tests.helpers.running import put

LENET = LENETS["lenet-5"]


def test_bad_outputs(refused, model, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "same").symlink_to("m.onnx")
    os.link(model, tmp_path / "hard")
    for place in ("file/o.onnx", "gone/o.onnx", "m.onnx", "same", "hard", ".", "y" * 300):
        assert (tmp_path / place).name[:20] in refused(1, "compress", model, "-o", tmp_path / place)
    for place in ("/dev/full", "/dev/null", "/proc/o.onnx", ""):
        refused(1, "compress", model, "-o", place)


def test_external_data_of_the_input_is_no_output(refused, tmp_path):
    onnx.save(mlp(sizes=SIZES), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    assert "external data" in refused(1, "compress", tmp_path / "e.onnx", "-o", tmp_path / "e.data")
    refused(1, "compress", tmp_path / "e.onnx", "-o", tmp_path / "e.data", "--in-place")


@pytest.mark.parametrize("place", ["gone/r.json", "m.onnx", "o.onnx", "."])
def test_a_report_that_cannot_be_written(refused, model, tmp_path, place):
    refused(1, "compress", model, "-o", tmp_path / "o.onnx", "--json", tmp_path / place)


@pytest.mark.parametrize(
    "args",
    [
        ["--json", "m.pruned.onnx"],
        ["--report", "m.pruned.onnx"],
        ["-o", "folder", "--json", "folder/m.onnx"],
        ["-o", "o.onnx", "--sparsity", "0.5", "--masks", "x.npz", "--json", "x.npz"],
        ["-o", "o.onnx", "--sparsity", "0.5", "--masks", "x.npz", "--report", "folder/../x.npz"],
        ["-o", "o.onnx", "--json", "r", "--report", "r"],
        ["-o", "o.onnx", "--data", "d.npz", "--json", "d.npz"],
        ["-o", "o.onnx", "--data", "d.npz", "--sparsity", "0.5", "--masks", "d.npz"],
        ["-o", "o.onnx", "--from", "d.npz", "--json", "d.npz"],
    ],
    ids=" ".join,
)
def test_two_results_in_one_file(refused, model, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "d.npz", x=np.zeros((4, SIZES[0]), np.float32))
    assert "choose another" in refused(1, "compress", model, *args)


def test_a_report_over_what_several_models_read_and_write(refused, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.onnx").write_bytes(model.read_bytes())
    for place in ("in/m.onnx", "out/m.onnx", "out/.onnxprune.jsonl"):
        line = refused(1, "compress", tmp_path / "in", "-o", tmp_path / "out", "--json", tmp_path / place)
        assert "choose another" in line


def limited() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk(tmp_path):
    (tmp_path / "o.onnx").write_bytes(b"old")
    args = [TOOL, "prune", LENET, "-o", tmp_path / "o.onnx", "--sparsity", "0.5"]
    done = subprocess.run(args, preexec_fn=limited, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: cannot write ")
    assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == {str(tmp_path / "o.onnx"): b"old"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_terminal(model, unbuffered):
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run([TOOL, "inspect", model], stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["a[/b]", "[red]w", ":smile:", "ümlaut", "two\nlines"])
def test_names_are_printed_as_they_are(shell, tmp_path, name):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = name
    put(tmp_path / "m.onnx", proto)
    for args in (["inspect", tmp_path / "m.onnx"], ["compress", tmp_path / "m.onnx"]):
        code, out, err = shell(*args)
        assert (code, err) == (0, "")
        assert name.split("\n")[0] in out


def test_names_on_a_terminal_that_knows_ascii_only(tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "ümlaut"
    done = subprocess.run(
        [TOOL, "inspect", put(tmp_path / "m.onnx", proto)], capture_output=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


def test_in_place(shell, model, tmp_path):
    code, _, err = shell("compress", model, "-o", model, "--in-place", "--sparsity", "0.9", "-q")
    assert (code, err) == (0, "")
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert b"onnxprune.passes" in model.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupted_run_leaves_nothing(tmp_path, number):
    """The signal comes when the temporary folder is there: in the middle of writing or verifying."""
    put(tmp_path / "m.onnx", mlp(sizes=(2000, 2000, 2000, 2000)))
    before = sorted(os.listdir(tmp_path))
    args = [TOOL, "compress", tmp_path / "m.onnx", "--samples", "2000"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while sorted(os.listdir(tmp_path)) == before and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert err.strip() == "Error: interrupted"
    assert sorted(os.listdir(tmp_path)) == before


def test_inspect_json_has_no_nan(shell, tmp_path):
    proto = mlp(sizes=SIZES)
    proto.graph.initializer[0].raw_data = np.full((64, 32), np.nan, np.float32).tobytes()
    code, out, _ = shell("inspect", put(tmp_path / "nan.onnx", proto), "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)
