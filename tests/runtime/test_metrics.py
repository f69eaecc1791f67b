"""Metrics against their formulas, and the limit that a metric must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.errors import DataError, OptionError
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


@given(st.integers(1, 60), st.data())
@settings(deadline=None)
def test_expected_top1_holds_every_margin_against_the_errors_of_its_neighbours(count, data):
    rows, after = (data.draw(hnp.arrays(np.float32, (count, 4), elements=st.integers(-9, 9))) for _ in range(2))
    targets = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, 3)))
    parts = [part for part in (slice(0, count // 2), slice(count // 2, count)) if len(rows[part])]
    assume(not any(metrics.are_probabilities(rows[part]) for part in parts))
    score = metrics.score("expected_top1", targets=True)
    for part in parts:
        score.add({"y": rows[part]}, {"y": after[part]}, targets[part])

    def margin(scores: np.ndarray, target: int) -> float:
        return float(scores[target] - max(scores[k] for k in range(4) if k != target))

    before = [margin(row, target) for row, target in zip(rows, targets, strict=True)]
    errors = [m - margin(row, target) for m, row, target in zip(before, after, targets, strict=True)]
    near = min(count, max(32, count // 4))
    order = sorted(range(count), key=lambda row: before[row])
    stays = []
    for place, row in enumerate(order):
        start = min(max(place - near // 2, 0), count - near)
        stays += [errors[other] < before[row] for other in order[start : start + near]]
    assert score.value() == pytest.approx(100 * np.mean(stays))


def test_expected_agreement_is_expected_top1_of_the_original_s_answers():
    rng = np.random.default_rng(0)
    before = rng.standard_normal((50, 5)).astype(np.float32)
    after = before + rng.standard_normal((50, 5)).astype(np.float32)
    top1, agreement = (metrics.score(name, targets=True) for name in ("expected_top1", "expected_agreement"))
    top1.add({"y": before}, {"y": after}, before.argmax(1))
    worse = {"y": after, "z": -before}
    agreement.add({"y": before, "z": before}, worse, None)
    assert agreement.value() < top1.value() < 100  # the worst output counts
    agreement = metrics.score("expected_agreement", targets=False)
    agreement.add({"y": before, "ids": np.arange(50)}, {"y": after, "ids": np.arange(50)}, None)
    assert agreement.value() == top1.value()
    with pytest.raises(OptionError, match="no output has scores"):
        metrics.score("expected_agreement", targets=False).value()


def test_expected_top1_of_the_same_outputs_is_top1_and_of_probabilities_by_log_odds():
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((50, 5)), rng.integers(0, 5, 50)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    other = logits + rng.standard_normal((50, 5))
    noisy = np.exp(other) / np.exp(other).sum(1, keepdims=True)
    found = {}
    for name, before, after in (("same", share, share), ("noisy", share, noisy), ("logits", logits, other)):
        score = metrics.score("expected_top1", targets=True)
        score.add({"y": before.astype(np.float32)}, {"y": after.astype(np.float32)}, targets)
        found[name] = score.value()
    assert found["same"] == pytest.approx(100 * np.mean(logits.argmax(1) == targets))
    assert found["noisy"] == pytest.approx(found["logits"])
    assert found["noisy"] != found["same"]


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


def test_labels_are_right_or_wrong_where_no_scores_are_among_the_outputs():
    """As classifiers of scikit-learn give them beside a map from classes to probabilities."""
    targets, labels = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])
    score = metrics.score("top1", targets=True)
    for part in (slice(0, 3), slice(3, 4)):
        score.add({}, {"label": labels[part], "maps": [{0: 0.5}]}, targets[part])
    assert score.value() == 75
    with pytest.raises(DataError, match="not the classes"):
        metrics.score("top5", targets=True).add({}, {"label": labels}, targets)
    expected = metrics.score("expected_top1", targets=True)
    with pytest.raises(OptionError, match="without scores"):
        expected.add({"label": labels}, {"label": labels}, targets)


def test_scores_go_before_labels():
    targets, rows = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    score = metrics.score("top1", targets=True)
    score.add({}, {"label": np.array([1, 0]), "scores": rows}, targets)
    assert score.value() == 100
