"""Rounds that are killed: nothing is done twice, no child runs on, the same files in the end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import onnxprune
from tests.retraining.rounds import EVALUATE, RETRAIN, command_line, iterate, kept


def test_what_is_done_is_not_done_again_unless_its_files_changed(folder):
    iterate()
    said: list[str] = []
    iterate(say=said.append)
    assert not any(line.endswith(("prune", "retrain", "ingest")) for line in said)
    first = Path("o.onnx").read_bytes()
    Path("o.onnx.rounds/round-2/retrained.safetensors").write_bytes(b"cut short")
    iterate(say=said.append)
    assert "round-2 retrain: its files were changed since, so that it runs again" in said
    assert [line for line in said if line.endswith(("prune", "retrain", "ingest"))] == [
        "round 2 of 2: retrain", "round 2 of 2: ingest",
    ]  # fmt: skip
    assert Path("o.onnx").read_bytes() == first


# The processes of this test's own folder, by their working directory.
def running(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").readlink() == folder and (entry / "stat").read_text().rsplit(")", 1)[1][1] != "Z":
                    found.append(int(entry.name))
            except OSError:  # it ended meanwhile, or is another user's
                continue
    return found


def gone(folder: Path) -> bool:
    end = time.monotonic() + 10
    while running(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return not running(folder)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_no_child_running(folder, number):
    (folder / "train.py").write_text(
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('started', 'w').close()\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(command_line("o.onnx"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not Path("started").exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert len(running(folder)) == 4  # the run, what watches over it, the trainer and its child
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert gone(folder)
    assert not Path("o.onnx").exists()
    if number != signal.SIGKILL:
        assert "the same command goes on from here" in said
        assert not list(Path("o.onnx.rounds").glob("round-*/.*"))


def iterate_in(folder: Path, options: dict, lines: Connection) -> None:
    """What is killed: a process of its own that says what it does."""
    os.chdir(folder)
    onnxprune.iterate("m.onnx", "o.onnx", **options, say=lines.send)


def test_killed_fifty_times_it_ends_with_the_same_files(folder):
    """Runs that are killed at random moments, of their process and in any phase, each going on where the last one was.

    A fork server takes the place of a new interpreter, whose imports would be most of what is killed.
    """
    options = {"retrain": RETRAIN, "to": 0.9, "rounds": 3, "evaluate": EVALUATE, "tolerance": 0.95}
    whole = onnxprune.iterate("m.onnx", "whole.onnx", **options)
    moments = [("", 0.02), ("prune", 0.02), ("retrain", 0.2), ("ingest", 0.02), ("evaluate", 0.2)]  # how long they take
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.retraining.test_killed_rounds", "onnxprune.retraining.iterate"])
    rng, kills = random.Random(0), 0
    while kills < 50:
        receive, send = processes.Pipe(duplex=False)
        child = processes.Process(target=iterate_in, args=(folder, options, send))
        child.start()
        send.close()
        phase, length = moments[kills % len(moments)]
        with receive, contextlib.suppress(EOFError):
            while phase and not receive.recv().endswith(phase):
                pass
            time.sleep(rng.uniform(0, length))
        if child.is_alive():
            child.kill()
            child.join()
            kills += 1
            continue
        assert child.exitcode == 0
        assert kept("o.onnx.rounds") == kept("whole.onnx.rounds")  # it had come to its end: begin again
        assert Path("o.onnx").read_bytes() == Path("whole.onnx").read_bytes()
        Path("o.onnx").unlink()
        shutil.rmtree("o.onnx.rounds")
    last = iterate(**options)
    assert last.facts()["rounds"][0]["metric"] == whole.rounds[0].metric
    assert kept("o.onnx.rounds") == kept("whole.onnx.rounds")
    assert Path("o.onnx").read_bytes() == Path("whole.onnx").read_bytes()
