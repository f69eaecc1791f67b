"""Metrics against their formulas, and the limit that a metric must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.runtime import metrics
from onnxprune.runtime.metrics import Limit

scores = hnp.arrays(np.float32, (7, 6), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf]))


@given(scores, hnp.arrays(np.int64, 7, elements=st.integers(0, 5)))
@settings(deadline=None)
def test_ranks_are_those_of_a_stable_sort(rows, targets):
    order = np.argsort(-rows, axis=1, kind="stable")
    for name, k in (("top1", 1), ("top5", 5)):
        score = metrics.score(name, targets=True)
        for part in (slice(0, 3), slice(3, 7)):
            score.add({}, {"y": rows[part]}, targets[part])
        assert score.value() == pytest.approx(100 * np.mean((order[:, :k] == targets[:, None]).any(1)))


def test_a_row_with_nan_is_wrong():
    score = metrics.score("top5", targets=True)
    score.add({}, {"y": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}, np.array([2, 2]))
    assert score.value() == 50


@given(st.floats(-100, 100), st.floats(0, 50), st.booleans())
def test_a_limit_holds_up_to_it(baseline, drop, lower):
    limit, sign = Limit.of(baseline, drop, lower), 1 if lower else -1
    assert limit.holds(baseline)
    assert limit.holds(baseline + sign * drop)
    assert not limit.holds(baseline + sign * (drop + 1))
    assert not limit.holds(sign * math.inf)
    assert not limit.holds(math.nan)
