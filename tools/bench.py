"""Measure onnxprune beside other tools, each as a whole process, in turn within one run.

python tools/bench.py [--peers-python PATH] [--model FILE ...] [--json OUT] [--runs N]

Without --model it measures a made fp32 model of 58.6 million weights (three fully connected layers)
and the models of models/. The table goes to standard output, progress to standard error. It shows the
median of the runs, for the time with its range. onnxprune flushes its output to the disk, the others do not.

The peak memory of a process is what the system reports when it ends, which is never less than what
this script itself holds: hence all work is done in processes of its own (--worker).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

SPARSITY = 0.9
MADE = "fc-58.6M"
SHAPES = ((4096, 9216), (4096, 4096), (1000, 4096))
RATIO_BAR, SPEED_BAR, MEMORY_BAR = 7.9, 5.0, 2.5
LATENCY_RUNS = 20

ONNXPRUNE = "from onnxprune.cli import main; main()"
ONNXSIM = (
    "import sys, onnx; from onnxsim.pruning import apply_magnitude_pruning as prune; "
    f"onnx.save(prune(onnx.load(sys.argv[1]), {SPARSITY}), sys.argv[2])"
)
QUANTISE = "import sys; from onnxruntime.quantization import quantize_dynamic; quantize_dynamic(*sys.argv[1:3])"


@dataclass(frozen=True)
class Tool:
    """A command to measure; `{}` pairs are the input and the output."""

    name: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    to_stdout: bool = False
    loads: bool = True

    def installed(self) -> bool:
        """Whether the probe runs."""
        return (
            shutil.which(self.probe[0]) is not None
            and not subprocess.run(self.probe, capture_output=True, check=False).returncode
        )


def tools(peers: str) -> list[Tool]:
    """What is measured, in the order of a turn."""
    here = sys.executable
    rule = ("--sparsity", str(SPARSITY), "--values", "exact", "--no-verify", "--quiet")
    compress = ("compress", "{in}", "-o", "{out}", *rule)
    return [
        Tool("onnxprune compress", (here, "-c", ONNXPRUNE, *compress), (here, "-c", "import onnxprune")),
        Tool("onnxsim magnitude", (peers, "-c", ONNXSIM, "{in}", "{out}"), (peers, "-c", "import onnxsim.pruning")),
        Tool("onnxruntime quantize_dynamic", (here, "-c", QUANTISE, "{in}", "{out}"),
             (here, "-c", "import onnxruntime.quantization")),
        Tool("gzip -6", ("gzip", "-6", "-c", "{in}"), ("gzip", "--version"), to_stdout=True, loads=False),
    ]  # fmt: skip


@dataclass
class Row:
    """What one tool made of one model; seconds, bytes and milliseconds, medians over the runs."""

    model: str
    tool: str
    problem: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    bytes: int = 0
    ratio: float = 0.0
    load: dict[str, float] = field(default_factory=dict)

    @property
    def time(self) -> float:
        """Median wall time of the process."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        """Median peak memory of the process, in bytes."""
        return statistics.median(self.peaks)


# processes ----------------------------------------------------------------------------------------


def measure(command: list[str], stdout: Path | None) -> tuple[float, float, int, str]:
    """Wall time, processor time, peak resident bytes, and the last line of an error, or ''."""
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        out: Any = subprocess.DEVNULL if stdout is None else stack.enter_context(stdout.open("wb"))
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
    unit = 1 if sys.platform == "darwin" else 1024
    problem = f"failed: {said[-1][:120]}" if process.returncode else ""
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, problem


def work(name: str, *arguments: object) -> Any:
    """Run a worker in a fresh process and return what it found."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Error: {name} {Path(str(arguments[0])).name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def make(path: str) -> None:
    """Write the made model: Gemm, Relu, Gemm, Relu, Gemm with Gaussian weights and biases, opset 17."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number, (rows, columns) in enumerate(SHAPES):
        matrix = rng.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(rows, np.float32), f"b{number}"))
        made = f"y{number}"
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [made], f"fc{number}", transB=1))
        if number < len(SHAPES) - 1:
            nodes.append(helper.make_node("Relu", [made], [f"h{number}"], f"relu{number}"))
        last = f"h{number}" if number < len(SHAPES) - 1 else made
    ends = [("x", SHAPES[0][1]), (last, SHAPES[-1][0])]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])] for name, size in ends)
    graph = helper.make_graph(nodes, "fc", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def feeds(model: str, out: str) -> None:
    """Write one synthesised sample for the model, of batch size 1."""
    import numpy as np

    from onnxprune.model import Model
    from onnxprune.runtime import open_session
    from onnxprune.synthesis import synthesise

    np.savez(out, **synthesise(Model.load(model), open_session(model), 1)[0])  # type: ignore[arg-type]


def load(path: str, sample: str) -> dict[str, float]:
    """Time to a session, the memory it adds at its peak, and the median time of one run."""
    import numpy as np

    from onnxprune.runtime import open_session

    with np.load(sample) as file:
        fed = {name: file[name] for name in file.files}
    before = _high_water()
    start = time.perf_counter()
    session = open_session(path)
    seconds = time.perf_counter() - start
    peak = _high_water() - before
    session.run(None, fed)
    runs = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        session.run(None, fed)
        runs.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak": peak, "latency_ms": 1000 * statistics.median(runs)}


def _high_water() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def check(original: str, result: str, folder: str) -> dict[str, Any]:
    """Zeros in the decoded result against the share asked for, and outputs against the pruned dense model."""
    import numpy as np

    import onnxprune
    from onnxprune.discovery import find

    pruned, decoded = (str(Path(folder, name)) for name in ("pruned.onnx", "decoded.onnx"))
    done = onnxprune.prune(original, pruned, sparsity=SPARSITY, verify=False)
    onnxprune.decode(result, decoded, verify=False)
    chosen = {w.name for w in done.weights if w.requested is not None}

    def arrays(path: str) -> dict[str, Any]:
        model = onnxprune.load(path)
        return {w.name: w.array(model) for w in find(model) if w.name in chosen}

    before, dense, after = arrays(original), arrays(pruned), arrays(decoded)
    exact = equal = 0
    for name, array in before.items():
        there = int(array.size - np.count_nonzero(array))
        zeros = int(after[name].size - np.count_nonzero(after[name]))
        exact += zeros == max(there, round(SPARSITY * array.size))
        equal += dense[name].tobytes() == after[name].tobytes()
    outputs = onnxprune.verify(pruned, result).outputs
    far = max((o["max_abs"] for o in outputs), default=None)
    return {"weights": len(chosen), "exact": exact, "equal": equal, "max_abs": far}


WORKERS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (make, feeds, load, check)}


# the run ------------------------------------------------------------------------------------------


def bench(model: Path, measured: list[tuple[Tool, bool]], runs: int, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """All tools on one model, in turn; then what their outputs are like."""
    size = model.stat().st_size
    outs = {tool.name: folder / f"{number}.onnx" for number, (tool, _) in enumerate(measured)}
    rows = {tool.name: Row(model.stem, tool.name, "" if there else "not installed") for tool, there in measured}
    for turn in range(runs):
        for tool, _ in measured:
            row, out = rows[tool.name], outs[tool.name]
            if row.problem:
                continue
            print(f"{model.stem}: {tool.name}, run {turn + 1} of {runs}", file=sys.stderr)
            command = [{"{in}": str(model), "{out}": str(out)}.get(part, part) for part in tool.command]
            seconds, cpu, peak, row.problem = measure(command, out if tool.to_stdout else None)
            row.seconds.append(seconds)
            row.cpu.append(cpu)
            row.peaks.append(peak)
    sample = folder / "sample.npz"
    work("feeds", model, sample)
    dense = Row(model.stem, "the model as it is", bytes=size, ratio=1.0)
    loaded = [(dense, model)]
    for tool, _ in measured:
        row = rows[tool.name]
        if not row.problem:
            row.bytes = outs[tool.name].stat().st_size
            row.ratio = size / row.bytes
            if tool.loads:
                loaded.append((row, outs[tool.name]))
    found: dict[str, list[dict[str, float]]] = {row.tool: [] for row, _ in loaded}
    for _ in range(runs):
        for row, path in loaded:
            found[row.tool].append(work("load", path, sample))
    for row, _ in loaded:
        row.load = {key: statistics.median(f[key] for f in found[row.tool]) for key in found[row.tool][0]}
    own = measured[0][0].name
    checked = {} if rows[own].problem else work("check", model, outs[own], folder)
    return [dense, *rows.values()], checked


def table(rows: list[Row]) -> str:
    """The rows as markdown."""
    out = io.StringIO()
    out.write("| tool | time s | CPU s | peak MB | file MB | ratio | load s | load peak MB | latency ms |\n")
    out.write("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
    for row in rows:
        if row.problem:
            out.write(f"| {row.tool} | {row.problem} | | | | | | | |\n")
            continue
        spread = f"{row.time:.2f} ({min(row.seconds):.2f}-{max(row.seconds):.2f})" if row.seconds else "-"
        made = f"{spread} | {statistics.median(row.cpu):.2f} | {row.peak / 1e6:,.0f}" if row.cpu else "- | - | -"
        out.write(f"| {row.tool} | {made} | {row.bytes / 1e6:,.2f} | {row.ratio:.2f} | ")
        if row.load:
            out.write(f"{row.load['seconds']:.2f} | {row.load['peak'] / 1e6:,.0f} | {row.load['latency_ms']:.2f} |\n")
        else:
            out.write("- | - | - |\n")
    return out.getvalue()


def bars(rows: list[Row], checked: dict[str, Any], every: bool) -> list[str]:
    """One line for each bar; those of size, speed and memory only where the model is large (`every`)."""
    by = {row.tool: row for row in rows}
    own, dense, peer = by["onnxprune compress"], by["the model as it is"], by["onnxsim magnitude"]
    if own.problem:
        return [f"onnxprune compress: {own.problem}"]

    def line(met: bool, text: str) -> str:
        return f"{'met' if met else 'MISSED'}: {text}"

    lines = [
        line(
            checked["exact"] == checked["weights"],
            f"exactly round({SPARSITY} n) zeros (or those that were there): "
            f"{checked['exact']} of {checked['weights']} weights",
        ),
        line(
            checked["equal"] == checked["weights"],
            f"decoded weights equal to the pruned ones bit for bit: {checked['equal']} of {checked['weights']}",
        ),
    ]
    far = checked["max_abs"]
    if far is None:
        lines.append("not compared: no inputs could be synthesised for the outputs")
    else:
        lines.append(line(far == 0, f"outputs equal to those of the pruned dense model: largest difference {far:.1e}"))
    if not every:
        return lines
    lines.append(line(own.ratio >= RATIO_BAR, f"file {own.ratio:.2f}x smaller (bar {RATIO_BAR})"))
    times = own.peak / dense.bytes
    lines.append(line(times <= MEMORY_BAR, f"peak memory {times:.2f}x the file (bar {MEMORY_BAR})"))
    if peer.problem:
        lines.append(f"not compared: onnxsim magnitude {peer.problem}")
    else:
        faster = peer.time / own.time
        lines.append(line(faster >= SPEED_BAR, f"{faster:.1f}x as fast as onnxsim (bar {SPEED_BAR:g})"))
        lines.append(f"for information: peak memory {own.peak / peer.peak:.2f} of onnxsim's")
    return lines


def machine(peers: str, sim: bool) -> str:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), platform.machine())
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = [f"{name} {version(name)}" for name in ("onnxprune", "onnx", "onnxruntime", "numpy")]
    if sim:
        ask = "from importlib.metadata import version; print('onnxsim', version('onnxsim'))"
        packages.append(subprocess.run([peers, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    return (
        f"{cpu}, {os.cpu_count()} cores, {ram:.0f} GiB RAM, Python {platform.python_version()}, "
        f"{', '.join(packages)}; {datetime.date.today().isoformat()}, "
        f"load average {os.getloadavg()[0]:.1f} at the start"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure onnxprune beside other tools.")
    parser.add_argument("--peers-python", default=sys.executable, help="the interpreter that has onnxsim")
    parser.add_argument("--model", nargs="+", type=Path, help="measure these instead of the made model and models/")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--runs", type=int, default=3, help="runs of each tool (default 3)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    measured = [(tool, tool.installed()) for tool in tools(options.peers_python)]
    there = {tool.name: installed for tool, installed in measured}
    description = machine(options.peers_python, there["onnxsim magnitude"])
    print(f"{description}. Median of {options.runs} runs.\n")
    facts: dict[str, Any] = {"machine": description, "runs": options.runs, "models": {}}
    with tempfile.TemporaryDirectory() as name:
        made = Path(name, f"{MADE}.onnx")
        models = options.model
        if models is None:
            work("make", made)
            models = [made, *sorted((Path(__file__).resolve().parent.parent / "models").glob("*.onnx"))]
        for model in models:
            with tempfile.TemporaryDirectory(dir=name) as folder:
                rows, checked = bench(model, measured, options.runs, Path(folder))
            lines = bars(rows, checked, model == made)
            print(f"## {model.stem}, sparsity {SPARSITY}\n\n{table(rows)}")
            print("\n".join(f"- {text}" for text in lines) + "\n")
            facts["models"][model.stem] = {"rows": [asdict(r) for r in rows], "check": checked, "bars": lines}
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WORKERS[sys.argv[2]](*sys.argv[3:])))
        sys.exit(0)
    sys.exit(main())
