"""Results: rows of numbers, the machine they were measured on, and the JSON file of both."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .processes import Measured

FORMAT = 2
DENSE = "the model as it is"
_PACKAGES = ("onnxprune", "onnx", "onnxruntime", "numpy")


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
        facts: what else was measured, by names that end in the unit: `load_seconds`, `load_peak_bytes`, `latency_ms`.
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
    facts: dict[str, Any] = field(default_factory=dict)

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
        command: the tool, such as `tools/bench growth`.
        arguments: what it was given, less the places of files and interpreters.
        date: the day, as YYYY-MM-DD.
        machine: `cpu`, `cores`, `ram_gib`, and the `load_average` of the minute before.
        versions: of Python, onnxprune and its libraries, and of the tools beside it, by name.
        rows: the numbers.
        bars: what was asked of them, a line each.
    """

    command: str
    arguments: list[str]
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    bars: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, command: str, arguments: Sequence[str]) -> Results:
        """Empty results of today on this machine."""
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        wide = vectors(said.get("flags", ""))
        machine = {
            "cpu": said.get("model name", platform.machine()) + (f" ({wide})" if wide else ""),
            "cores": os.cpu_count(),
            "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load_average": round(os.getloadavg()[0], 1),
        }
        versions = {"Python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
        return cls(command, list(arguments), datetime.date.today().isoformat(), machine, versions)

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

    @property
    def caption(self) -> str:
        """The command, the day, the machine and the versions in one line of markdown."""
        machine = self.machine
        return (
            f"`python {shlex.join([*self.command.split(), *self.arguments])}`, {self.date}, {machine['cpu']}, "
            f"{machine['cores']} cores, {machine['ram_gib']} GiB, "
            f"{', '.join(f'{name} {number}' for name, number in self.versions.items())}; "
            f"load average {machine['load_average']} at the start"
        )


def vectors(flags: str) -> str:
    """The widest vectors that ONNX Runtime's kernels look for among a processor's flags, or ""."""
    found = set(flags.split())
    names = {"avx512f": "AVX512", "avx2": "AVX2", "avx": "AVX"}
    widest = next((text for flag, text in names.items() if flag in found), "")
    return widest + ", VNNI" * any(name in found for name in ("avx512_vnni", "avx_vnni"))


def name_of(model: Path) -> str:
    """What results call a model: the file's stem, or the folder's name where that is `model`."""
    return model.parent.name if model.stem == "model" else model.stem


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown with its first column to the left and numbers to the right."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def by_model(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each model, in their order."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    return models


def bar(met: bool, text: str) -> str:
    """A line for something that was asked for."""
    return f"{'met' if met else 'MISSED'}: {text}"
