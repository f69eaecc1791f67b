"""Standard output and error that nobody reads: the work is done, and its exit code is that of the command."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from tests.helpers.builders import mlp
from tests.helpers.commands import TOOL
from tests.helpers.running import put

WIDE = (16, *[256] * 12, 8)  # so many weights that their table fills the buffer of a stream


def shell(script: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, **options)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">&- -q"])
def test_streams_that_were_closed_before_the_start(model, tmp_path, closed):
    """No file gets a stream's descriptor: what is written is what is written otherwise."""
    for name, streams in (("o", ""), ("p", closed)):
        done = shell(f"{TOOL} compress {model} -o {tmp_path / name}.onnx {streams}")
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["inspect {model}", "compress {model} -o {out} --sparsity 0.5", "--help"])
def test_a_reader_that_ends_early(tmp_path, command, unbuffered):
    model, out = put(tmp_path / "m.onnx", mlp(sizes=WIDE)), tmp_path / "o.onnx"
    words = command.format(model=model, out=out)
    done = shell(f"{TOOL} {words} | head -c 1", env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == 1
    assert out.exists() == command.startswith("compress")


@pytest.mark.parametrize("streams", [">&-", "2>&-", "2>&1 | true", "| true"])
@pytest.mark.parametrize(("request_", "code"), [("missing.onnx", 1), ("--nothing", 2), ("m.onnx m.onnx", 2)])
def test_errors_keep_their_exit_code(model, streams, request_, code):
    done = shell(f"{TOOL} inspect {request_} {streams}", cwd=model.parent)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_check_that_was_missed_keeps_its_exit_code(model, tmp_path):
    other = put(tmp_path / "other.onnx", mlp(sizes=(32, 64, 8), seed=1))
    words = shlex.join([str(TOOL), "verify", str(model), str(other), "--tolerance", "0.001"])
    assert [shell(f"{words} {closed}").returncode for closed in ("", ">&-", "| true")] == [3, 3, 3]


def test_a_metric_command_has_its_streams(model, tmp_path):
    """What a command prints is read, whatever became of the streams of the one that starts it."""
    words = [str(TOOL), "compress", str(model), "-o", str(tmp_path / "o.onnx"), "--evaluate", "sh -c 'echo 1' {model}"]
    done = shell(f"{shlex.join(words)} --max-drop 0.5 <&- >&-")
    assert (done.returncode, done.stderr) == (0, "")
