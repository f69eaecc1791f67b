"""Whether integers pay on this processor: processor time of the model as it was and as it is, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxprune.errors import NoGain
from onnxprune.layer_costs.in_turn import milliseconds, one_thread
from onnxprune.runtime import samples as sample_files

_SECONDS, _ROUNDS = 2.0, 100  # at most so many rounds, and none begins after so many seconds


@dataclass(frozen=True)
class Gain:
    """What 8-bit activations gained.

    Attributes:
        layers: names of those that compute with integers.
        latency_ms: processor time of a run on one sample, in one thread: `before` and `after`, see `milliseconds`.
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
    """`milliseconds` of two models on a sample; see `Gain`."""
    first = one_thread(before)
    found, inputs = sample_files.load(data, first, 1)
    return milliseconds(first, one_thread(after), found.single(inputs), _SECONDS, _ROUNDS)
