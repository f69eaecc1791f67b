"""Evaluate a model: a built-in metric, a function of the user's, or a command of theirs, on the user's data."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import marshal
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxprune.core.commands import Command
from onnxprune.core.dtypes import Array
from onnxprune.errors import MetricError, OptionError, ToleranceMissed
from onnxprune.runtime import metrics
from onnxprune.runtime.metrics import Limit
from onnxprune.runtime.samples import Samples, ragged
from onnxprune.runtime.session import Runner, open_session, series_of

if TYPE_CHECKING:
    import onnxruntime as ort

Metric: TypeAlias = str | Callable[..., Any]


@dataclass(frozen=True)
class Question:
    """What a model is judged by.

    Attributes:
        metric: a name of `metrics.NAMES`, a function, or MODULE:FUNCTION, which is found as `python -m` would find it.
            A function whose first parameter is called `session` is given an onnxruntime session, any other the outputs
            by name as arrays over all samples; the second is the data by name. It returns a number.
        evaluate: a command that prints a number for `{model}` as its last line.
        lower_is_better: the number of a function or a command is an error.

    Raises:
        OptionError: the options contradict each other.
    """

    metric: Metric | None = None
    evaluate: str | None = None
    lower_is_better: bool = False

    @property
    def own(self) -> Callable[..., Any] | str | None:
        """The function that judges, or its name; None where something else does."""
        return self.metric if callable(self.metric) or (self.metric is not None and ":" in self.metric) else None

    def __post_init__(self) -> None:
        """Check the options."""
        if not isinstance(self.metric, str | None) and not callable(self.metric):
            raise OptionError(f"metric cannot be {self.metric!r}")
        if self.metric is not None and self.evaluate is not None:
            raise OptionError("metric and evaluate contradict each other: give one")
        own = self.evaluate is not None or self.own is not None
        if self.metric is not None and not own and self.metric not in metrics.NAMES:
            raise OptionError(f"metric '{self.metric}' is not one of {', '.join(metrics.NAMES)}, or MODULE:FUNCTION")
        if self.lower_is_better and not own:
            raise OptionError("lower-is-better is said of a MODULE:FUNCTION or a command: other metrics are known")
        if self.evaluate is not None:
            Command("evaluate", self.evaluate, ("model",), ("model",))

    @property
    def asked(self) -> bool:
        """Whether anything in particular is asked."""
        return self.metric is not None or self.evaluate is not None


@dataclass(frozen=True)
class Judged:
    """What a metric says of a result beside its original; `limit` is the worst that was allowed."""

    metric: str
    lower_is_better: bool
    original: float
    result: float
    limit: float | None


class Judge:
    """Judges models that stand for one original.

    Attributes:
        metric: its name.
        lower_is_better: which way is better.
        samples: how many samples it is on; 0 where a command decides.
        unit: of the metric, for people.

    Args:
        original: a session of the original.
        question: what is asked.
        samples: what models are run on; None where a command says it all.
        outputs: what the original gives for each feed, where that is known.
        options: of the sessions that models are opened in.

    Raises:
        OptionError: there is no such metric, or it needs targets that are not there.
        MetricError: the function cannot be imported.
    """

    unit = ""

    def __init__(
        self, original: ort.InferenceSession, question: Question, samples: Samples | None,
        outputs: list[dict[str, Any]] | None = None, options: ort.SessionOptions | None = None,
    ) -> None:  # fmt: skip
        self._original, self._samples, self._held = Runner(original), samples, outputs
        self._options, self._series = options, series_of(original)
        self._command = self._function = None
        self.lower_is_better = question.lower_is_better
        if question.evaluate is not None:
            self.metric = "evaluate"
            self._command = Command("evaluate", question.evaluate, ("model",), ("model",))
            self.samples = 0
            return
        if samples is None:
            raise OptionError(f"metric {_called(question.metric)} needs data")
        self.samples = samples.count
        targets = None if samples.targets is None else samples.targets[0]
        self.metric = _called(question.metric) or metrics.default(targets)
        if question.own is not None:
            if not samples.arrays:
                raise OptionError(f"metric {self.metric} needs data: inputs that are made up have no answers")
            self._function = function(question.own)
        else:
            self.lower_is_better = self.metric == "mse"
            metrics.score(self.metric, targets is not None)
        self.unit = metrics.UNITS.get(self.metric, "")

    @property
    def against_original(self) -> bool:
        """Whether the metric compares with the outputs of the original."""
        if self._samples is None or self._function is not None:
            return False
        return metrics.needs_reference(self.metric, self._samples.targets is not None)

    @property
    def commanded(self) -> bool:
        """Whether a command decides, which is given a file."""
        return self._command is not None

    def value(self, model: Path | bytes) -> float:
        """The metric of a model, in a file or in memory.

        Raises:
            MetricError: the function fails, or gives no finite number.
            CommandError: the command fails, or prints no number.
            RuntimeFailure: the model does not load or run.
        """
        if self._command is not None:
            return self._commanded(model)
        return self.of(self.opened(model))

    def opened(self, model: Path | bytes) -> Runner:
        """A model in a session, for `of`: several judges may share it.

        Raises:
            RuntimeFailure: the model does not load.
        """
        return Runner(open_session(model, "the model", self._options))

    def of(self, model: Runner) -> float:
        """`value` of a model that is open, where no command decides."""
        assert self._samples is not None
        if self._function is None:
            return self.scored(model.outputs(self._samples.feeds))
        data = self._samples.arrays
        first = next(iter(inspect.signature(self._function).parameters), "")
        given = model.session if first == "session" else _gathered(model, self._samples, self.metric)
        try:
            found = self._function(given, data)
        except Exception as error:  # the user's code may raise anything
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise MetricError(f"the metric {self.metric} raised {said}") from error
        return self._checked(found)

    def baseline(self, original: Path | bytes) -> float:
        """The metric of the original, which a command is given; see `value` for errors."""
        if self._command is not None:
            return self._commanded(original)
        if self._function is not None:
            return self.of(self._original)
        assert self._samples is not None
        if not self.against_original:
            return self.scored(self._originals())
        targets = self._samples.targets
        score = metrics.score(self.metric, targets is not None, self._series)
        for number, reference in enumerate(self._references()):
            score.add(reference, reference, None if targets is None else targets[number])
        return score.value()

    def scored(self, outputs: Iterable[dict[str, Any]]) -> float:
        """A built-in metric of what a model gives for each feed."""
        assert self._samples is not None
        targets = self._samples.targets
        score = metrics.score(self.metric, targets is not None, self._series)
        for number, (reference, found) in enumerate(zip(self._references(), outputs, strict=True)):
            score.add(reference, found, None if targets is None else targets[number])
        return score.value()

    def _references(self) -> Iterable[dict[str, Any]]:
        """What the original gives for each feed; nothing where the metric does not ask for it."""
        assert self._samples is not None
        feeds = self._samples.feeds
        if not self.against_original:
            return ({} for _ in feeds)
        return self._originals()

    def _originals(self) -> Iterable[dict[str, Any]]:
        """What the original gives for each feed: known, or run."""
        assert self._samples is not None
        return self._original.outputs(self._samples.feeds) if self._held is None else self._held

    def _commanded(self, model: Path | bytes) -> float:
        assert self._command is not None
        folder = Path(tempfile.mkdtemp(prefix="onnxprune-"))
        place = model if isinstance(model, Path) else folder / "model.onnx"
        if isinstance(model, bytes):
            place.write_bytes(model)
        found = self._command.number({"model": place}, folder)
        shutil.rmtree(folder, ignore_errors=True)  # where the command failed, its output stays
        return found

    def _checked(self, found: Any) -> float:
        try:
            number = float(found)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise MetricError(f"the metric {self.metric} gave {found!r}: it must give a finite number")
        return number

    def limit(self, baseline: float, drop: float) -> Limit:
        """The worst metric that is within a drop of the original's; of sqnr the drop is the least that it may be."""
        return Limit(drop, False) if self.metric == "sqnr" else Limit.of(baseline, drop, self.lower_is_better)

    def judged(self, baseline: float, found: float, tolerance: float | None) -> Judged:
        """Both metrics, and whether the result's is within the tolerance.

        Raises:
            ToleranceMissed: it is not.
        """
        limit = None if tolerance is None else self.limit(baseline, tolerance)
        if limit is not None and not limit.holds(found):
            raise ToleranceMissed(f"tolerance missed, nothing written: {self.miss(baseline, found, limit)}")
        return Judged(self.metric, self.lower_is_better, baseline, found, None if limit is None else limit.value)

    def miss(self, baseline: float, found: float, limit: Limit) -> str:
        """For a message: what was found, and what would have been good enough."""
        side, on = "at most" if limit.lower_is_better else "at least", f" on {self.samples} samples"
        own = "" if self.metric == "sqnr" else f" (the original has {baseline:.6g}{self.unit})"
        return (
            f"{self.metric} is {metrics.shown(self.metric, found)}{on if self.samples else ''}, wanted {side} "
            f"{limit.value:.6g}{self.unit}{own}"
        )


def _called(metric: Metric | None) -> str:
    """What a metric is called in reports."""
    return getattr(metric, "__name__", type(metric).__name__) if callable(metric) else metric or ""


def function(name: Callable[..., Any] | str) -> Callable[..., Any]:
    """A function, or the one that MODULE:FUNCTION names.

    Raises:
        MetricError: it cannot be imported.
    """
    if callable(name):
        return name
    module, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's code
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise MetricError(f"the metric {name} cannot be imported: {said}") from error
    if not callable(found):
        raise MetricError(f"the metric {name} is not a function")
    return found


def identity(question: Question, samples: Samples | None) -> dict[str, Any]:
    """What trials must have in common to be compared: the metric, the code of its module, and the data."""
    facts: dict[str, Any] = {
        "metric": question.metric if isinstance(question.metric, str | None) else _called(question.metric),
        "evaluate": question.evaluate, "lower_is_better": question.lower_is_better,
    }  # fmt: skip
    if question.own is not None:
        facts["code"] = _code(function(question.own))
    if samples is not None:
        total = hashlib.sha256()
        for name, array in sorted(samples.arrays.items()):
            total.update(f"{name} {array.dtype} {array.shape}".encode())
            for part in array if ragged(array) else [array]:
                total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data if part.size else b"")
        facts["data"] = total.hexdigest()
    return facts


def _code(metric: Callable[..., Any]) -> str | None:
    """The digest of the file that a function comes from; of its own code where there is none; None without either."""
    with contextlib.suppress(OSError, TypeError):  # typed in, built in, or an object that is called
        return hashlib.sha256(Path(inspect.getsourcefile(metric) or "").read_bytes()).hexdigest()
    code = getattr(metric, "__code__", None)
    return None if code is None else hashlib.sha256(marshal.dumps(code)).hexdigest()


def _gathered(model: Runner, samples: Samples, metric: str) -> dict[str, Array]:
    """The outputs over all samples."""
    found = list(model.outputs(samples.feeds))
    try:
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    except ValueError as error:
        raise MetricError(
            f"the outputs of the batches cannot be joined for {metric}: let it take (session, data)"
        ) from error
