"""Schedules of sparsity over rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.retraining import schedule


@given(st.sampled_from(sorted(schedule.SCHEDULES)), st.floats(0, 0.999), st.integers(1, 40))
def test_schedules_rise_to_the_target(name, final, rounds):
    steps = [schedule.sparsity(name, final, number, rounds) for number in range(1, rounds + 1)]
    assert steps == sorted(steps)
    assert steps[-1] == final
    assert all(0 <= step <= final for step in steps)


def test_schedules_are_what_they_are_called():
    def steps(name):
        return [schedule.sparsity(name, 0.875, number, 3) for number in (1, 2, 3)]

    assert steps("linear") == pytest.approx([0.875 / 3, 0.875 * 2 / 3, 0.875])
    assert steps("geometric") == pytest.approx([0.5, 0.75, 0.875])
    assert steps("cubic") == pytest.approx([0.875 * (1 - 8 / 27), 0.875 * (1 - 1 / 27), 0.875])
