"""What `compress --data` promises where no option says what may be lost.

One half of the samples calibrates, the other judges, and a result that changes more than a point of the answers gives
way to one of a smaller loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.allocation.rate_distortion import LOSS, LOSS_ON_DATA
from onnxprune.core.dtypes import Array
from onnxprune.runtime.deviation import OutputDeviation, is_classes
from onnxprune.runtime.judge import Judge, Question
from onnxprune.runtime.metrics import UNITS, Limit, of_deviations
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import Runner, open_session

POINTS = 1.0  # of the metric; a standard error of it, or one answer, where that is more
LEAST_SQNR = -10 * math.log10(LOSS_ON_DATA)  # dB: outputs as far off as the loss says
ANSWERS = "answers"


@dataclass(frozen=True)
class Attempt:
    """What is tried.

    Attributes:
        loss: see the encode pass.
        calibrated: whether the layers' inputs are measured on the other half.
    """

    loss: float
    calibrated: bool


# Data that says nothing about the inputs to come is left out of the later ones.
ATTEMPTS = (
    *(Attempt(loss, True) for loss in (LOSS_ON_DATA, math.sqrt(LOSS_ON_DATA * LOSS), LOSS)),
    *(Attempt(loss, False) for loss in (LOSS, LOSS / 2, LOSS / 4, LOSS / 8)),
)
DEFAULT = Attempt(LOSS, False)  # what is made without data


@dataclass(frozen=True)
class Promised:
    """What was promised, and what the held-out half says.

    Attributes:
        metric: its name; in percent. `answers` are the rows of the outputs (last axis: classes) that keep their largest
            entry, and the classes that stay, of those that are not the commonest one before and after. None where
            no output has classes.
        original: the metric of the original.
        result: that of the result.
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
    allowed: float
    answers: int
    sqnr: float | None
    least_sqnr: float
    samples: int
    attempt: Attempt
    kept: bool

    @property
    def settled(self) -> bool:
        """Whether nothing smaller is tried: it is kept, or nothing more is left to try.

        Answers that no target tells right from wrong never ask for more than is made without data; outputs that are far
        off do.
        """
        unlabelled = self.metric in (ANSWERS, None)
        return (
            self.kept or self.attempt == ATTEMPTS[-1] or (unlabelled and _near(self.sqnr) and self.attempt == DEFAULT)
        )


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
        self._judge = None
        if question.asked or held_out.targets is not None:
            judge = Judge(session, question, held_out, self._references)
            self._judge = judge if judge.unit == UNITS["top1"] else None
        self._baseline = 100.0 if self._judge is None else self._judge.scored(self._references)

    def of(self, result: Path, attempt: Attempt) -> Promised:
        """What the held-out samples say of a result.

        Args:
            result: the file.
            attempt: how it came about.

        Raises:
            RuntimeFailure: it does not run.
        """
        outputs = list(Runner(open_session(result)).outputs(self._samples.feeds))
        metric: str | None
        if self._judge is not None:
            metric, found, count = self._judge.metric, self._judge.scored(outputs), self._samples.count
        else:
            metric, (found, count) = ANSWERS, self._answers(outputs)
            metric = metric if count else None
        error = math.sqrt(max(found * (100 - found), 0) / max(count, 1))
        one = 100 / count if count else 0.0
        allowed, sqnr = max(POINTS, error, one), self._sqnr(outputs)
        return Promised(
            metric, self._baseline, found, allowed, count, sqnr, LEAST_SQNR, self._samples.count, attempt,
            _near(sqnr) and Limit.of(self._baseline, allowed, False).holds(found),
        )  # fmt: skip

    def _answers(self, outputs: list[dict[str, Any]]) -> tuple[float, int]:
        """The share of answers that stayed, of the output where it is least, in percent, and of how many."""
        shares = []
        for name in self._references[0]:
            runs = zip(self._samples.feeds, self._references, outputs, strict=True)
            pairs = [pair for feed, a, b in runs if (pair := _answers_of(a[name], b.get(name), feed)) is not None]
            if not any(before.size for before, _ in pairs):
                continue
            was, now = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            kinds, which, counts = np.unique(was, return_inverse=True, return_counts=True)
            telling = (which != counts.argmax()) | (now != kinds[counts.argmax()])
            count = int(np.count_nonzero(telling))
            if count:
                shares.append((100.0 * (1 - int(np.count_nonzero(was != now)) / count), count))
        return min(shares, default=(100.0, 0))

    def _sqnr(self, outputs: list[dict[str, Any]]) -> float | None:
        """That of the worst output; those that say nothing or change their shape are left out."""
        deviations = {name: OutputDeviation(name) for name in self._references[0]}
        for reference, output in zip(self._references, outputs, strict=True):
            for name, deviation in deviations.items():
                deviation.add(reference[name], output.get(name))
        telling = [held for held in deviations.values() if held.numbers and not held.says_nothing and not held.differs]
        return of_deviations("sqnr", telling) if telling else None


def _near(sqnr: float | None) -> bool:
    """Whether outputs are near enough; of those that are no numbers nothing is asked."""
    return sqnr is None or sqnr >= LEAST_SQNR


def _answers_of(before: Any, after: Any, feed: Mapping[str, Array]) -> tuple[Array, Array] | None:
    """The classes that an output names, before and after; a state or an image, shaped as an input, names none."""
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray) or before.shape != after.shape:
        return None
    if is_classes(before.dtype):
        return before.reshape(-1), after.reshape(-1)
    states = (array.shape for array in feed.values() if array.dtype == before.dtype)
    if before.dtype.kind != "f" or not before.ndim or before.shape[-1] <= 1 or before.shape in states:
        return None
    return before.argmax(-1).reshape(-1), after.argmax(-1).reshape(-1)
