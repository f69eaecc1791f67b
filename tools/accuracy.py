"""Task accuracy of the models of models/, original beside what was made of it.

python tools/accuracy.py [--model NAME[=ARGS] ...] [--compress|--strip ARGS ...] [--columns ...]
python tools/accuracy.py --samples-for NAME OUT.npz [--samples N]

Each ARGS is a column, and without them the default is; those behind NAME= join it for the models
with NAME in theirs. Column `data`: N samples that are never scored. TASK in ARGS is the metric of
the task: '--max-drop 1 --metric TASK'. Needs `fetch_models.py` and `pip install matplotlib pillow
scipy tokenizers`; tasks without data or packages are skipped and named. Their sets (tools/tasks)
are small, some synthesised. Exit code 1: a model failed.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
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
from bench.results import Results, Row
from bench.scores import shown
from tasks import TASKS
from tasks.task import MODELS, Task, Unavailable, share

from onnxprune import OnnxPruneError
from onnxprune.layer_costs.in_turn import ProcessorTimes
from onnxprune.layer_costs.measure import inputs_for
from onnxprune.model.model import Model
from onnxprune.runtime.session import open_session

DYNAMIC_COLUMN = "quantize_dynamic"
DEFAULT, INT8, DATA = "default", "int8", "data"
COLUMNS = (DEFAULT, INT8, DYNAMIC_COLUMN)
PLAIN = "--values int8 --sparsity 0"
TIMED = 4.0  # seconds that an original and a result are run in turn
Maker = Callable[[Task, Path, str], Path]


class Failed(Exception):
    """A model could not be compressed or found; the message is one line."""


def transform(command: str, model: Path, out: Path, arguments: str) -> None:
    """Run `onnxprune COMMAND`, which finds the metrics of the tasks."""
    called = [*ONNXPRUNE, command, str(model), "-o", str(out), *shlex.split(arguments)]
    _run(called, f"onnxprune {command}", {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


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


def makers(columns: Sequence[str], arguments: Sequence[str], count: int, command: str = "compress") -> dict[str, Maker]:
    """By column, what makes the file to score and returns its path, of a task, a folder and arguments of the model.

    Args:
        columns: of COLUMNS, and DATA.
        arguments: for the command; with several, the columns DEFAULT and DATA are one for each.
        count: the samples of DATA.
        command: of `onnxprune`: compress or strip.
    """

    def without_data(task: Task, folder: Path, own: str, given: str, command: str = command) -> Path:
        transform(command, task.path, folder / "out.onnx", f"--no-verify -q {_filled(given, own, task)}")
        return folder / "out.onnx"

    def with_data(task: Task, folder: Path, own: str, given: str) -> Path:
        path, filled = folder / "data.npz", _filled(given, own, task)
        arrays = save_samples(task, path, count)
        judged = task.function and task.function in filled
        if not judged and arrays.get("targets", np.zeros(())).dtype.kind == "U":  # text: for the task's metric alone
            np.savez_compressed(path, **{name: held for name, held in arrays.items() if name != "targets"})
        transform(command, task.path, folder / "out.onnx", f"-q {filled} --data {shlex.quote(str(path))}")
        return folder / "out.onnx"

    def dynamic(task: Task, folder: Path, own: str) -> Path:
        quantise(task.path, folder / "out.onnx")
        return folder / "out.onnx"

    made: dict[str, Maker] = {}
    for column in columns:
        if column == INT8:
            made[INT8] = functools.partial(without_data, given=PLAIN, command="compress")
        elif column == DYNAMIC_COLUMN:
            made[DYNAMIC_COLUMN] = dynamic
        else:
            maker, title = (with_data, f"--data of {count}") if column == DATA else (without_data, "")
            for given in arguments:
                label = f"{title} {given}".strip() or DEFAULT
                made[label] = functools.partial(maker, given=given)
    return made


def _filled(arguments: str, own: str, task: Task) -> str:
    """The arguments of a column and of a model, with the metric of the task in place of TASK."""
    words = [task.function if word == "TASK" else word for word in shlex.split(f"{arguments} {own}")]
    if "" in words:
        raise Failed(f"{task.name} has no metric of its own for TASK")
    return shlex.join(words)


def measure(task: Task, made: Mapping[str, Maker], own: str = "", timed: bool = False) -> list[Row]:
    """Score the original and what each column makes of it.

    Args:
        task: the task.
        made: see `makers`.
        own: arguments of the model, for every column.
        timed: run each result beside the original, too.

    Returns:
        A row for each column, which is its tool, whose seconds are those of scoring the original and whose processor
        time is that of making the result, with the facts `samples`, `metric`, `chosen_on`, and as shares `original`,
        `compressed` and `agreement`: the accuracies, and the items that both answer alike; where timed, `original_ms`
        and `latency`, a share of it. A column that failed is a row with a problem.
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
        row = Row(f"{task.name} {own}".strip(), column, read=task.path.stat().st_size, seconds=[seconds])
        row.facts = {
            "samples": samples,
            "metric": task.metric,
            "chosen_on": task.chosen_on,
            "original": before.accuracy,
        }
        rows.append(row)
        with tempfile.TemporaryDirectory() as folder:
            try:
                spent = _spent()
                path = make(task, Path(folder), own)
                row.cpu = [_spent() - spent]
                after = task.score(open_session(path))
                if timed:
                    row.facts |= latency(task, path)
            except (Failed, OnnxPruneError, OSError) as error:
                row.problem = str(error)
                continue
            row.bytes = path.stat().st_size
        same = [a == b for a, b in zip(before.predictions, after.predictions, strict=True)]
        row.facts |= {"compressed": after.accuracy, "agreement": share(same)}
    return rows


def latency(task: Task, path: Path) -> dict[str, float]:
    """Processor time of a run of the original on one sample, and that of the model of a path as a share of it."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        save_samples(task, data, 1)
        original = Model.load(task.path)
        feeds = inputs_for(original, task.path, data, 1).run
        milliseconds, ratio = ProcessorTimes(feeds)(original, Model.load(path), TIMED)
    return {"original_ms": milliseconds, "latency": ratio}


def _spent() -> float:
    """Processor seconds of the child processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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


def score(tasks: Sequence[tuple[Task, str]], made: Mapping[str, Maker], timed: bool = False) -> tuple[list[Row], int]:
    """Measure tasks, each with the arguments of its model: the rows of each, and how many models or columns failed."""
    rows: list[Row] = []
    faults = 0
    for task, own in tasks:
        try:
            found = measure(task, made, own, timed)
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


def chosen(models: Sequence[str]) -> list[tuple[Task, str]]:
    """The tasks with the name of one of NAME[=ARGS] in theirs, each with its ARGS."""
    asked = [part.partition("=") for part in models]
    return [(task, own) for task in TASKS.values() for name, _, own in asked if name in task.name]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=31),
    )  # fmt: skip
    made.add_argument("--model", nargs="+", default=[""], metavar="NAME", help="tasks with this in the name")
    made.add_argument("--against", type=Path, metavar="PATH", help="score this model, or NAME.onnx of this folder")
    given = made.add_mutually_exclusive_group()
    given.add_argument("--compress", nargs="+", default=[""], metavar="ARGS", help="for `onnxprune compress`")
    given.add_argument("--strip", nargs="+", metavar="ARGS", help="for `onnxprune strip`")
    choices = (*COLUMNS, DATA)
    made.add_argument("--columns", nargs="+", choices=choices, metavar="COL",
                      help=f"of {', '.join(choices)} (default all but data)")  # fmt: skip
    made.add_argument("--latency", action="store_true", help="time each result beside its original")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    made.add_argument("--samples-for", nargs=2, metavar=("NAME", "OUT"), help="write samples for --data, and end")
    made.add_argument("--samples", type=int, default=64, metavar="N", help="how many of them (default 64)")
    return made


def main() -> int:
    """Run the command: 1 if a model failed."""
    words = parser()
    options = words.parse_args()
    if options.samples_for:
        name, out = options.samples_for
        try:
            write_samples(name, Path(out), options.samples)
        except (Unavailable, Failed, OnnxPruneError, OSError) as error:
            print(f"Error: {name}: {error}", file=sys.stderr)
            return 1
        return 0
    tasks = chosen(options.model)
    if not tasks:
        words.error(f"no task of that name; there are {', '.join(TASKS)}")
    if options.against and not options.against.exists():
        words.error(f"{options.against} does not exist")
    if options.against and options.against.is_file() and len(tasks) > 1:
        words.error("--against with a file takes one model: name it with --model")
    found = Results.begin("tools/accuracy.py", without_places(sys.argv[1:]))
    arguments = options.strip or options.compress
    columns = options.columns or (COLUMNS if arguments == [""] else [DEFAULT])
    made = makers(columns, arguments, options.samples, "strip" if options.strip else "compress")
    if options.against is not None:
        made = {"against": lambda task, folder, own: counterpart(task, options.against)}
    found.rows, faults = score(tasks, made, options.latency)
    print(f"{found.caption}\n\n{shown(found.rows)}", end="")
    if options.json is not None:
        found.save(options.json)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
