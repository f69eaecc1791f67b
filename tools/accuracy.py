"""Task accuracy of the models of models/, original beside compressed.

python tools/accuracy.py [--model SUBSTRING ...] [--columns ...] [--samples N] [--json FILE]
python tools/accuracy.py --compress ARGS [ARGS ...] [--columns default|data]
python tools/accuracy.py --samples-for NAME OUT.npz [--samples N]

Column `data`: N samples that are never scored. Several ARGS are a column each; TASK in them is the
metric of the task: '--max-drop 1 --metric TASK'. Needs `fetch_models.py` and `pip install
matplotlib pillow scipy tokenizers`; tasks without data or packages are skipped and named. Their
sets (tools/tasks) are small, some synthesised. Exit code 1: a model failed.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from bench.arguments import without_places
from bench.peers import DYNAMIC
from bench.processes import ONNXPRUNE
from bench.results import Results, Row, by_model
from bench.results import table as markdown
from tasks import TASKS
from tasks.task import MODELS, Task, Unavailable, share

from onnxprune import OnnxPruneError
from onnxprune.runtime.session import open_session

DYNAMIC_COLUMN = "quantize_dynamic"
DEFAULT, INT8, DATA = "default", "int8", "data"
COLUMNS = (DEFAULT, INT8, DYNAMIC_COLUMN)
PLAIN = "--values int8 --sparsity 0"
WIDE = 42  # characters of the names of columns from which on a table has a line for each
Maker = Callable[[Task, Path], Path]


class Failed(Exception):
    """A model could not be compressed or found; the message is one line."""


def compress(model: Path, out: Path, arguments: str) -> None:
    """Run `onnxprune compress`, which finds the metrics of the tasks."""
    command = [*ONNXPRUNE, "compress", str(model), "-o", str(out), *shlex.split(arguments)]
    _run(command, "onnxprune compress", {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def quantise(model: Path, out: Path) -> None:
    """Run onnxruntime's `quantize_dynamic`, the peer of the benchmarks."""
    _run(DYNAMIC.filled({"{in}": model, "{out}": out}), "quantize_dynamic")


def _run(command: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> None:
    held = os.environ | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=held)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise Failed(f"{what} failed: {said[-1]}")


def counterpart(task: Task, against: Path) -> Path:
    """The compressed file of a task: `against` itself, or NAME.onnx or the original's file name in that folder."""
    if against.is_file():
        return against
    for name in (f"{task.name}.onnx", task.path.name):
        if (against / name).is_file():
            return against / name
    raise Failed(f"{against} holds no {task.name}.onnx")


def makers(columns: Sequence[str], arguments: Sequence[str], count: int) -> dict[str, Maker]:
    """By column, what makes the file to score of a task and a folder to write to, and returns its path.

    Args:
        columns: of COLUMNS, and DATA.
        arguments: for `onnxprune compress`; with several, the columns DEFAULT and DATA are one for each.
        count: the samples of DATA.
    """

    def without_data(task: Task, folder: Path, given: str) -> Path:
        compress(task.path, folder / "out.onnx", f"--no-verify -q {_filled(given, task)}")
        return folder / "out.onnx"

    def with_data(task: Task, folder: Path, given: str) -> Path:
        path, judged = folder / "data.npz", _filled(given, task)
        arrays = save_samples(task, path, count)
        if judged == given and arrays.get("targets", np.zeros(())).dtype.kind == "U":  # text: the task's metric alone
            np.savez_compressed(path, **{name: held for name, held in arrays.items() if name != "targets"})
        compress(task.path, folder / "out.onnx", f"-q {judged} --data {shlex.quote(str(path))}")
        return folder / "out.onnx"

    def dynamic(task: Task, folder: Path) -> Path:
        quantise(task.path, folder / "out.onnx")
        return folder / "out.onnx"

    made: dict[str, Maker] = {}
    for column in columns:
        if column == INT8:
            made[INT8] = functools.partial(without_data, given=PLAIN)
        elif column == DYNAMIC_COLUMN:
            made[DYNAMIC_COLUMN] = dynamic
        else:
            maker, title = (with_data, f"--data of {count}") if column == DATA else (without_data, "")
            for given in arguments:
                label = f"{title} {given}".strip() or DEFAULT
                made[label] = functools.partial(maker, given=given)
    return made


def _filled(arguments: str, task: Task) -> str:
    """The arguments with the metric of a task in place of TASK."""
    words = [task.function if word == "TASK" else word for word in shlex.split(arguments)]
    if "" in words:
        raise Failed(f"{task.name} has no metric of its own for TASK")
    return arguments if words == shlex.split(arguments) else shlex.join(words)


def measure(task: Task, made: Mapping[str, Maker]) -> list[Row]:
    """Score the original and what each column makes of it.

    Returns:
        A row for each column, which is its tool, whose seconds are those of scoring the original, with the facts
        `samples`, `metric`, `chosen_on`, and as shares `original`, `compressed` and `agreement`: the accuracies, and
        the items that both answer alike. A column that failed is a row with a problem.
    """
    if not task.path.is_file():
        bring = "" if task.path.parent == MODELS else f": python tools/fetch_models.py {task.path.parent.name}"
        raise Unavailable(f"{task.path.name} is not there{bring}")
    samples, rows = task.samples, []
    start = time.perf_counter()
    before = task.score(open_session(task.path))
    seconds = time.perf_counter() - start
    print(f"{task.name}: {samples:,} samples, {before.accuracy:.2%}, {seconds:.1f} s", file=sys.stderr)
    for column, make in made.items():
        row = Row(task.name, column, read=task.path.stat().st_size, seconds=[seconds])
        row.facts = {
            "samples": samples,
            "metric": task.metric,
            "chosen_on": task.chosen_on,
            "original": before.accuracy,
        }
        rows.append(row)
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = make(task, Path(folder))
                after = task.score(open_session(path))
            except (Failed, OnnxPruneError, OSError) as error:
                row.problem = str(error)
                continue
            row.bytes = path.stat().st_size
        same = [a == b for a, b in zip(before.predictions, after.predictions, strict=True)]
        row.facts |= {"compressed": after.accuracy, "agreement": share(same)}
    return rows


def mean_ratio(rows: Sequence[Row]) -> float:
    """The geometric mean of the ratios."""
    return math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))


def shown(rows: Sequence[Row]) -> str:
    """The scored models as markdown, those that defaults were chosen on apart from those that judge; then the others.

    Accuracies are in percent, differences in points, agreement in percent of the items. A table of many columns has a
    line for each in place of one for each model.
    """
    parts = []
    for chosen_on, title in ((True, "Chosen on"), (False, "Judged on")):
        models = by_model(row for row in rows if row.facts.get("chosen_on") == chosen_on)
        if models:
            columns = list(dict.fromkeys(row.tool for held in models.values() for row in held))
            laid_out = _table if sum(map(len, columns)) < WIDE else _turned
            parts.append(f"{title}:\n\n{laid_out(models, columns)}\n{_means(models, columns)}")
    parts += [f"{row.model}, {row.tool}: {row.problem}\n" for row in rows if row.problem]
    return "\n".join(parts)


def _table(models: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    head = ["model", "samples", "metric", "original %", "bytes"]
    head += [f"{column}: {fact}" for column in columns for fact in ("points", "agreement %", "ratio")]
    return markdown(head, (_cells(held, columns) for held in models.values()))


def _turned(models: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    """A line for each column, with the ratio and the points of each model."""
    first = {name: held[0] for name, held in models.items()}
    lines = [["original %", *(f"{100 * row.facts['original']:.2f}" for row in first.values())]]
    for column in columns:
        scored = {name: row for name, held in models.items() for row in held if row.tool == column}
        cells = (scored.get(name) for name in models)
        lines.append([column, *("-" if row is None or row.problem else _ratio_and_points(row) for row in cells)])
    return markdown(["", *(f"{name}, {row.facts['metric']}" for name, row in first.items())], lines)


def _points(row: Row) -> str:
    return f"{100 * (row.facts['compressed'] - row.facts['original']):+.2f}"


def _ratio_and_points(row: Row) -> str:
    return f"{row.ratio:.2f}x, {_points(row)}"


def _cells(held: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """A model's line; a column that it has no numbers of is a dash."""
    facts, scored = held[0].facts, {row.tool: row for row in held if not row.problem}
    cells = [held[0].model, f"{facts['samples']:,}", facts["metric"], f"{100 * facts['original']:.2f}"]
    cells.append(f"{held[0].read:,}")
    for column in columns:
        row = scored.get(column)
        if row is None:
            cells += ["-"] * 3
            continue
        cells += [_points(row), f"{100 * row.facts['agreement']:.2f}", f"{row.ratio:.3f}"]
    return cells


def _means(models: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    """The geometric mean of each column's ratios."""
    lines = ""
    for column in columns:
        scored = [row for held in models.values() for row in held if row.tool == column and not row.problem]
        if scored:
            lines += f"{column}: geometric mean of the ratios of {len(scored)} models {mean_ratio(scored):.3f}\n"
    return lines


def save_samples(task: Task, out: Path, count: int) -> dict[str, np.ndarray]:
    """Write `count` samples of a task that are not scored, and return them.

    Raises:
        Failed: the task has fewer.
    """
    arrays = task.unscored(count)
    there = min(map(len, arrays.values()))
    if there < count:
        raise Failed(f"{there} samples that are not scored, asked for {count}")
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return arrays


def write_samples(name: str, out: Path, count: int) -> None:
    """Write samples of a task that are not scored.

    Raises:
        Failed: there is no such task, or it has fewer samples.
    """
    if name not in TASKS:
        raise Failed(f"no task '{name}'; there are {', '.join(TASKS)}")
    task = TASKS[name]
    arrays = save_samples(task, out, count)
    print(f"{out}: {count} samples, " + ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in arrays.items()))
    if task.function:
        print(f"judge by --metric {task.function}, with PYTHONPATH=tools")


def score(tasks: Sequence[Task], made: Mapping[str, Maker]) -> tuple[list[Row], int]:
    """Measure the tasks one after the other: the rows of each, and how many models or columns failed."""
    rows: list[Row] = []
    faults = 0
    for task in tasks:
        try:
            found = measure(task, made)
        except Unavailable as error:
            found = [Row(task.name, "original", problem=f"skipped: {error}")]
        except (Failed, OnnxPruneError, OSError) as error:
            found = [Row(task.name, "original", problem=str(error))]
            faults += 1
        else:
            faults += sum(bool(row.problem) and row.tool != DYNAMIC_COLUMN for row in found)
        for row in found:
            if row.problem:
                print(f"{row.model}, {row.tool}: {row.problem}", file=sys.stderr)
        rows += found
    return rows, faults


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=[""], metavar="SUBSTRING", help="tasks with this in the name")
    parser.add_argument("--against", type=Path, metavar="PATH", help="score this model, or NAME.onnx of this folder")
    parser.add_argument("--compress", nargs="+", default=[""], metavar="ARGS", help="for `onnxprune compress`")
    choices = (*COLUMNS, DATA)
    parser.add_argument("--columns", nargs="+", choices=choices, help="what to score (default all but data)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--samples-for", nargs=2, metavar=("NAME", "OUT.npz"), help="write samples for --data, and end")
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="how many of them (default 64)")
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
    columns = options.columns or (COLUMNS if options.compress == [""] else [DEFAULT])
    made = makers(columns, options.compress, options.samples)
    if options.against is not None:
        made = {"against": lambda task, folder: counterpart(task, options.against)}
    found.rows, faults = score(chosen, made)
    print(f"{found.caption}\n\n{shown(found.rows)}", end="")
    if options.json is not None:
        found.save(options.json)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
