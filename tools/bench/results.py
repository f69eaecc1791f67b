"""Results: rows of numbers, the machine they were measured on, and the JSON file of both."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .processes import Measured

FORMAT = 1


@dataclass
class Row:
    """What one tool made of one model.

    Attributes:
        model: what was given to the tool.
        tool: its name, and that of its settings.
        weights: parameters of the model.
        read: bytes of the model.
        problem: why there are no numbers, or ''.
        seconds: wall time of each run.
        cpu: processor time of each run.
        peaks: peak resident bytes of each run.
        bytes: what was written.
        load: of what was written: `seconds` and `peak` (bytes) to a session, `latency_ms` of one run of it.
    """

    model: str
    tool: str
    weights: int = 0
    read: int = 0
    problem: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    bytes: int = 0
    load: dict[str, float] = field(default_factory=dict)

    def add(self, run: Measured) -> None:
        """One more run."""
        self.seconds.append(run.seconds)
        self.cpu.append(run.cpu)
        self.peaks.append(run.peak)
        self.problem = run.problem

    @property
    def time(self) -> float:
        """Median wall time."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        """Median peak memory."""
        return statistics.median(self.peaks)

    @property
    def ratio(self) -> float:
        """How many times smaller what was written is."""
        return self.read / self.bytes if self.bytes else 0.0


@dataclass
class Results:
    """All that one command measured.

    Attributes:
        command: which, with its arguments.
        machine: see `machine`.
        rows: the numbers.
        bars: what was asked of them, a line each.
    """

    command: str
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    bars: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write them to a file."""
        path.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read them from a file; SystemExit with one line if it holds none."""
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held.pop("format") != FORMAT:
                raise SystemExit(f"Error: {path} is of another version of this tool: measure again")
            return cls(**held | {"rows": [Row(**row) for row in held["rows"]]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SystemExit(f"Error: {path} holds no results: {error}") from error


def machine(peers: dict[str, str]) -> dict[str, Any]:
    """What the numbers are measured on; `peers` are the versions of other tools."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), platform.machine())
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("onnxprune", "onnx", "onnxruntime", "numpy")} | peers,
        "load_average": round(os.getloadavg()[0], 1),
    }


def said(facts: dict[str, Any]) -> str:
    """The machine in a sentence."""
    return (
        f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {facts['ram_gib']} GiB, Python {facts['python']}, "
        f"{', '.join(f'{name} {number}' for name, number in facts['versions'].items())}; "
        f"load average {facts['load_average']} at the start"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown with its first column to the left and numbers to the right."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def bar(met: bool, text: str) -> str:
    """A line for something that was asked for."""
    return f"{'met' if met else 'MISSED'}: {text}"
