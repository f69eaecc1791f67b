"""Each tool on the same models: time, memory, size, and latency of the output.

The models are 58.6 million Gaussian weights (the fully connected layers of AlexNet) and those of
models/, at 90 % sparsity and with exact values. onnxprune's output is checked: exact counts of
zeros, decoded weights equal to the pruned ones bit for bit, outputs equal to the dense model's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import known_models

from . import arguments, made, peers
from .loads import in_turn
from .peers import COMPRESS, ONNXSIM, SPARSITY, Tool
from .processes import measure, work
from .results import DENSE, Results, Row, bar, by_model, name_of, table

RATIO_BAR, SPEED_BAR, MEMORY_BAR = 7.9, 5.0, 2.5


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    arguments.add_runs(parser)
    arguments.add_peers(parser)
    arguments.add_models(parser, "a made model and those of models/")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure every model, and judge onnxprune by its bars."""
    tools = peers.there([peers.compress(COMPRESS, "--values", "exact"), *peers.others(options.peers_python)])
    found.versions |= peers.versions(tools)
    connected = folder / f"{made.CONNECTED}.onnx"
    if options.model is None:
        work(made.fully_connected, connected)
    for file in options.model or [connected, *known_models.TRAINED]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            rows, checked = measured(file, tools, options.runs, Path(place))
        found.rows += rows
        found.bars += [f"{name_of(file)}: {line}" for line in bars(rows, checked, file == connected)]
        yield


# workers --------------------------------------------------------------------------------------------


def feeds(model: str, out: str) -> None:
    """Write one synthesised sample for the model, of batch size 1."""
    import numpy as np

    from onnxprune.model.model import Model
    from onnxprune.runtime.session import open_session
    from onnxprune.runtime.synthetic_inputs import synthesise

    np.savez(out, **synthesise(Model.load(model), open_session(model), 1).feeds[0])  # type: ignore[arg-type]


def check(original: str, result: str, folder: str) -> dict[str, Any]:
    """The result against the pruned dense model, from which the same dead neurons are taken: zeros, values, outputs."""
    import numpy as np

    import onnxprune
    from onnxprune.model.discovery import find

    pruned, dense, decoded = (str(Path(folder, f"{name}.onnx")) for name in ("pruned", "dense", "decoded"))
    done = onnxprune.prune(original, pruned, sparsity=SPARSITY, verify=False)
    onnxprune.transform(pruned, dense, ["dead_neurons{encoded=true}"], verify=False)
    onnxprune.decode(result, decoded, verify=False)
    chosen = {w.name for w in done.weights if w.requested is not None}

    def arrays(path: str) -> dict[str, Any]:
        model = onnxprune.load(path)
        return {w.name: w.array(model) for w in find(model) if w.name in chosen}

    zeros = {name: int(array.size - np.count_nonzero(array)) for name, array in arrays(original).items()}
    expected, after = arrays(dense), arrays(decoded)
    exact = equal = 0
    for name, array in arrays(pruned).items():
        found, wanted = after.get(name), expected.get(name)
        alike = found is not None and wanted is not None and found.shape == wanted.shape
        alike = alike and found.tobytes() == wanted.tobytes()
        equal += alike
        asked = max(zeros[name], round(SPARSITY * array.size))
        exact += alike and array.size - np.count_nonzero(array) == asked
    outputs = onnxprune.verify(dense, result).outputs
    far = max((o["max_abs"] for o in outputs), default=None)
    return {"weights": len(chosen), "exact": int(exact), "equal": int(equal), "max_abs": far}


# the run --------------------------------------------------------------------------------------------


def measured(
    model: Path, tools: Sequence[tuple[Tool, str]], runs: int, folder: Path
) -> tuple[list[Row], dict[str, Any]]:
    """All tools on one model, in turn; then what their outputs are like."""
    name, size = name_of(model), model.stat().st_size
    outs = {tool.name: folder / f"{number}.onnx" for number, (tool, _) in enumerate(tools)}
    rows = {tool.name: Row(name, tool.name, size // 4, size) for tool, _ in tools}
    for tool, version in tools:
        if not version:
            rows[tool.name].problem = "not installed"
        elif size // 4 > tool.most:
            rows[tool.name].problem = f"not run above {int(tool.most) >> 20} M weights"
    for turn in range(runs):
        for tool, _ in tools:
            row, out = rows[tool.name], outs[tool.name]
            if row.problem:
                continue
            print(f"{name}: {tool.name}, run {turn + 1} of {runs}", file=sys.stderr)
            command = tool.filled({"{in}": model, "{data}": model, "{out}": out})
            row.add(measure(command, out if tool.to_stdout else None))
    sample = folder / "sample.npz"
    work(feeds, model, sample)
    dense = Row(name, DENSE, size // 4, size, bytes=size)
    loaded = {DENSE: model}
    for tool, _ in tools:
        row = rows[tool.name]
        if not row.problem:
            row.bytes = outs[tool.name].stat().st_size
            if tool.loads:
                loaded[tool.name] = outs[tool.name]
    every = {DENSE: dense} | rows
    for tool_name, facts in in_turn(loaded, {"latency_ms": sample}, runs).items():
        every[tool_name].facts |= facts
    checked = {} if rows[COMPRESS].problem else work(check, model, outs[COMPRESS], folder)
    return list(every.values()), checked


def shown(rows: Sequence[Row]) -> str:
    """A table for each model; medians over the runs, for the time with its range."""
    return "\n".join(_table(name, held) for name, held in by_model(rows).items())


def _table(name: str, rows: Sequence[Row]) -> str:
    head = [name, "time s", "CPU s", "peak MB", "file MB", "ratio", "load s", "load peak MB", "latency ms"]
    lines = []
    for row in rows:
        if row.problem:
            lines.append([row.tool, row.problem, *[""] * (len(head) - 2)])
            continue
        took = ["-"] * 3
        if row.seconds:
            spread = f"{row.time:.2f} ({min(row.seconds):.2f}-{max(row.seconds):.2f})"
            took = [spread, f"{statistics.median(row.cpu):.2f}", f"{row.peak / 1e6:,.0f}"]
        like = ["-"] * 3
        if row.facts:
            facts = row.facts
            peak = f"{facts['load_peak_bytes'] / 1e6:,.0f}"
            like = [f"{facts['load_seconds']:.2f}", peak, f"{facts['latency_ms']:.2f}"]
        lines.append([row.tool, *took, f"{row.bytes / 1e6:,.2f}", f"{row.ratio:.2f}", *like])
    return table(head, lines)


def bars(rows: Sequence[Row], checked: dict[str, Any], every: bool) -> list[str]:
    """One line for each bar; those of size, speed and memory only where the model is large (`every`)."""
    by = {row.tool: row for row in rows}
    own, dense, peer = by[COMPRESS], by[DENSE], by[ONNXSIM]
    if own.problem:
        return [f"{COMPRESS}: {own.problem}"]
    exact = (
        f"exactly round({SPARSITY} n) zeros (or those that were there): "
        f"{checked['exact']} of {checked['weights']} weights"
    )
    equal = f"decoded weights equal to the pruned ones bit for bit: {checked['equal']} of {checked['weights']}"
    lines = [
        bar(checked["exact"] == checked["weights"], exact),
        bar(checked["equal"] == checked["weights"], equal),
    ]
    far = checked["max_abs"]
    if far is None:
        lines.append("not compared: no inputs could be synthesised for the outputs")
    else:
        lines.append(bar(far == 0, f"outputs equal to those of the pruned dense model: largest difference {far:.1e}"))
    if not every:
        return lines
    lines.append(bar(own.ratio >= RATIO_BAR, f"file {own.ratio:.2f}x smaller (bar {RATIO_BAR})"))
    times = own.peak / dense.bytes
    lines.append(bar(times <= MEMORY_BAR, f"peak memory {times:.2f}x the file (bar {MEMORY_BAR})"))
    if peer.problem:
        lines.append(f"not compared: {ONNXSIM} {peer.problem}")
    else:
        faster = peer.time / own.time
        lines.append(bar(faster >= SPEED_BAR, f"{faster:.1f}x as fast as onnxsim (bar {SPEED_BAR:g})"))
        lines.append(f"for information: peak memory {own.peak / peer.peak:.2f} of onnxsim's")
    return lines
