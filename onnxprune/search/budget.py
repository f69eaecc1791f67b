"""The smallest file whose metric is within a budget: a search over the loss, each try the whole encoded model.

One half of the data decides, the other confirms, with a standard error to spare: a search keeps the try that was lucky.
The losses are on a fixed grid, so that the same search tries the same ones, and what was tried before it was killed is
taken up.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.allocation.rate_distortion import LOSS_ON_DATA
from onnxprune.core.files import digest
from onnxprune.errors import DataError, MetricError, OptionError, ToleranceMissed
from onnxprune.pipeline.progress import Progress
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.judge import Judge, Question, identity
from onnxprune.runtime.metrics import EXPECTED
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import Runner, open_session
from onnxprune.search.halves import MIN_HALF_SAMPLES, halves
from onnxprune.search.trials import Trials

if TYPE_CHECKING:
    import onnxruntime as ort

STEPS = 4  # tries of a doubling
CALIBRATION = 1024  # samples of the first half that the layers' inputs are measured on: a run each, as a try takes
FOLDS, _FOLD = 8, 16  # parts of the confirming half, whose drops differ by chance, and the samples of one at least
_LOWEST, _HIGHEST = -40, 28  # the grid's ends: losses of 4e-5 and 5
_EXACT = _LOWEST - 1  # the values stay as they are
_SATURATED = 0.999  # a doubling of the loss that saves less than this leaves nothing to save

Attempt = Callable[[float, Path], object]  # (loss, where to write)


@dataclass(frozen=True)
class HalfMetric:
    """The metric on one half of the samples (on none where a command decides).

    Attributes:
        samples: how many.
        original: the metric of the original.
        result: that of the result.
        error: the standard error of their difference where the half confirms; 0 where it decides.
        expected: what margins make likely in place of the result, where the samples are too few to count by.
    """

    samples: int
    original: float
    result: float
    error: float = 0.0
    expected: float | None = None


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        metric: its name; `lower_is_better` says which way.
        max_drop: the budget.
        decided: the half that the search went by.
        held_out: the half that confirmed; None where a command decides.
        loss: what was chosen.
        trials: how many models were made and judged, by this run or before it was killed.
        complete: False where the time limit ended the search.
    """

    metric: str
    lower_is_better: bool
    max_drop: float
    decided: HalfMetric
    held_out: HalfMetric | None
    loss: float
    trials: int
    complete: bool


@dataclass(frozen=True)
class _Tried:
    nbytes: int
    metric: float


class Search:
    """One search; `run` finds the loss.

    Args:
        source: the model.
        attempt: writes the result of a loss to a file.
        question: what decides.
        data: samples; None where a command decides.
        samples: at most so many.
        max_drop: how much worse than the original's the metric may be.
        time_limit: seconds after which nothing new is tried.
        progress: called with ("search", trials, about how many in all).

    Raises:
        DataError: the data does not fit, or has too few samples.
        OptionError: the options make no sense.
    """

    def __init__(
        self, source: Path, attempt: Attempt, question: Question, data: Path | None, samples: int | None,
        max_drop: float, time_limit: float | None, progress: Progress,
    ) -> None:  # fmt: skip
        if not math.isfinite(max_drop) or (max_drop < 0 and question.metric != "sqnr"):
            raise OptionError(f"max-drop must be a number from 0 up, not {max_drop}")
        if time_limit is not None and not time_limit > 0:
            raise OptionError(f"time-limit must be above 0 seconds, not {time_limit}")
        if data is None and question.evaluate is None:
            raise OptionError("max-drop needs data to judge by, or an evaluate command")
        self._source, self._attempt, self._max_drop, self._progress = source, attempt, max_drop, progress
        self._question = question
        self._end = None if time_limit is None else time.monotonic() + time_limit
        self.halves = _halves(source, question, data, samples)
        session = open_session(source)
        self._judges = [Judge(session, question, half) for half in self.halves or (None,)]
        self._folds = [Judge(session, question, fold) for fold in _folds(session, self.halves)]
        self._margins = _by_margins(source, session, self._judges, self.halves, max_drop)
        self._baselines: list[float] = []
        self._open: dict[int, Runner] = {}  # the models of the last step and of the best one, which is confirmed
        self._best: int | None = None
        self._number = 0

    def common(self, model: str, steps: str) -> dict[str, Any]:
        """What the trials of this search have in common; see `trials.opened`."""
        data = [identity(self._question, half) for half in self.halves or (None,)]
        return {"model": model, "passes": steps, "judged": data}

    def run(self, trials: Trials) -> Searched:
        """Find the largest loss that both halves allow, the confirming one with a standard error to spare.

        Raises:
            ToleranceMissed: none is within the budget, or none was found in time.
        """
        for number, judge in enumerate(self._judges):
            name = f"baseline {number}"
            if trials.get(name) is None:
                trials.add(name, judge.baseline(self._source))
            self._baselines.append(trials.get(name))
        self._trials = trials
        with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder)
            good, complete = self._decide()
            refused: int | None = None
            for step in sorted(good, key=lambda step: (good[step].nbytes, -step)):
                if self._confirmed(step):
                    if refused is not None:
                        step = self._between(step, refused, good)
                    return self._found(step, good[step], complete)
                refused = step
            return self._tightened(min(good, default=_LOWEST), complete)

    def _decide(self) -> tuple[dict[int, _Tried], bool]:
        """The tries that are within the budget on the first half, and whether the search came to its end.

        Twice the loss is tried until two tries in a row miss the budget: a few samples more or less are chance.
        """
        good: dict[int, _Tried] = {}
        step, stride, best, worst, missed = 0, STEPS, None, None, None
        while best is None or worst is None or worst - best > 1:
            if self._late():
                return good, False
            tried = self._try(step)
            if self._within(0, tried.metric):
                saved = best is None or tried.nbytes < _SATURATED * good[best].nbytes
                good[step], best, missed = tried, step, None
                self._best = step
                if worst is None and (not saved or step + STEPS > _HIGHEST):
                    break
            elif best is not None and worst is None and missed is None and step + STEPS <= _HIGHEST:
                missed = step
            else:
                worst, missed = step if missed is None else missed, None
            if best is not None:
                step = (best if missed is None else missed) + STEPS if worst is None else (best + worst) // 2
            elif step == _LOWEST:
                break
            else:
                step, stride = max(step - stride, _LOWEST), 2 * stride
        return good, True

    def _between(self, good: int, refused: int, tried: dict[int, _Tried]) -> int:
        """The largest loss that both halves allow between one that they do and one that the second did not confirm.

        Args:
            good: the step that both allow.
            refused: the other one.
            tried: gets what is tried.
        """
        while refused - good > 1 and not self._late():
            middle = (good + refused) // 2
            tried[middle] = self._try(middle)
            smaller = tried[middle].nbytes < tried[good].nbytes
            if smaller and self._within(0, tried[middle].metric) and self._confirmed(middle):
                good = middle
            else:
                refused = middle
        return good

    def _tightened(self, step: int, complete: bool) -> Searched:
        """The first loss below that both halves allow, where the second did not confirm what the first chose."""
        stride = 1
        while complete and step > _EXACT and not self._late():
            step, stride = max(step - stride, _EXACT), 2 * stride
            tried = self._try(step)
            if self._within(0, tried.metric) and self._confirmed(step):
                return self._found(step, tried, True)
        if not complete or self._late():
            raise ToleranceMissed("nothing is within the drop yet, nothing written: the same command goes on from here")
        self._trials.done()
        judge = self._judges[0]
        lost = f"no loss keeps {judge.metric} within {self._max_drop:g}{judge.unit} of the original's"
        raise ToleranceMissed(f"{lost} on both halves, nothing written" if self.halves else f"{lost}, nothing written")

    def _late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _within(self, half: int, metric: float) -> bool:
        return self._judges[half].limit(self._baselines[half], self._max_drop).holds(metric)

    def _file(self, step: int) -> Path:
        """The model of a step; made anew where an earlier run made it."""
        place = self._folder / f"{step - _EXACT}.onnx"
        if not place.is_file():
            self._attempt(loss_of(step), place)
        return place

    def _value(self, step: int, judge: Judge) -> float:
        """The metric of the model of a step: one session for both halves and the folds."""
        path = self._file(step)
        if judge.commanded:
            return judge.value(path)
        if step not in self._open:
            self._open = {held: model for held, model in self._open.items() if held == self._best}
            self._open[step] = judge.opened(path)
        return judge.of(self._open[step])

    def _try(self, step: int) -> _Tried:
        name = f"loss {loss_of(step)!r}"
        if self._trials.get(name) is None:
            path = self._file(step)
            size = sum(file.stat().st_size for file in [path, *path.parent.glob(f"{path.stem}.*.data")])
            self._trials.add(name, [size, self._value(step, self._judges[0]), digest(path)])
        self._number += 1
        self._progress("search", self._number, max(self._number, _HIGHEST // STEPS + 2))
        size, metric, _ = self._trials.get(name)
        return _Tried(size, metric)

    def _confirmed(self, step: int) -> bool:
        if len(self._judges) == 1:
            return True
        if not self._within(1, self._held_out(step)):  # whatever the error is
            return False
        if self._margins is not None:
            judge, baseline = self._margins
            if not judge.limit(baseline, self._max_drop).holds(self._expected(step, judge)):
                return False
        worse = self._error(step) if self._judges[1].lower_is_better else -self._error(step)
        return self._within(1, self._held_out(step) + worse)

    def _held_out(self, step: int) -> float:
        name = f"held out {loss_of(step)!r}"
        if self._trials.get(name) is None:
            self._trials.add(name, self._value(step, self._judges[1]))
        return self._trials.get(name)

    def _expected(self, step: int, judge: Judge) -> float:
        """What margins make likely on the confirming half."""
        name = f"expected {loss_of(step)!r}"
        if self._trials.get(name) is None:
            self._trials.add(name, self._value(step, judge))
        return self._trials.get(name)

    def _error(self, step: int) -> float:
        """The standard error of the drop on the confirming half, from the drops of its folds."""
        before = self._by_fold("baseline folds", lambda judge: judge.baseline(self._source))
        after = self._by_fold(f"folds {loss_of(step)!r}", lambda judge: self._value(step, judge))
        drops = [b - a for b, a in zip(before, after, strict=False)]
        return statistics.stdev(drops) / math.sqrt(len(drops)) if len(drops) > 1 else 0.0

    def _by_fold(self, name: str, metric: Callable[[Judge], float]) -> list[float]:
        """A metric on each fold; nothing where it cannot be told of so few samples."""
        if self._trials.get(name) is None:
            try:
                found = [metric(judge) for judge in self._folds]
            except MetricError:
                found = []
            self._trials.add(name, found)
        return self._trials.get(name)

    def _found(self, step: int, tried: _Tried, complete: bool) -> Searched:
        decided = HalfMetric(self._judges[0].samples, self._baselines[0], tried.metric)
        held_out = None
        if len(self._judges) > 1:
            expected = None if self._margins is None else self._expected(step, self._margins[0])
            held_out = HalfMetric(
                self._judges[1].samples, self._baselines[1], self._held_out(step), self._error(step), expected
            )
        judge = self._judges[0]
        return Searched(
            judge.metric,
            judge.lower_is_better,
            self._max_drop,
            decided,
            held_out,
            loss_of(step),
            self._number,
            complete,
        )


def loss_of(step: int) -> float:
    """The loss of a step of the grid."""
    return 0.0 if step == _EXACT else float(LOSS_ON_DATA * 2 ** (step / STEPS))


def _by_margins(
    source: Path, session: ort.InferenceSession, judges: list[Judge], parted: list[Samples], max_drop: float
) -> tuple[Judge, float] | None:
    """What judges by margins where one sample is more than half of the budget, and its metric of the original.

    That none of 128 changed says little of 1 point.
    """
    metric = EXPECTED.get(judges[0].metric)
    if metric is None or not parted or 100 / parted[1].count <= max_drop / 2:
        return None
    judge = Judge(session, Question(metric), parted[1])
    try:
        return judge, judge.baseline(source)
    except OptionError:  # classes without scores
        return None


def _folds(session: ort.InferenceSession, parted: list[Samples]) -> list[Samples]:
    """Parts of the confirming half, each of samples from all over it."""
    if not parted:
        return []
    given, inputs = sample_files.runnable(session, parted[1].arrays, "the data")
    batch = max((sample_files.fixed(item) or 1 for item in inputs), default=1)
    parts = min(FOLDS, parted[1].count // max(batch, _FOLD))
    return [sample_files.cut(given, "the data", inputs, fold=(part, parts)) for part in range(parts)]


def _halves(source: Path, question: Question, data: Path | None, samples: int | None) -> list[Samples]:
    """The samples that decide, and those that confirm; none where a command decides."""
    if data is None or question.evaluate is not None:
        return []
    found = halves(source, data, samples)
    if found[1].count < MIN_HALF_SAMPLES:
        raise DataError(
            f"{data} gives {sum(half.count for half in found)} samples: max-drop needs at least "
            f"{2 * MIN_HALF_SAMPLES}, half of them held out"
        )
    return list(found)
