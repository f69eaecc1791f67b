"""Load and run models in a runtime's own environment: each case in a process of its own, within a bound.

python runner.py ADAPTER CASES OUT SECONDS

CASES is a JSON list of folders, each with encoded.onnx, decoded.onnx, feeds.npz and expected.npz. OUT gets a line of
JSON for each. Needs numpy and the adapter's runtime, neither onnx nor onnxprune. A process that dies or runs over its
time is an outcome.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

BLOCKS, BLOCK_SECONDS = 15, 0.003  # of runs of both models in turn; the fastest block counts
KINDS = ("decoded", "encoded")


def adapter_of(name: str) -> ModuleType:
    """The module of that name in `adapters`, by its file: this folder is no package here."""
    place = Path(__file__).resolve().parent / "adapters" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"adapter_{name}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(adapter: ModuleType, case: Path, say: Callable[[dict[str, Any]], None], timing: bool) -> None:
    """Load, run and time both models of a case; what is known so far is said at once, before the next may crash.

    `timing`: time them even where the adapter tells by other means what is decoded when.
    """
    feeds, expected = dict(np.load(case / "feeds.npz")), dict(np.load(case / "expected.npz"))
    shapes = {name: array.shape for name, array in expected.items()}
    loaded, outputs = {}, {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as work:
            start = time.process_time(), _children()
            loaded[kind] = adapter.load(case / f"{kind}.onnx", feeds, shapes, Path(work))
            seconds = time.process_time() - start[0] + _children() - start[1]
            seconds = getattr(loaded[kind], "load_seconds", seconds)  # of another process
            outputs[kind] = [np.asarray(output) for output in loaded[kind].run(feeds)]
        say({f"{kind}_load": seconds, f"{kind}_error": deviation(outputs[kind], list(expected.values()))})
        if hasattr(loaded[kind], "facts"):
            say({f"{kind}_facts": loaded[kind].facts})
    own = [deviation(outputs["encoded"], outputs["decoded"])]
    for _ in range(getattr(adapter, "REPEATS", 0)):
        with tempfile.TemporaryDirectory() as work:
            again = adapter.load(case / "encoded.onnx", feeds, shapes, Path(work)).run(feeds)
            own.append(deviation([np.asarray(output) for output in again], outputs["decoded"]))
    say({"own_error": max(own)})
    if getattr(adapter, "TIMED", True) or timing:
        say(fastest_runs(loaded, feeds))


def fastest_runs(loaded: dict[str, Any], feeds: dict[str, Any]) -> dict[str, float]:
    """Seconds of a run of each model: blocks in turn, of which the fastest counts."""
    fastest = dict.fromkeys(KINDS, float("inf"))
    counts = dict.fromkeys(KINDS, 1)
    for block in range(BLOCKS + 1):  # the first finds how many runs make a block
        for kind in KINDS:
            took = timed(loaded[kind], feeds, counts[kind])
            if block == 0:
                counts[kind] = max(1, int(BLOCK_SECONDS / max(took, 1e-7)))
            else:
                fastest[kind] = min(fastest[kind], took)
    return {f"{kind}_run": fastest[kind] for kind in KINDS}


def timed(loaded: Any, feeds: dict[str, Any], count: int) -> float:
    """Processor seconds of a run: adapters keep to one thread, and other work on the machine does not count."""
    if hasattr(loaded, "seconds"):
        return loaded.seconds(count)
    start = time.process_time()
    for _ in range(count):
        loaded.run(feeds)
    return (time.process_time() - start) / count


def memory(adapter: ModuleType, case: Path, kind: str, say: Callable[[dict[str, Any]], None]) -> None:
    """Bytes that loading and a run take at the most."""
    feeds, expected = dict(np.load(case / "feeds.npz")), dict(np.load(case / "expected.npz"))
    shapes = {name: array.shape for name, array in expected.items()}
    before = _status("VmRSS")
    with tempfile.TemporaryDirectory() as work:
        adapter.load(case / f"{kind}.onnx", feeds, shapes, Path(work)).run(feeds)
    say({f"{kind}_memory": _status("VmHWM") - before})


def _children() -> float:
    """Processor seconds of the converters that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def deviation(found: list[Any], expected: list[Any]) -> float:
    """The largest relative L2 error of an output; infinite where a shape differs or a number is none."""
    worst = 0.0
    for got, want in zip(found, expected, strict=True):
        if got.shape != want.shape or not np.isfinite(got.astype(np.float64)).all():
            return float("inf")
        wide = want.astype(np.float64).ravel()
        size = float(np.linalg.norm(wide)) or 1.0
        worst = max(worst, float(np.linalg.norm(got.astype(np.float64).ravel() - wide)) / size)
    return worst


def bounded(task: Callable[[Callable[[dict[str, Any]], None]], None], seconds: float) -> dict[str, Any]:
    """What a task says in a process of its own, and "reason" if it failed, died or took too long."""
    with tempfile.TemporaryDirectory() as place:
        said = Path(place) / "said"
        said.touch()
        process = os.fork()
        if process == 0:
            os.setpgid(0, 0)
            _child(task, said)
        status, deadline = None, time.monotonic() + seconds
        while status is None and time.monotonic() < deadline:
            done, code = os.waitpid(process, os.WNOHANG)
            status = code if done else time.sleep(0.005)
        if status is None:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        found: dict[str, Any] = {}
        for line in said.read_text().splitlines():
            found |= json.loads(line)
    if status is None:
        found["reason"] = f"no answer in {seconds:.0f} s"
    elif os.WIFSIGNALED(status):
        found["reason"] = f"died of signal {os.WTERMSIG(status)}"
    return found


def _child(task: Callable[[Callable[[dict[str, Any]], None]], None], said: Path) -> None:
    """Run a task, and leave the process without its parent's clean-up."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with said.open("a") as out:

        def say(facts: dict[str, Any]) -> None:
            out.write(json.dumps(facts) + "\n")
            out.flush()

        try:
            task(say)
        except BaseException as error:  # whatever a runtime says to a model is the result
            say({"reason": " ".join(f"{type(error).__name__}: {error}".split())[:400]})
    os._exit(0)


def main(name: str, cases: str, out: str, seconds: str) -> None:
    adapter = adapter_of(name)
    with Path(out).open("w") as results:
        for folder in json.loads(Path(cases).read_text()):
            case = Path(folder["folder"])
            whole = bool(folder.get("memory"))
            timing = whole or bool(folder.get("timed"))
            found = bounded(lambda say, case=case, timing=timing: measure(adapter, case, say, timing), float(seconds))
            if whole:
                for kind in KINDS:
                    task = lambda say, case=case, kind=kind: memory(adapter, case, kind, say)  # noqa: E731
                    found |= {k: v for k, v in bounded(task, float(seconds)).items() if k != "reason"}
            results.write(json.dumps({"name": folder["name"]} | found) + "\n")
            results.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
