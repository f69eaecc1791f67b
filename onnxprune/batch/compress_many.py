"""Compress several models: in processes or on a cluster, each for itself, and only what is not done yet."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from onnxprune.api import compress
from onnxprune.api.in_memory import takes_arrays
from onnxprune.api.options.keywords import EachKeywords, explicit
from onnxprune.api.options.objects import Checks, Computing, Deciding, Rule, Storing, taken
from onnxprune.api.options.stripping import Stripping
from onnxprune.api.result import versions
from onnxprune.batch.inputs import gather, real
from onnxprune.batch.ledger import NAME, Record, opened
from onnxprune.batch.results import DONE, SKIPPED, Batch, Compressed, failure
from onnxprune.core.files import PathLike, digest, sweep, unchanged
from onnxprune.core.threads import cores
from onnxprune.core.workers import Outcome, spread
from onnxprune.errors import CurvesError, DataError, OptionError
from onnxprune.model.model import Model
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.runtime import held_data, session
from onnxprune.runtime.judge import identity

_OF_ONE = ("masks", "names_from", "in_place")  # options that several models cannot share


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know; paths must mean the same to it."""

    source: Path
    target: Path
    mark: str
    record: Record | None
    threads: int


@dataclass(frozen=True)
class _Finished:
    record: Record
    companions: frozenset[Path]
    skipped: bool


@takes_arrays
@explicit(Rule, Storing, Computing, Stripping, Deciding, Checks)
def compress_many(
    models: Sequence[PathLike],
    out: PathLike,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    progress: Progress = silent,
    **options: Unpack[EachKeywords],
) -> Batch:
    """Compress files, and all *.onnx below folders, into the folder `out`, where they lie as below their folders.

    A model that fails does not stop the others. What `out` remembers (`.onnxprune.jsonl`) as made from the same bytes
    with the same options by the same version is skipped where it is still there unchanged. From a script call this
    below `if __name__ == "__main__":`, because processes import it.

    Args:
        models: files and folders; the external data of models is not taken for models.
        out: a folder.
        jobs: models at a time, each in a process with its share of the cores.
        cluster: the address of a dask scheduler instead, whose workers reach the same paths.
        progress: called with ("models", models done, models in all).
        options: those of `compress`, except those that are of one model (masks, names_from, in_place).

    Raises:
        TypeError: there is no such keyword.
        OptionError: an option is of one model, a path is a URL or empty, two outputs are one, jobs is below 1, or no
            cluster answers.
        MetricError: the function that judges cannot be imported.
        CurvesError: the scan cannot be read.
        ModelError: a path or folder cannot be read, or a folder holds no model.
        OutputError: `out` is no folder, is in use, or outputs would lie among the inputs.
    """
    given = [name for name in _OF_ONE if options.get(name)]
    if given:
        raise OptionError(f"{given[0].replace('_', '-')} is of one model: give one at a time")
    _check_metric(options.get("metric"))
    found = gather(models, out)
    mark, threads = _mark(options), 1 if cluster else max(1, cores() // jobs) if jobs > 0 else 0
    fates: dict[int, Compressed] = {}
    data: set[Path] = set()
    targets = [target for _, target in found.pairs]
    with opened(Path(out)) as ledger, _swept([*targets, Path(out) / NAME]):
        tasks = [_Task(s, t, mark, ledger.get(t), threads) for s, t in found.pairs]
        sent = [_absolute(task) for task in tasks] if cluster else tasks
        work = spread(
            _compressed, sent, jobs=jobs, cluster=cluster, apart=True, shared=_sent(options, away=cluster is not None)
        )
        with contextlib.closing(work) as outcomes:
            for number, outcome in enumerate(outcomes, 1):
                task, done = tasks[outcome.index], outcome.value
                if done is not None:
                    data |= done.companions
                    if not done.skipped:
                        ledger.add(task.target, done.record)
                fates[outcome.index] = _fate(task, outcome)
                progress("models", number, len(tasks))
    # A folder may hold external data that is called .onnx: as a model it failed.
    kept = [i for i in sorted(fates) if fates[i].result is not None or real(tasks[i].source) not in data]
    return Batch([fates[i] for i in kept], found.notes)


def _check_metric(metric: Any) -> None:
    try:
        pickle.dumps(metric)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise OptionError(f"metric must be a function of a module, which processes can import: {error}") from error


def _fate(task: _Task, outcome: Outcome[_Finished]) -> Compressed:
    path, output = str(task.source), str(task.target)
    if outcome.value is None:
        assert outcome.error is not None
        return failure(path, output, outcome.error)
    status = SKIPPED if outcome.value.skipped else DONE
    return Compressed(path, output, status, result=outcome.value.record.result)


@contextlib.contextmanager
def _swept(targets: Sequence[Path]) -> Iterator[None]:
    """Before and after, nothing that a killed process left."""
    sweep(targets)
    try:
        yield
    finally:
        sweep(targets)


def _mark(options: Mapping[str, Any]) -> str:
    """The digest of what outputs depend on besides their models."""
    told = {name: value for name, value in options.items() if name != "data"}
    question = taken(Checks, options).question
    if question.own is not None:
        told["metric"] = identity(question, None)
    if told.get("scan") is not None:
        told["scan"] = _content(Path(told["scan"]))
    data = options.get("data")
    in_memory = data is not None and held_data.found(Path(data)) is not None  # its name is the digest
    files = [] if data is None or in_memory else _files(Path(data))
    held = [str(data)] if in_memory else [(file.name, digest(file)) for file in files]
    facts = [versions()["onnxprune"], told, held]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()


def _content(scan: Path) -> str:
    try:
        return digest(scan)
    except OSError as error:
        raise CurvesError(f"cannot read the curves in {scan}: {error.strerror or error}") from error


def _files(data: Path) -> list[Path]:
    if not data.exists():
        raise DataError(f"there is no data at {data}")
    return sorted(p for p in data.iterdir() if p.is_file()) if data.is_dir() else [data]


def _sent(options: Mapping[str, Any], *, away: bool) -> dict[str, Any]:
    """The options for another process, which has not the arrays of this one, nor its folder where it is `away`."""
    data = options.get("data")
    given = None if data is None else held_data.found(Path(data))
    if given is not None:
        return {**options, "data": given}
    return {**options, "data": Path(data).absolute()} if away and data is not None else dict(options)


def _absolute(task: _Task) -> _Task:
    return replace(task, source=task.source.absolute(), target=task.target.absolute())


def _compressed(task: _Task, options: dict[str, Any]) -> _Finished:
    """In a worker: one model."""
    session.use_threads(task.threads)
    companions = Model.load(task.source).companions()
    held = [task.mark, digest(task.source), *((file.name, digest(file)) for file in companions)]
    key = hashlib.sha256(json.dumps(held).encode()).hexdigest()
    linked = frozenset(map(real, companions))
    folder = task.target.parent
    if task.record is not None and task.record.key == key and unchanged(folder, task.record.files):
        return _Finished(task.record, linked, skipped=True)
    folder.mkdir(parents=True, exist_ok=True)
    result = compress.compress(task.source, task.target, jobs=task.threads, **options)
    files = [task.target, *Model.load(task.target).companions()]
    record = Record(key, {str(file.relative_to(folder)): digest(file) for file in files}, result.facts())
    return _Finished(record, linked, skipped=False)
