"""Models that are timed in turn, by a clock that counts."""

from __future__ import annotations

from itertools import chain, count

import numpy as np
import pytest

import onnxprune
from onnxprune.layer_costs.in_turn import ProcessorTimes, milliseconds, run_times
from tests.helpers.builders import mlp
from tests.helpers.running import load, put


class Counted:
    """A session that notes its runs, each of which takes so many ticks of the clock."""

    def __init__(self, name: str, ticks: int, clock: list[float], runs: list[str]) -> None:
        self._name, self._ticks, self._clock, self._runs = name, ticks, clock, runs

    def get_outputs(self) -> list:
        return []

    def run(self, names, feeds) -> list:
        self._clock[0] += self._ticks
        self._runs.append(self._name)
        return []


@pytest.mark.parametrize(("seconds", "most", "rounds"), [(0.0, 100, 5), (60.0, 7, 7)])
def test_one_run_of_each_after_the_other(seconds, most, rounds):
    clock, runs = [0.0], []
    sessions = [Counted("a", 2, clock, runs), Counted("b", 3, clock, runs)]
    times = run_times(sessions, {}, seconds, most, lambda: clock[0])
    assert runs == ["a", "b"] * (1 + rounds)
    assert times == [[2000.0] * rounds, [3000.0] * rounds]


@pytest.fixture
def uneven(monkeypatch):
    """What slows a run of one slows the next of the other: each pair is 1 to 2, though no two pairs are alike."""
    pace = iter([(1, 2), (5, 10), (2, 4), (8, 16), (3, 6)])
    ticks = chain.from_iterable((0.0, a, a, a + b) for a, b in pace)
    monkeypatch.setattr("onnxprune.layer_costs.in_turn.time.thread_time", lambda: float(next(ticks)))


def test_the_ratio_of_pairs_is_not_that_of_the_medians(uneven):
    timer = ProcessorTimes({"x": np.zeros((1, 8), np.float32)})
    assert timer(load(mlp()), load(mlp(seed=1)), 0.0) == (3000.0, 2.0)


def test_what_is_shown_of_two_models_has_the_ratio_of_pairs(uneven):
    sessions = [Counted(name, 0, [0.0], []) for name in "ab"]
    assert milliseconds(*sessions, {}, 0.0, 5) == {"before": 3000.0, "after": 6000.0}


def test_a_latency_in_a_report_is_processor_time_of_runs_in_turn(tmp_path, monkeypatch):
    ticks = count()
    monkeypatch.setattr("onnxprune.layer_costs.in_turn.time.thread_time", lambda: float(next(ticks)))
    source = put(tmp_path / "m.onnx", mlp((16, 64, 8)))
    result = onnxprune.strip(source, tmp_path / "o.onnx", channels=0.25)
    assert result.cost.latency_ms == {"before": 1000.0, "after": 1000.0}
