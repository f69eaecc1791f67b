"""Files are written whole or not at all, whoever is killed and however full the disk is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import onnx
import pytest

from onnxprune.core.files import staged
from onnxprune.errors import OutputError
from onnxprune.model.model import Model
from tests.helpers.builders import mlp
from tests.helpers.repository import ROOT
from tests.helpers.running import put


def test_an_exception_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "o.onnx").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "o.onnx") as place:  # noqa: PT012
        place.write_bytes(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "o.onnx").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["o.onnx"]


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    model = Model(mlp())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        model.save(tmp_path / "o.onnx")
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "o.onnx"
    target.write_bytes(b"old")
    code = f"""
import time
from pathlib import Path
from onnxprune.core.files import staged
with staged(Path({str(target)!r})) as place:
    place.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
    assert target.read_bytes() == b"old"


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    """While another process overwrites the model, every load works and gives one of the two."""
    put(tmp_path / "o.onnx", mlp(seed=0))
    code = f"""
from onnxprune.model.model import Model
from tests.helpers.builders import mlp
for number in range(200):
    Model(mlp(seed=number % 2)).save({str(tmp_path / "o.onnx")!r})
"""
    allowed = [mlp(seed=0), mlp(seed=1)]
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as child:
        while child.poll() is None:
            assert onnx.load(tmp_path / "o.onnx") in allowed
            time.sleep(0.001)
    assert child.returncode == 0
