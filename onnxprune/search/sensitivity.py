"""How a metric falls as one layer after the other is pruned (Han et al. 2015, figure 6)."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxprune.allocation.curves import Curve, CurvePoint, Curves
from onnxprune.channels.coupling import couplings, families_of
from onnxprune.core.dtypes import Array
from onnxprune.core.files import PathLike
from onnxprune.core.threads import cores
from onnxprune.core.workers import spread
from onnxprune.errors import MetricError, OptionError, OutputError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import check_patterns, matches
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.judge import Judge, Metric, Question, identity
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import open_session, session_options
from onnxprune.search.trials import Trials, opened
from onnxprune_passes import Channels, Decode, Magnitude

_BASELINE = ("", 0.0)  # the trial in which nothing is pruned
LEVELS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class _Shared:
    """What a trial needs besides its layer and level; pickled once per worker, so it holds no path."""

    key: str
    model: bytes
    arrays: dict[str, Array]
    question: Question
    of: str

    def judge(self) -> Judge:
        """One thread: the trials run side by side, and come out the same on any number of processors."""
        options = session_options(threads=1)
        session = open_session(self.model, "the model", options)
        samples = None
        if self.arrays:
            given, inputs = sample_files.runnable(session, self.arrays, "the data")
            samples = sample_files.cut(given, "the data", inputs)
        return Judge(session, self.question, samples, options=options)


def scan(
    model: PathLike, out: PathLike, *, data: PathLike | None = None, samples: int | None = None,
    metric: Metric | None = None, evaluate: str | None = None, lower_is_better: bool = False,
    levels: Sequence[float] = LEVELS, channels: bool = False, include: Sequence[str] = (), skip: Sequence[str] = (),
    jobs: int | None = None, cluster: str | None = None, progress: Progress = silent,
) -> Curves:  # fmt: skip
    """Prune one layer at a time to each level, evaluate the whole model, write the curves as JSON.

    Weights that are encoded are decoded first. What is done is kept in `OUT.trials` until all is: killed at any point,
    a call for the same model, metric and data takes it up, with other levels and layers too.

    Args:
        model: an ONNX file.
        out: the file to write.
        data: samples to evaluate on; see `samples.cut`.
        samples: at most so many of them.
        metric: see `judge.Question`, as `evaluate` and `lower_is_better`.
        evaluate: a command in place of a metric.
        lower_is_better: the number of a function or a command is an error.
        levels: sparsities.
        channels: remove whole channels instead of weights: a curve is of the layers that share them.
        include: globs of weights to scan although they are left alone by default.
        skip: globs of weights to leave out.
        jobs: processes; as many as there are processors without it. Each uses one thread.
        cluster: the address of a dask scheduler, which takes the place of processes.
        progress: called with ("trials", done, in all).

    Raises:
        MetricError: the metric fails, or is not finite.
        OnnxPruneError: see `onnxprune.errors`.
    """
    source, target = Path(model), Path(out)
    question = Question(metric, evaluate, lower_is_better)
    wanted = sorted({float(level) for level in levels})
    if not wanted or not all(0 <= level < 1 for level in wanted):
        raise OptionError("levels must be sparsities of at least 0 and below 1")
    for what, number in (("samples", samples), ("jobs", jobs)):
        if number is not None and number < 1:
            raise OptionError(f"{what} must be at least 1, not {number}")
    if data is None and evaluate is None:
        raise OptionError("a scan needs data, or an evaluate command")
    _check_target(target, source)
    decoded = Model.load(source)
    name = decoded.sha256()
    Decode().run(decoded)
    layers = _layers(decoded, channels, include, skip)
    arrays: dict[str, Array] = {}
    if data is not None:
        arrays = sample_files.load(Path(data), open_session(source), samples)[0].arrays
    held = decoded.to_bytes()
    of = "channels" if channels else "weights"
    common = {"model": name, "of": of} | identity(question, Samples([], 0, arrays))
    shared = _Shared(hashlib.sha256(repr(common).encode()).hexdigest(), held, arrays, question, of)
    judge = shared.judge()
    with opened(target.with_name(f"{target.name}.trials"), common) as trials:
        items = [(layer.name, level) for layer in layers for level in wanted]
        found = _run(shared, judge, trials, items, jobs, cluster, progress)
        curves = Curves(
            name, judge.metric, judge.lower_is_better, found["baseline"], judge.samples, of,
            tuple(
                Curve(c.name, c.kind, c.size, tuple(CurvePoint(s, found[_named(c.name, s)]) for s in wanted))
                for c in layers
            ),
        )  # fmt: skip
        curves.save(target)
        trials.done()
    return curves


def _check_target(target: Path, source: Path) -> None:
    """Refuse, before a trial runs, a file that could not be written."""
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise OutputError(f"cannot write {target}: it must be a file in a folder that exists")
    if target.resolve() == source.resolve():
        raise OutputError(f"{target} is the model: choose another output")


def _layers(model: Model, channels: bool, include: Sequence[str], skip: Sequence[str]) -> list[Curve]:
    """The layers to scan, without points: what the magnitude pass would prune, or whose channels can go."""
    if channels:
        return _families(model, include, skip)
    taken = Magnitude(sparsity=0.0, include=tuple(include), skip=tuple(skip)).run(model).weights
    if not taken:
        raise OptionError("no weight is pruned: `onnxprune inspect` says why")
    return [Curve(w.name, w.kind, w.size, ()) for w in find(model) if w.name in taken]


def _families(model: Model, include: Sequence[str], skip: Sequence[str]) -> list[Curve]:
    """Channels that layers share are one curve, named after the first of them."""
    if include:
        raise OptionError("include is about weights that are left alone: channels are found by what they touch")
    weights = list(find(model))
    check_patterns(weights, skip)
    kinds = {weight.name: weight.kind for weight in weights}
    families = [family for coupling in couplings(model) for family in families_of(coupling)]
    found = [
        Curve(f.weights[0], kinds.get(f.weights[0], "unknown"), len(f.groups), ())
        for f in families
        if not any(matches(name, pattern) for name in f.weights for pattern in skip)
    ]
    if not found:
        raise OptionError("no channel can go: all touch an input, an output or an operator without a rule")
    return found


def _named(layer: str, level: float) -> str:
    return f"{level!r} {layer}" if layer else "baseline"


def _said(layer: str, level: float) -> str:
    return f"of '{layer}' at {level:g}" if layer else "of the model as it is"


def _run(
    shared: _Shared, judge: Judge, trials: Trials, items: list[tuple[str, float]], jobs: int | None,
    cluster: str | None, progress: Progress,
) -> dict[str, float]:  # fmt: skip
    """The metric by trial, `baseline` among them: one of the trials, so that nobody waits for it."""
    items = [_BASELINE, *items]
    open_items = [item for item in items if trials.get(_named(*item)) is None]
    done = len(items) - len(open_items)
    for outcome in spread(trial, open_items, jobs=cores() if jobs is None else jobs, cluster=cluster, shared=shared):
        layer, level = open_items[outcome.index]
        if outcome.error is not None:
            outcome.error.add_note(_said(layer, level))
            raise outcome.error
        assert outcome.value is not None
        trials.add(_named(layer, level), _finite(outcome.value, judge, _said(layer, level)))
        done += 1
        progress("trials", done, len(items))
    return {name: trials.get(name) for name in (_named(*item) for item in items)}


def _finite(value: float, judge: Judge, what: str) -> float:
    if not math.isfinite(value):
        raise MetricError(f"the metric {judge.metric} {what} is {value}")
    return value


_judges: dict[str, Judge] = {}  # of this process: one scan at a time
_opening = threading.Lock()  # a worker of a cluster may have threads


def trial(item: tuple[str, float], shared: _Shared) -> float:
    """The metric with one layer at a sparsity: what a worker does."""
    with _opening:
        if shared.key not in _judges:
            _judges.clear()
            _judges[shared.key] = shared.judge()
        judge = _judges[shared.key]
    layer, level = item
    if item == _BASELINE:
        return judge.baseline(shared.model)
    model = Model.of_bytes(shared.model)
    if shared.of == "channels":
        Channels(sparsity=level, only=(layer,)).run(model)
    else:
        Magnitude(set=(f"{layer}={level!r}",)).run(model)
    return judge.value(model.to_bytes())
