"""Measure the task accuracy of the models of models/, original beside compressed.

python tools/accuracy.py [--model SUBSTRING ...] [--against DIR_OR_FILE] [--compress 'ARGS'] [--json OUT]
python tools/accuracy.py --samples-for NAME OUT.npz [--samples N]

It needs `python tools/fetch_models.py` and `pip install matplotlib pillow scipy tokenizers`; a task whose data
or packages are missing is skipped with one line. Without --against each model is compressed into a temporary
folder. What the tasks are stands in tools/tasks. The sets are small, rendered or synthesised in part: good for
comparing two files of one model, not a benchmark. Every run makes the same ones, but magika's are files of this
machine, and rendered text changes a little with Pillow's version. Exit code 1 when a model failed.

--samples-for writes samples for --data of `onnxprune`, none of which is scored here. Where they have `targets`, these
are for `top1`, or for the function that it names, which is found with PYTHONPATH=tools.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tasks import TASKS
from tasks.task import MODELS, Task, Unavailable, share

from onnxprune import OnnxPruneError
from onnxprune.runtime.session import open_session

ONNXPRUNE = "from onnxprune.cli import main; main()"


class Failed(Exception):
    """A model could not be compressed or found; the message is one line."""


@dataclass(frozen=True)
class Row:
    """One model, original beside compressed: accuracies and agreement as shares, seconds of scoring the original."""

    model: str
    samples: int
    metric: str
    original: float
    compressed: float
    agreement: float
    bytes_before: int
    bytes_after: int
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after


def compress(model: Path, out: Path, arguments: str) -> None:
    """Run `onnxprune compress`."""
    command = [sys.executable, "-c", ONNXPRUNE, "compress", str(model), "-o", str(out), *shlex.split(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise Failed(f"onnxprune compress failed: {said[-1]}")


def counterpart(task: Task, against: Path) -> Path:
    """The compressed file of a task: `against` itself, or NAME.onnx or the original's file name in that folder."""
    if against.is_file():
        return against
    for name in (f"{task.name}.onnx", task.path.name):
        if (against / name).is_file():
            return against / name
    raise Failed(f"{against} holds no {task.name}.onnx")


def measure(task: Task, against: Path | None, arguments: str) -> Row:
    """Score the original and the compressed model."""
    if not task.path.is_file():
        bring = "" if task.path.parent == MODELS else f": python tools/fetch_models.py {task.path.parent.name}"
        raise Unavailable(f"{task.path.name} is not there{bring}")
    samples = task.samples
    start = time.perf_counter()
    before = task.score(open_session(task.path))
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        if against is None:
            path = Path(folder, "compressed.onnx")
            compress(task.path, path, arguments)
        else:
            path = counterpart(task, against)
        after = task.score(open_session(path))
        size = path.stat().st_size
    same = [a == b for a, b in zip(before.predictions, after.predictions, strict=True)]
    return Row(
        task.name, samples, task.metric, before.accuracy, after.accuracy, share(same),
        task.path.stat().st_size, size, seconds,
    )  # fmt: skip


def mean_ratio(rows: list[Row]) -> float:
    """The geometric mean of the ratios."""
    return math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))


def table(rows: list[Row]) -> str:
    """The rows as markdown; accuracies and agreement in percent, the difference in points."""
    out = [
        "| model | samples | metric | original % | compressed % | points | agreement % | bytes | bytes after | ratio |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    out += [
        f"| {row.model} | {row.samples:,} | {row.metric} | {row.original:.2%} | {row.compressed:.2%} | "
        f"{100 * (row.compressed - row.original):+.2f} | {row.agreement:.2%} | {row.bytes_before:,} | "
        f"{row.bytes_after:,} | {row.ratio:.3f} |".replace("%", "")
        for row in rows
    ]
    return "\n".join(out)


def write_samples(name: str, out: Path, count: int) -> None:
    """Write samples of a task that are not scored.

    Raises:
        Failed: there is no such task, or it has fewer samples.
    """
    if name not in TASKS:
        raise Failed(f"no task '{name}'; there are {', '.join(TASKS)}")
    task = TASKS[name]
    arrays = task.unscored(count)
    there = min(map(len, arrays.values()))
    if there < count:
        raise Failed(f"{name} has {there} samples that are not scored, asked for {count}")
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    print(f"{out}: {count} samples, " + ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in arrays.items()))
    if task.function:
        print(f"judge by --metric {task.function}, with PYTHONPATH=tools")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the task accuracy of models, original beside compressed.")
    parser.add_argument(
        "--model", nargs="+", default=[""], metavar="SUBSTRING", help="only tasks with this in the name"
    )
    parser.add_argument("--against", type=Path, help="the compressed model, or a folder of NAME.onnx")
    parser.add_argument("--compress", default="--no-verify -q", metavar="ARGS", help="arguments of onnxprune compress")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--samples-for", nargs=2, metavar=("NAME", "OUT.npz"), help="write samples for --data, and end")
    parser.add_argument("--samples", type=int, default=64, help="how many samples to write (default 64)")
    options = parser.parse_args()
    if options.samples_for:
        name, out = options.samples_for
        try:
            write_samples(name, Path(out), options.samples)
        except (Unavailable, Failed, OnnxPruneError, OSError) as error:
            print(f"Error: {name}: {error}", file=sys.stderr)
            return 1
        return 0
    chosen = [task for task in TASKS.values() if any(part in task.name for part in options.model)]
    if not chosen:
        parser.error(f"no task of that name; there are {', '.join(TASKS)}")
    if options.against and not options.against.exists():
        parser.error(f"{options.against} does not exist")
    if options.against and options.against.is_file() and len(chosen) > 1:
        parser.error("--against with a file takes one model: name it with --model")
    rows, faults, skipped = [], 0, []
    for task in chosen:
        try:
            row = measure(task, options.against, options.compress)
        except Unavailable as error:
            skipped.append(f"skipped {task.name}: {error}")
            print(skipped[-1], file=sys.stderr)
        except (Failed, OnnxPruneError, OSError) as error:
            print(f"Error: {task.name}: {error}", file=sys.stderr)
            faults += 1
        else:
            print(f"{row.model}: {row.samples:,} samples, {row.original:.2%}, {row.seconds:.1f} s", file=sys.stderr)
            rows.append(row)
    if rows:
        print(f"{table(rows)}\n\nGeometric mean of the ratios of {len(rows)} models: {mean_ratio(rows):.3f}")
    print("".join(f"\n{line}" for line in skipped), end="\n" if skipped else "")
    if options.json is not None:
        facts = [asdict(row) | {"ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps({"rows": facts, "skipped": skipped}, indent=2) + "\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
