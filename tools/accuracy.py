"""Task accuracy of the models of models/, original beside compressed.

python tools/accuracy.py [--model SUBSTRING ...] [--against PATH | --compress ARGS] [--json FILE]
python tools/accuracy.py --samples-for NAME OUT.npz [--samples N]

It needs `python tools/fetch_models.py` and `pip install matplotlib pillow scipy tokenizers`; a task
without its data or packages is skipped and named. tools/tasks describes the tasks. Their sets are
small, some rendered or synthesised: they compare two files of a model and are no benchmark. Exit
code 1: a model failed. --samples-for writes samples for `onnxprune --data` that are never scored.
"""

from __future__ import annotations

import argparse
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.arguments import without_places
from bench.processes import ONNXPRUNE
from bench.results import Results, Row
from bench.results import table as markdown
from tasks import TASKS
from tasks.task import MODELS, Task, Unavailable, share

from onnxprune import OnnxPruneError
from onnxprune.runtime.session import open_session


class Failed(Exception):
    """A model could not be compressed or found; the message is one line."""


def compress(model: Path, out: Path, arguments: str) -> None:
    """Run `onnxprune compress`."""
    command = [*ONNXPRUNE, "compress", str(model), "-o", str(out), *shlex.split(arguments)]
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
    """Score the original and the compressed model.

    Returns:
        A row whose seconds are those of scoring the original, with the facts `samples`, `metric`, and as shares
        `original`, `compressed` and `agreement`: the accuracies, and the items that both answer alike.
    """
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
    facts = {
        "samples": samples, "metric": task.metric,
        "original": before.accuracy, "compressed": after.accuracy, "agreement": share(same),
    }  # fmt: skip
    read = task.path.stat().st_size
    return Row(task.name, "compressed", read=read, seconds=[seconds], bytes=size, facts=facts)


def mean_ratio(rows: Sequence[Row]) -> float:
    """The geometric mean of the ratios."""
    return math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))


def shown(rows: Sequence[Row]) -> str:
    """The scored models as markdown, accuracies and agreement in percent, the difference in points; then the others."""
    head = [
        "model", "samples", "metric", "original %", "compressed %", "points", "agreement %", "bytes", "bytes after",
        "ratio",
    ]  # fmt: skip
    scored, out = [row for row in rows if not row.problem], ""
    if scored:
        out += markdown(head, map(_cells, scored))
        out += f"\nGeometric mean of the ratios of {len(scored)} models: {mean_ratio(scored):.3f}\n"
    return out + "".join(f"\n{row.model}: {row.problem}\n" for row in rows if row.problem)


def _cells(row: Row) -> list[str]:
    facts = row.facts
    percent = {name: f"{100 * facts[name]:.2f}" for name in ("original", "compressed", "agreement")}
    points = f"{100 * (facts['compressed'] - facts['original']):+.2f}"
    return [
        row.model, f"{facts['samples']:,}", facts["metric"], percent["original"], percent["compressed"], points,
        percent["agreement"], f"{row.read:,}", f"{row.bytes:,}", f"{row.ratio:.3f}",
    ]  # fmt: skip


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


def score(tasks: Sequence[Task], against: Path | None, arguments: str) -> tuple[list[Row], int]:
    """Measure the tasks one after the other: a row for each that did not fail, and how many failed."""
    rows, faults = [], 0
    for task in tasks:
        try:
            row = measure(task, against, arguments)
        except Unavailable as error:
            row = Row(task.name, "compressed", problem=f"skipped: {error}")
            print(f"{task.name}: {row.problem}", file=sys.stderr)
        except (Failed, OnnxPruneError, OSError) as error:
            print(f"Error: {task.name}: {error}", file=sys.stderr)
            faults += 1
            continue
        else:
            original, samples = row.facts["original"], row.facts["samples"]
            print(f"{row.model}: {samples:,} samples, {original:.2%}, {row.time:.1f} s", file=sys.stderr)
        rows.append(row)
    return rows, faults


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=[""], metavar="SUBSTRING", help="tasks with this in the name")
    parser.add_argument("--against", type=Path, metavar="PATH", help="score this model, or NAME.onnx of this folder")
    parser.add_argument(
        "--compress", default="--no-verify -q", metavar="ARGS", help="for `onnxprune compress` without it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--samples-for", nargs=2, metavar=("NAME", "OUT.npz"), help="write samples for --data, and end")
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="how many to write (default 64)")
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
    found = Results.begin("tools/accuracy.py", without_places(sys.argv[1:]))
    found.rows, faults = score(chosen, options.against, options.compress)
    print(f"{found.caption}\n\n{shown(found.rows)}", end="")
    if options.json is not None:
        found.save(options.json)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
