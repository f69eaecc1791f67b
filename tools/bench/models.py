"""Each tool on the same models: time, memory, size, and what loading and running its output is like."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .peers import COMPRESS, ONNXSIM, SPARSITY, Tool
from .processes import high_water, measure, work
from .results import Row, bar, table

MADE = "fc-58.6M"
DENSE = "the model as it is"
RATIO_BAR, SPEED_BAR, MEMORY_BAR = 7.9, 5.0, 2.5
LATENCY_RUNS = 20


# workers --------------------------------------------------------------------------------------------


def feeds(model: str, out: str) -> None:
    """Write one synthesised sample for the model, of batch size 1."""
    import numpy as np

    from onnxprune.model.model import Model
    from onnxprune.runtime.session import open_session
    from onnxprune.runtime.synthetic_inputs import synthesise

    np.savez(out, **synthesise(Model.load(model), open_session(model), 1)[0])  # type: ignore[arg-type]


def load(path: str, sample: str) -> dict[str, float]:
    """Time to a session, the memory it adds at its peak, and the median time of one run."""
    import numpy as np

    from onnxprune.runtime.session import open_session

    with np.load(sample) as file:
        fed = {name: file[name] for name in file.files}
    before = high_water()
    start = time.perf_counter()
    session = open_session(path)
    seconds = time.perf_counter() - start
    peak = high_water() - before
    session.run(None, fed)
    runs = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        session.run(None, fed)
        runs.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak": peak, "latency_ms": 1000 * statistics.median(runs)}


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


def run(model: Path, tools: Sequence[tuple[Tool, str]], runs: int, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """All tools on one model, in turn; then what their outputs are like."""
    size = model.stat().st_size
    outs = {tool.name: folder / f"{number}.onnx" for number, (tool, _) in enumerate(tools)}
    rows = {tool.name: Row(model.stem, tool.name, size // 4, size) for tool, _ in tools}
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
            print(f"{model.stem}: {tool.name}, run {turn + 1} of {runs}", file=sys.stderr)
            names = {"{in}": model, "{data}": model, "{out}": out}
            command = [str(names.get(part, part)) for part in tool.command]
            row.add(measure(command, out if tool.to_stdout else None))
    sample = folder / "sample.npz"
    work(feeds, model, sample)
    dense = Row(model.stem, DENSE, size // 4, size, bytes=size)
    loaded = [(dense, model)]
    for tool, _ in tools:
        row = rows[tool.name]
        if not row.problem:
            row.bytes = outs[tool.name].stat().st_size
            if tool.loads:
                loaded.append((row, outs[tool.name]))
    found: dict[str, list[dict[str, float]]] = {row.tool: [] for row, _ in loaded}
    for _ in range(runs):
        for row, path in loaded:
            found[row.tool].append(work(load, path, sample))
    for row, _ in loaded:
        row.load = {key: statistics.median(f[key] for f in found[row.tool]) for key in found[row.tool][0]}
    checked = {} if rows[COMPRESS].problem else work(check, model, outs[COMPRESS], folder)
    return [dense, *rows.values()], checked


def shown(rows: Sequence[Row]) -> str:
    """The rows as markdown; medians over the runs, for the time with its range."""
    head = ["tool", "time s", "CPU s", "peak MB", "file MB", "ratio", "load s", "load peak MB", "latency ms"]
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
        if row.load:
            held = row.load
            like = [f"{held['seconds']:.2f}", f"{held['peak'] / 1e6:,.0f}", f"{held['latency_ms']:.2f}"]
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
