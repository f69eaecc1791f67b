"""Processes: measured from outside, or workers that answer with JSON."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ONNXPRUNE = (sys.executable, "-c", "from onnxprune.cli import main; main()")  # the command, wherever it is installed
_TOOL = str(Path(__file__).resolve().parent)
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that the system counts peaks in
_SAID = 160  # characters of an error that are shown


class Measured(NamedTuple):
    """What a process took: wall and processor seconds, peak resident bytes, and how it failed, or ''."""

    seconds: float
    cpu: float
    peak: int
    problem: str


def measure(
    command: Sequence[str], stdout: Path | None = None, *, one_core: bool = False, address_space: int | None = None
) -> Measured:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        stdout: the file that takes its standard output, which is lost without one.
        one_core: bind it to one core.
        address_space: bytes that it may map.
    """

    def limit() -> None:
        if one_core and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        out: Any = subprocess.DEVNULL if stdout is None else stack.enter_context(stdout.open("wb"))
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, preexec_fn=limit)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    problem = ""
    if process.returncode < 0:
        problem = f"failed: killed by signal {-process.returncode}"
    elif process.returncode:
        problem = f"failed: {said[-1].strip()[:_SAID] if said else 'no message'}"
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _UNIT, problem)


def worker(function: Callable[..., Any], *arguments: object) -> list[str]:
    """The command that runs a function of this package in a process of its own and prints what it returns."""
    name = f"{function.__module__.rpartition('.')[2]}:{function.__name__}"
    return [sys.executable, _TOOL, "--worker", name, json.dumps(arguments, default=str)]


def work(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns in a process of its own."""
    done = subprocess.run(worker(function, *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise SystemExit(f"Error: {function.__name__} {arguments[0]}: {said[-1]}")
    return json.loads(done.stdout)


def free_memory() -> int | None:
    """Bytes that the system could give to a new process, where it says so."""
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="ascii").splitlines() if info.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def high_water() -> int:
    """Peak resident bytes of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
