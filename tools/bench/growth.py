"""Time and memory over the number of weights, from a million to billions.

Each made model is a chain of square MatMul layers. onnxprune runs at 90 % sparsity, as one core and
as two threads, with exact and with 16 shared values, beside the other tools and a process that only
reads the weights and writes as many bytes. From 256M weights up each tool runs once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import arguments, made, peers
from .peers import EXACT, SHARED, M, Tool
from .processes import free_memory, measure, work
from .results import Results, Row, bar, table

SIZES = ("1M", "8M", "64M", "256M", "1G", "1G/1", "2G")
START = "16K"  # the model whose time is start-up
ONCE = 256 * M  # weights from which a tool runs once
FULL = 1024 * M  # weights up to which onnxprune runs in all its forms
SPEED_BAR, FLAT_BAR, THREADS_BAR, MEMORY_BAR = 100e6, 1.3, 1.6, 2e9
_UNITS = {"K": 1 << 10, "M": M, "G": 1 << 30}


@dataclass(frozen=True)
class Size:
    """A made model of square layers: `64M` are 4 of them or more, `1G/1` is a single one."""

    name: str
    layers: int
    width: int

    @classmethod
    def of(cls, text: str) -> Size:
        """Parse NUMBER K|M|G, binary, and the number of layers behind a slash; ValueError if that is no square."""
        match = re.fullmatch(r"(\d+)([KMG])(?:/(\d+))?", text)
        if match is None:
            raise ValueError(f"size '{text}' must look like 64M, 2G or 1G/1")
        weights = int(match[1]) * _UNITS[match[2]]
        width = 1
        while match[3] is None and 16 * width * width <= weights:
            width *= 2
        layers = int(match[3]) if match[3] else weights // (width * width)
        if match[3] and layers:
            width = int((weights / layers) ** 0.5)
        if not layers or layers * width * width != weights:
            raise ValueError(f"size '{text}' is not a number of square layers")
        return cls(text, layers, width)

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.layers * self.width**2

    @property
    def room(self) -> int:
        """Bytes of disk that measuring takes: the model, outputs, and while an inline one is made a copy."""
        copies = 4 if self.weights <= ONCE else 1.5
        return int(4 * self.weights * copies) + 64 * M


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    arguments.add_runs(parser)
    arguments.add_peers(parser)
    text = f"weights, as 64M or 2G; behind a slash in how many tensors (default {' '.join(SIZES)})"
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="SIZE", help=text)
    parser.add_argument("--address-space", type=float, metavar="GIB", help="GiB that onnxprune may map")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure one size after the other; ValueError if there is no such size."""
    for size in options.sizes:
        Size.of(size)
    tools = peers.there([*peers.own(FULL), peers.limit(), *peers.others(options.peers_python)])
    found.versions |= peers.versions(tools)
    space = None if options.address_space is None else int(options.address_space * 2**30)
    for rows in measured(options.sizes, tools, options.runs, folder, space):
        found.rows += rows
        yield
    found.bars = bars(found.rows)


def measured(
    sizes: Sequence[str], tools: Sequence[tuple[Tool, str]], runs: int, folder: Path, address_space: int | None
) -> Iterator[list[Row]]:
    """Measure all tools on a model of each size in turn, `START` first; models and outputs are removed.

    Args:
        sizes: see `Size`.
        tools: with their versions, '' for what is not installed.
        runs: of each tool, in turn; one from `ONCE` weights up.
        folder: where the models and outputs lie.
        address_space: bytes that onnxprune may map. The other tools may map what memory is free, so that one that
            wants more ends with its own error and not with the machine's.
    """
    for size in map(Size.of, (START, *sizes)):
        free = shutil.disk_usage(folder).free
        if size.room > free:
            why = f"not run: takes {size.room / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free"
            yield [Row(size.name, tool.name, size.weights, problem=why) for tool, _ in tools]
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield _of_size(size, tools, runs if size.weights < ONCE else 1, Path(place), address_space)


def _of_size(
    size: Size, tools: Sequence[tuple[Tool, str]], runs: int, folder: Path, address_space: int | None
) -> list[Row]:
    print(f"{size.name}: making {size.layers} x {size.width} x {size.width}", file=sys.stderr)
    model, place = folder / "model.onnx", folder / "out"
    work(made.squares, model, size.layers, size.width)
    external = model.with_name(model.name + ".data")
    data = external if external.exists() else model
    read = sum(file.stat().st_size for file in {model, data})
    rows = {tool.name: Row(size.name, tool.name, size.weights, read) for tool, _ in tools}
    for tool, version in tools:
        if not version:
            rows[tool.name].problem = "not installed"
        elif size.weights > tool.most:
            rows[tool.name].problem = f"not run above {int(tool.most) // M} M"
    for turn in range(runs):
        for tool, _ in tools:
            row = rows[tool.name]
            if row.problem:
                continue
            print(f"{size.name}: {tool.name}, run {turn + 1} of {runs}", file=sys.stderr)
            place.mkdir()
            out = place / "out.onnx"
            command = tool.filled({"{in}": model, "{data}": data, "{out}": out, "{bytes}": rows[EXACT].bytes})
            space = address_space if tool.own else free_memory()
            row.add(measure(command, out if tool.to_stdout else None, one_core=tool.one_core, address_space=space))
            row.bytes = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            shutil.rmtree(place)
    return list(rows.values())


# what is printed ------------------------------------------------------------------------------------


def beyond(row: Row, starts: dict[str, Row]) -> float | None:
    """Nanoseconds a weight beyond start-up; None where start-up is more than half of the time, and hides them."""
    start = starts[row.tool].time
    return None if row.time < 2 * start else (row.time - start) / row.weights * 1e9


def shown(rows: Sequence[Row]) -> str:
    """Two tables: time and nanoseconds a weight beyond start-up, peak memory and size; then what went wrong."""
    starts = {row.tool: row for row in rows if row.model == START}
    sizes, tools = list(dict.fromkeys(row.model for row in rows)), list(starts)
    by = {(row.tool, row.model): row for row in rows}

    def cells(tool: str, form: str) -> list[str]:
        out = []
        for size in sizes:
            row = by[tool, size]
            if row.problem:
                out.append("failed" if row.problem.startswith("failed") else "-")
            elif form == "time":
                cost = None if size == START else beyond(row, starts)
                out.append(f"{row.time:.2f} s" + ("" if cost is None else f", {cost:.0f} ns"))
            else:
                out.append(f"{row.peak / 1e6:,.0f} MB" + ("" if size == START else f", {row.ratio:.2f}x"))
        return out

    out = "time, and nanoseconds a weight beyond start-up (the smallest model's time) where that is less than half:\n\n"
    out += table(["weights", *sizes], ([tool, *cells(tool, "time")] for tool in tools))
    out += "\npeak memory, and how many times smaller the output is than the fp32 model:\n\n"
    out += table(["weights", *sizes], ([tool, *cells(tool, "peak")] for tool in tools))
    problems: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.problem:
            problems.setdefault((row.tool, row.problem), []).append(row.model)
    for (tool, problem), models in problems.items():
        out += f"\n- {tool}, {', '.join(models)}: {problem}"
    return out + "\n"


def bars(rows: Sequence[Row]) -> list[str]:
    """A line for each thing that was asked for and that the sizes can tell."""
    starts = {row.tool: row for row in rows if row.model == START}
    held = {(row.tool, row.model): row for row in rows if row.model != START and not row.problem}
    lines = []
    for (tool, size), row in held.items():
        if tool == EXACT and row.weights >= 64 * M:
            speed = 4 * row.weights / row.time
            text = f"{size}: {speed / 1e6:.0f} MB of fp32 weights a second on one core, exact (bar 100)"
            lines.append(bar(speed >= SPEED_BAR, text))
    for tool in (EXACT, SHARED):
        mine = [row for (name, _), row in held.items() if name == tool]
        costs = {row.model: cost for row in mine if (cost := beyond(row, starts)) is not None}
        if len(costs) > 1:
            most = max(costs.values()) / min(costs.values())
            said = ", ".join(f"{size} {cost:.0f}" for size, cost in costs.items())
            lines.append(bar(most <= FLAT_BAR, f"{tool}: ns a weight within {most:.2f}x (bar {FLAT_BAR}): {said}"))
        if mine:
            peak = max(mine, key=lambda row: row.peak)
            text = f"{tool}: peak memory at most {peak.peak / 1e6:,.0f} MB ({peak.model}; bar 2,000)"
            lines.append(bar(peak.peak < MEMORY_BAR, text))
    for form in ("exact", "shared:4"):
        for size in dict.fromkeys(row.model for row in rows if row.weights >= 64 * M):
            pair = [held.get((f"onnxprune {form}, {how}", size)) for how in ("1 core", "2 threads")]
            if pair[0] and pair[1]:
                gain = pair[0].time / pair[1].time
                lines.append(bar(gain >= THREADS_BAR, f"{size} {form}: {gain:.2f}x as fast with 2 threads (bar 1.6)"))
    return lines
