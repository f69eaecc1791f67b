"""What `compress --data` promises where no option says what may be lost.

One half of the samples calibrates, the other judges, and a result that changes more than a point of the answers gives
way to one of a smaller loss.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.allocation.rate_distortion import LOSS, LOSS_ON_DATA
from onnxprune.errors import OptionError
from onnxprune.model.model import Model
from onnxprune.runtime.deviation import CLOSE_DB, OutputDeviation
from onnxprune.runtime.judge import Judge, Question
from onnxprune.runtime.metrics import UNITS, Limit, of_deviations
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import Runner, open_session
from onnxprune.search.answers import Answers, state_like
from onnxprune.search.heads import heads_of

POINTS = 1.0  # of the metric; a standard error of it, or one answer, where that is more
# dB: outputs as far off as a loss says, where answers or a bounded loss tell the rest; a third of that where they are
# all there is to judge by, and are probabilities of yes or no, which a threshold makes answers of; what the report
# calls close where nobody knows what becomes of them.
LEAST_SQNR = -10 * math.log10(LOSS_ON_DATA)
LEAST_SQNR_OF_MAPS = -10 * math.log10(LOSS_ON_DATA / 3)
ANSWERS = "answers"
_STEP = 4  # how many times larger or smaller the next loss is at most


@dataclass(frozen=True)
class Attempt:
    """What is tried.

    Attributes:
        loss: see the encode pass.
        calibrated: whether the layers' inputs are measured on the other half.
    """

    loss: float
    calibrated: bool


# With calibration; no more than `_UNANSWERED` where there are no answers, or one of them is more than a point.
LOSSES = (*(LOSS_ON_DATA * 2**double for double in (4, 3, 2, 1, 0)), 4 * LOSS, 2 * LOSS, LOSS)
_UNANSWERED = 4 * LOSS_ON_DATA
_STATEFUL = 2 * LOSS  # of a model that hands on a state
DEFAULT = Attempt(LOSS, False)  # what is made without data
# Data that says nothing about the inputs to come is left out where no calibrated result keeps the promise.
_PLAIN = tuple(Attempt(loss, False) for loss in (LOSS, LOSS / 2, LOSS / 4, LOSS / 8))


@dataclass(frozen=True)
class Promised:
    """What was promised, and what the held-out half says.

    Attributes:
        metric: its name; in percent. `answers` are the rows of the outputs (last axis: classes) that keep their largest
            entry, and the classes that stay, of those that are not the commonest one before and after, see
            `Answers.kept`. None where no output has classes.
        original: the metric of the original.
        result: that of the result.
        expected: the answers that stay, in percent, as margins make it likely; of top1 the right ones among them. A
            point less than all may be. None where no scores tell margins.
        allowed: how many points less it may be.
        answers: what the metric counts on.
        sqnr: of the worst output against the original's, in dB; None where no output has numbers.
        least_sqnr: what it has to be.
        samples: held out.
        attempt: what was tried.
        kept: whether the promise is kept.
    """

    metric: str | None
    original: float
    result: float
    expected: float | None
    allowed: float
    answers: int
    sqnr: float | None
    least_sqnr: float
    samples: int
    attempt: Attempt
    kept: bool

    @property
    def near(self) -> bool:
        """Whether the outputs are near enough; of those that are no numbers nothing is asked."""
        return self.sqnr is None or self.sqnr >= self.least_sqnr

    @property
    def error(self) -> float:
        """The squared error over what is allowed, as far as it shows: answers change with the root of it."""
        changed = max(self.original - self.result, 0.0) / self.allowed
        likely = 0.0 if self.expected is None else (100 - self.expected) / POINTS
        far = 0.0 if self.sqnr is None else 10 ** ((self.least_sqnr - self.sqnr) / 10)
        return max(changed**2, likely**2, far)


def next_attempt(tried: Sequence[Promised], most: float = LOSSES[0]) -> Attempt | None:
    """What is tried next; None where the last result stands.

    Twice or four times the loss where a result has room for it, half or a quarter where it missed. A loss that kept the
    promise before a larger one missed it is made again.

    Answers that no target tells right from wrong never ask for more than is made without data, and what changes least
    of them is made again; outputs that are far off do.

    Args:
        tried: what was, in order.
        most: the largest loss that may be tried, `LOSS` or more.
    """
    if tried and (tried[-1].metric is None or tried[-1].answers < 100 / POINTS):
        most = min(most, _UNANSWERED)
    losses = [loss for loss in LOSSES if loss <= most]
    if not tried:
        return Attempt(next(loss for loss in losses if loss <= LOSS_ON_DATA), True)
    last = tried[-1]
    if not last.attempt.calibrated:
        if last.kept:
            return None
        if last.metric in (ANSWERS, None) and last.attempt == DEFAULT:
            best = min(tried[::-1], key=lambda each: each.error)  # a calibrated result may be nearer
            if best.near:
                return None if best is last else best.attempt
            return _PLAIN[1]
        return None if last.attempt == _PLAIN[-1] else _PLAIN[_PLAIN.index(last.attempt) + 1]
    if any(not each.attempt.calibrated for each in tried):
        return None
    missed = min((each.attempt.loss for each in tried if not each.kept), default=math.inf)
    kept = max((each.attempt.loss for each in tried if each.kept), default=0.0)
    between = [loss for loss in losses if kept < loss < missed]
    if last.kept:
        room = last.attempt.loss / max(last.error, 1 / _STEP)
        return next((Attempt(loss, True) for loss in between if loss <= room), None)
    if kept:
        return Attempt(between[0] if between else kept, True)
    room = 2 * last.attempt.loss / min(max(last.error, 1.0), 2 * _STEP)
    return next((Attempt(loss, True) for loss in between if loss <= max(room, LOSS)), _PLAIN[0])


class Promise:
    """Judges results on samples that calibrated nothing.

    Args:
        source: the original.
        question: what the user judges by; nothing: the answers, or top1 where the data has targets.
        held_out: the half that judges.
    """

    def __init__(self, source: Path, question: Question, held_out: Samples) -> None:
        session = open_session(source)
        self._samples = held_out
        self._references = list(Runner(session).outputs(held_out.feeds))
        heads = heads_of(Model.load(source))
        self._answers = Answers(session, held_out.feeds, self._references, held_out.count, heads.scores)
        self._judge = self._likely = None
        self._rightly = 0.0  # expected_top1 of the original
        if question.asked or held_out.judging:
            judge = Judge(session, question, held_out, self._references)
            self._judge = judge if judge.unit == UNITS["top1"] else None
            if judge.metric == "top1":
                likely = Judge(session, Question("expected_top1"), held_out, self._references)
                with contextlib.suppress(OptionError):  # classes without scores
                    self._rightly = likely.scored(self._references)
                    self._likely = likely
        self._baseline = 100.0 if self._judge is None else self._judge.scored(self._references)
        runs = list(zip(held_out.feeds, self._references, strict=True))
        # Errors of a state that is handed to the next run add up, which no single run shows.
        alike = any(state_like(output, feed) for feed, found in runs for output in found.values())
        self._stateful = alike or bool(heads.states)
        bounded = all(
            name in heads.states or state_like(output, feed) or (name in heads.scores and _map(output))
            for feed, found in runs
            for name, output in found.items()
        )
        known = LEAST_SQNR if self._stateful else LEAST_SQNR_OF_MAPS
        self._least = known if bounded else CLOSE_DB  # of outputs without answers

    def most(self, spent: float) -> float:
        """The largest loss that may be tried.

        Args:
            spent: what the weights had lost before: no more is lost, or what no data asks for.
        """
        return min(_STATEFUL if self._stateful else LOSSES[0], max(spent, LOSS) if spent else math.inf)

    def of(self, result: Path, attempt: Attempt) -> Promised:
        """What the held-out samples say of a result.

        Args:
            result: the file.
            attempt: how it came about.

        Raises:
            RuntimeFailure: it does not run.
        """
        outputs = list(Runner(open_session(result)).outputs(self._samples.feeds))
        kept = self._answers.kept(outputs)
        metric: str | None = ANSWERS if kept.count else None
        found, expected, count = kept.counted, kept.expected, kept.count
        if self._judge is not None:
            metric, found, count = self._judge.metric, self._judge.scored(outputs), self._samples.count
            expected = None
            if self._likely is not None:
                expected = 100 - max(self._rightly - self._likely.scored(outputs), 0.0)
        error = math.sqrt(max(found * (100 - found), 0) / max(count, 1))
        one = 100 / count if count else 0.0
        allowed, sqnr = max(POINTS, error, one), self._sqnr(outputs)
        least = LEAST_SQNR if metric is not None else self._least
        return Promised(
            metric, self._baseline, found, expected, allowed, count, sqnr, least, self._samples.count, attempt,
            (sqnr is None or sqnr >= least)
            and (expected is None or expected >= 100 - POINTS)
            and Limit.of(self._baseline, allowed, False).holds(found),
        )  # fmt: skip

    def _sqnr(self, outputs: list[dict[str, Any]]) -> float | None:
        """That of the worst output; those that say nothing or change their shape are left out, not those with NaN."""
        deviations = {name: OutputDeviation(name) for name in self._references[0]}
        for reference, output in zip(self._references, outputs, strict=True):
            for name, deviation in deviations.items():
                deviation.add(reference[name], output.get(name))
        telling = [held for held in deviations.values() if held.tells]
        return of_deviations("sqnr", telling) if telling else None


def _map(output: Any) -> bool:
    """Whether entries may be probabilities."""
    return isinstance(output, np.ndarray) and bool(((output >= 0) & (output <= 1)).all())
