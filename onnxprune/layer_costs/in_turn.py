"""Models timed in turn: what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.model.model import Model
from onnxprune.runtime.session import Feeds, open_session, run, session_options

if TYPE_CHECKING:
    import onnxruntime as ort

_ROUNDS, _MOST = 5, 10_000  # at least, and for models of microseconds


def run_times(
    sessions: Sequence[ort.InferenceSession], feeds: Feeds, seconds: float, most: int, clock: Callable[[], float]
) -> list[list[float]]:
    """Milliseconds of the runs of each session: one run of each after the other, after one to warm up.

    Args:
        sessions: of models that take the same inputs.
        feeds: the inputs.
        seconds: of the wall clock, after which no further round begins once there are five.
        most: rounds.
        clock: in seconds.

    Raises:
        RuntimeFailure: a model does not run.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        run(session, feeds)
    until = time.perf_counter() + seconds
    while len(times[0]) < _ROUNDS or (time.perf_counter() < until and len(times[0]) < most):
        for session, taken in zip(sessions, times, strict=True):
            start = clock()
            run(session, feeds)
            taken.append(1000 * (clock() - start))
    return times


def one_thread(path: Path, name: str = "") -> ort.InferenceSession:
    """A session of a file in one thread.

    Args:
        path: the file.
        name: what errors call the model.

    Raises:
        RuntimeFailure: it does not load.
    """
    return open_session(path, name, session_options(threads=1))


def in_pairs(
    before: ort.InferenceSession, after: ort.InferenceSession, feeds: Feeds, seconds: float, most: int
) -> tuple[float, float]:
    """Median milliseconds of processor time of a run of `before`, and how many times as long a run of `after` takes.

    Processor time leaves out what the thread waits while others run. What others take from its caches slows a run of
    one model and the run of the other that follows it alike, so that the ratio is the median of those of such pairs.
    Threads of two sessions would take the cores from each other: by the clock a model can be six times as fast as
    itself.

    Args:
        before: see `one_thread`.
        after: likewise, of a model that takes the same inputs.
        feeds: see `run_times`.
        seconds: see `run_times`.
        most: rounds.

    Raises:
        RuntimeFailure: a model does not run.
    """
    slow, fast = run_times([before, after], feeds, seconds, most, time.thread_time)
    ratios = (a / b for a, b in zip(fast, slow, strict=True) if b)
    return statistics.median(slow), statistics.median(ratios)


def milliseconds(
    before: ort.InferenceSession, after: ort.InferenceSession, feeds: Feeds, seconds: float, most: int
) -> dict[str, float]:
    """Milliseconds of a run of two models by `in_pairs`: `before`, and `after`, which has the ratio of pairs to it."""
    taken, ratio = in_pairs(before, after, feeds, seconds, most)
    return {"before": taken, "after": taken * ratio}


class ProcessorTimes:
    """Times pairs of models by processor time: one thread, optimised graph, see `in_pairs`.

    Args:
        feeds: the inputs of all models.
    """

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._held: tuple[Model, ort.InferenceSession] | None = None

    def __call__(self, before: Model, after: Model, seconds: float) -> tuple[float, float]:
        """What `in_pairs` says of two models.

        Args:
            before: stays open for the next call.
            after: the other model.
            seconds: see `run_times`.

        Raises:
            RuntimeFailure: a model does not load or run.
        """
        if self._held is None or self._held[0] is not before:
            self._held = before, _opened(before)
        return in_pairs(self._held[1], _opened(after), self._feeds, seconds, _MOST)


def _opened(model: Model) -> ort.InferenceSession:
    """A session of one thread."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "model.onnx"
        model.write(path)
        return one_thread(path, "the model")
