"""Where the time of pruning and exact encoding goes on one core, phase by phase.

The phases are functions of onnxprune, timed from outside while the command runs: each moment
belongs to the innermost of them, what is left inside the command to `the rest`, and what lies
around it to the start of Python, so that the shares add up to the time of the process. Beside it
stands a process that only reads the weights and writes as many bytes.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import functools
import importlib
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import arguments, made, peers
from .growth import Size
from .peers import LIMIT, SPARSITY
from .processes import measure, work, worker
from .results import Results, Row, table

START, REST = "start Python, import", "the rest"
TOTAL = "all"


def functions() -> dict[str, tuple[Callable[..., Any], ...]]:
    """What each phase spends its time in."""
    from onnxprune.api.result import file_facts
    from onnxprune.encodings.inventory import inspect_model, weight_facts
    from onnxprune.model.model import Model
    from onnxprune_passes.dead_neurons import DeadNeurons
    from onnxprune_passes.encode import Encode
    from onnxprune_passes.magnitude import Magnitude

    return {
        "facts of the weights, before and after": (inspect_model, weight_facts),
        "open the model": (Model.load,),
        "prune: thresholds, exact counts": (Magnitude.run,),
        "look for dead neurons": (DeadNeurons.run,),
        "encode: choose, gather, pack": (Encode.run,),
        "write and hash": (Model.write,),
        "wait for the disk": (os.fsync,),
        "gzip sizes for the report": (file_facts,),
    }


class Clock:
    """Seconds by phase, each moment counted for the innermost one.

    Args:
        now: what tells the time; None: the clock on the wall.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._now = now or time.perf_counter
        self._last = self._now()

    def _count(self) -> None:
        now = self._now()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """All that happens inside, but for what is a phase of its own."""
        self._count()
        self._inside.append(name)
        try:
            yield
        finally:
            self._count()
            self._inside.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a phase."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.phase(name):
                return function(*arguments, **options)

        return call

    def watch(self, name: str, function: Callable[..., Any]) -> None:
        """Time a function or a method of a class, wherever onnxprune or `os` holds it."""
        timed = self.timed(name, getattr(function, "__func__", function))
        *outer, last = function.__qualname__.split(".")
        if outer:
            holder = functools.reduce(getattr, outer, sys.modules[function.__module__])
            setattr(holder, last, classmethod(timed) if hasattr(function, "__func__") else timed)
            return
        for module in [held for key, held in sys.modules.items() if key == "os" or key.startswith("onnxprune")]:
            for key in [key for key, value in vars(module).items() if value is function]:
                setattr(module, key, timed)


def profiled(model: str, out: str) -> dict[str, float]:
    """Prune and encode in this process: seconds by phase."""
    clock = Clock()
    builtins.__import__ = clock.timed(START, builtins.__import__)
    importlib.import_module = clock.timed(START, importlib.import_module)
    with clock.phase(START):
        from onnxprune.cli import main

        importlib.import_module("onnxprune.api.compress")
        phases = functions()
        for name, held in phases.items():
            for function in held:
                clock.watch(name, function)
    rule = ["--sparsity", str(SPARSITY), "--values", "exact", "--no-verify", "--quiet", "--jobs", "1"]
    sys.argv = ["onnxprune", "compress", model, "-o", out, *rule]
    with clock.phase(REST):
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    return {name: clock.seconds[name] for name in (START, *phases, REST)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    arguments.add_runs(parser, "runs, of which the one of median time is shown")
    parser.add_argument("--size", default="256M", help="weights, as growth takes them (default 256M)")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """A row for each phase, for the whole, and for the limit; the runs of all rows are the same."""
    size = Size.of(options.size)
    model, place, answer = folder / "model.onnx", folder / "out", folder / "answer.json"
    work(made.squares, model, size.layers, size.width)
    external = model.with_name(model.name + ".data")
    data = external if external.exists() else model
    rows: dict[str, Row] = {}

    def row(name: str) -> Row:
        return rows.setdefault(name, Row(size.name, name, size.weights, 4 * size.weights))

    for turn in range(options.runs):
        print(f"{size.name}: run {turn + 1} of {options.runs}", file=sys.stderr)
        place.mkdir()
        whole = measure(worker(profiled, model, place / "out.onnx"), answer, one_core=True)
        if whole.problem:
            raise SystemExit(f"Error: profile: {whole.problem}")
        row(TOTAL).add(whole)
        phases = json.loads(answer.read_text(encoding="utf-8"))
        phases[START] += whole.seconds - sum(phases.values())
        for phase, seconds in phases.items():
            row(phase).seconds.append(seconds)
        row(TOTAL).bytes = row(LIMIT).bytes = sum(file.stat().st_size for file in place.iterdir())
        shutil.rmtree(place)
        place.mkdir()
        command = peers.limit().filled({"{data}": data, "{out}": place / "out", "{bytes}": row(TOTAL).bytes})
        row(LIMIT).add(measure(command, one_core=True))
        shutil.rmtree(place)
    found.rows = list(rows.values())
    yield


def shown(rows: Sequence[Row]) -> str:
    """Markdown, of the run whose time is the median: so its shares add up."""
    by = {row.tool: row for row in rows}
    whole = by[TOTAL].seconds
    turn = sorted(range(len(whole)), key=whole.__getitem__)[len(whole) // 2]

    def line(row: Row) -> list[str]:
        seconds = row.seconds[turn]
        share, cost = seconds / whole[turn], seconds / row.weights * 1e9
        return [row.tool, f"{seconds:.2f}", f"{100 * share:.1f} %", f"{cost:.1f}", f"{row.read / seconds / 1e6:,.0f}"]

    parts = [row for row in rows if row.tool not in (TOTAL, LIMIT)]
    parts.sort(key=lambda row: -row.seconds[turn])
    cells = [[*line(row)[:-1], ""] for row in parts] + [line(by[TOTAL]), line(by[LIMIT])]
    return table([f"{by[TOTAL].model} weights, one core", "s", "share", "ns a weight", "MB/s"], cells)
