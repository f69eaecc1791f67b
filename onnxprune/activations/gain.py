"""Whether integers pay on this processor: processor time of the model as it was and as it is, in turn."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.errors import NoGain
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.session import inputs_of, open_session, run, session_options

if TYPE_CHECKING:
    import onnxruntime as ort

_ROUNDS, _SECONDS = 7, 2.0  # at least so many timed rounds, and more within so many seconds
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Gain:
    """What 8-bit activations gained.

    Attributes:
        layers: names of those that compute with integers.
        latency_ms: median processor time of a run on one sample, in one thread: `before` and `after`.
    """

    layers: list[str]
    latency_ms: dict[str, float]


def gained(original: Path, result: Path, data: Path, layers: list[str]) -> Gain:
    """Time both models on a sample of the data.

    Args:
        original: the model as it was.
        result: what was made of it.
        data: see `samples.read`.
        layers: names of the layers of the result that compute with integers.

    Raises:
        NoGain: the result takes no less time.
        RuntimeFailure: a model does not load or run.
    """
    times = latencies(original, result, data)
    before, after = times["before"], times["after"]
    if after >= before:
        raise NoGain(
            f"activations int8 does not pay on this processor: {before:.3g} -> {after:.3g} ms a run, nothing written"
        )
    return Gain(layers, times)


def latencies(before: Path, after: Path, data: Path) -> dict[str, float]:
    """Median milliseconds of processor time of a run of two models in one thread, in turn; see `Gain`."""
    sessions: dict[str, ort.InferenceSession] = {}
    times: dict[str, list[float]] = {"before": [], "after": []}
    for when, path in (("before", before), ("after", after)):
        options = session_options()
        options.intra_op_num_threads = 1
        sessions[when] = open_session(path, options=options)
    inputs = inputs_of(sessions["before"])
    feeds, _ = sample_files.load(data, inputs, 1)
    feed = sample_files.pieces(inputs, feeds[0], 1)[0]
    for session in sessions.values():
        run(session, feed)
    until = time.monotonic() + _SECONDS
    while len(times["after"]) < _ROUNDS or (time.monotonic() < until and len(times["after"]) < _MOST_ROUNDS):
        for when, session in sessions.items():
            start = time.process_time()
            run(session, feed)
            times[when].append(1000 * (time.process_time() - start))
    return {when: statistics.median(taken) for when, taken in times.items()}
