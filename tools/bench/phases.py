"""Where the time of prune and exact encode goes, on one core, against reading and writing the bytes once.

The phases are functions of onnxprune, timed from outside while the command runs: each moment belongs to the innermost
of them, what is left inside the command to `the rest`, and what lies around it to the start of Python, so that the
shares add up to the time of the process.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import made, peers
from .growth import Size
from .processes import measure, work, worker
from .results import Row, table

START, REST = "start Python, import", "the rest"
TOTAL = "all"
PHASES = {
    "facts of the weights, before and after": (
        "onnxprune.encodings.inventory:inspect_model",
        "onnxprune.encodings.inventory:weight_facts",
    ),
    "open the model": ("onnxprune.model.model:Model.load",),
    "prune: thresholds, exact counts": ("onnxprune_passes.magnitude:Magnitude.run",),
    "look for dead neurons": ("onnxprune_passes.dead_neurons:DeadNeurons.run",),
    "encode: choose, gather, pack": ("onnxprune_passes.encode:Encode.run",),
    "write and hash": ("onnxprune.model.model:Model.write",),
    "wait for the disk": ("os:fsync",),
    "gzip sizes for the report": ("onnxprune.api.result:file_facts",),
}


class Clock:
    """Seconds by phase, each moment counted for the innermost one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._last = time.perf_counter()

    def _count(self) -> None:
        now = time.perf_counter()
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

    def watch(self, name: str, place: str) -> None:
        """Time MODULE:FUNCTION or MODULE:CLASS.METHOD, wherever onnxprune has imported it by name."""
        module, _, path = place.partition(":")
        holder: Any = importlib.import_module(module)
        *outer, last = path.split(".")
        for part in outer:
            holder = getattr(holder, part)
        old = vars(holder)[last]
        if isinstance(old, classmethod):
            setattr(holder, last, classmethod(self.timed(name, old.__func__)))
            return
        new = self.timed(name, old)
        setattr(holder, last, new)
        for other in [m for key, m in sys.modules.items() if key.startswith("onnxprune")]:
            for key in [key for key, value in vars(other).items() if value is old]:
                setattr(other, key, new)


def profiled(model: str, out: str) -> dict[str, float]:
    """Prune and encode in this process: seconds by phase."""
    clock = Clock()
    builtins.__import__ = clock.timed(START, builtins.__import__)
    importlib.import_module = clock.timed(START, importlib.import_module)
    with clock.phase(START):
        from onnxprune.cli import main

        importlib.import_module("onnxprune.api.compress")
        for name, places in PHASES.items():
            for place in places:
                clock.watch(name, place)
    rule = ["--sparsity", str(peers.SPARSITY), "--values", "exact", "--no-verify", "--quiet", "--jobs", "1"]
    sys.argv = ["onnxprune", "compress", model, "-o", out, *rule]
    with clock.phase(REST):
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    return dict(clock.seconds)


def run(name: str, runs: int, folder: Path) -> list[Row]:
    """A row for each phase, for the whole, and for the limit; the runs of all rows are the same."""
    size = Size.of(name)
    model, place, answer = folder / "model.onnx", folder / "out", folder / "answer.json"
    work(made.squares, model, size.layers, size.width)
    external = model.with_name(model.name + ".data")
    data = external if external.exists() else model
    names = [TOTAL, START, *PHASES, REST, peers.LIMIT]
    rows = {phase: Row(name, phase, size.weights, 4 * size.weights) for phase in names}
    for turn in range(runs):
        print(f"{name}: run {turn + 1} of {runs}", file=sys.stderr)
        place.mkdir()
        whole = measure(worker(profiled, model, place / "out.onnx"), answer, one_core=True)
        if whole.problem:
            raise SystemExit(f"Error: profile: {whole.problem}")
        rows[TOTAL].add(whole)
        seconds = json.loads(answer.read_text(encoding="utf-8"))
        seconds[START] += whole.seconds - sum(seconds.values())
        for phase in (START, *PHASES, REST):
            rows[phase].seconds.append(seconds.get(phase, 0.0))
        rows[TOTAL].bytes = rows[peers.LIMIT].bytes = sum(file.stat().st_size for file in place.iterdir())
        shutil.rmtree(place)
        place.mkdir()
        given = {"{data}": data, "{out}": place / "out", "{bytes}": rows[TOTAL].bytes}
        command = [str(given.get(part, part)) for part in peers.limit().command]
        rows[peers.LIMIT].add(measure(command, one_core=True))
        shutil.rmtree(place)
    return list(rows.values())


def shown(rows: Sequence[Row]) -> str:
    """Markdown, of the run whose time is the median: so its shares add up."""
    by = {row.tool: row for row in rows}
    whole = by[TOTAL].seconds
    turn = sorted(range(len(whole)), key=whole.__getitem__)[len(whole) // 2]

    def line(row: Row) -> list[str]:
        seconds = row.seconds[turn]
        share, cost = seconds / whole[turn], seconds / row.weights * 1e9
        return [row.tool, f"{seconds:.2f}", f"{share:.1%}", f"{cost:.1f}", f"{row.read / seconds / 1e6:,.0f}"]

    parts = [row for row in rows if row.tool not in (TOTAL, peers.LIMIT)]
    parts.sort(key=lambda row: -row.seconds[turn])
    cells = [[*line(row)[:-1], ""] for row in parts] + [line(by[TOTAL]), line(by[peers.LIMIT])]
    return table([f"{by[TOTAL].model} weights, one core", "s", "share", "ns a weight", "MB/s"], cells)
