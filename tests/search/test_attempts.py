"""Which loss is tried next, by what the held-out half said of those before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxprune.allocation.rate_distortion import LOSS
from onnxprune.search.promise import DEFAULT, Attempt, Promised, next_attempt


def judged(
    loss: float, kept: bool, error: float = 1.0, *, calibrated: bool = True, metric="answers", sqnr=11.0, answers=100
):
    """What a held-out half may say; `error` times the squared error that is allowed."""
    return Promised(
        metric, 100.0, 100 - error**0.5, None, 1.0, answers, sqnr, 11.0, 50, Attempt(loss, calibrated), kept
    )


@pytest.mark.parametrize(
    ("tried", "upcoming"),
    [
        ([], 0.08),
        ([judged(0.08, True, 0.0, sqnr=30.0)], 0.32),  # there is much room
        ([judged(0.08, True, 0.4, sqnr=30.0)], 0.16),
        ([judged(0.08, True, 0.6)], None),
        ([judged(0.08, True, 0.0), judged(0.32, True, 0.0, sqnr=30.0)], 1.28),
        ([judged(0.08, True, 0.0), judged(0.32, True, 0.0, sqnr=30.0, metric=None)], None),  # no answers show more
        ([judged(0.08, True, 0.0), judged(0.32, True, 0.0, sqnr=30.0, answers=99)], None),  # nor do so few
        ([judged(0.08, True, 0.0), judged(0.32, True, 0.0), judged(1.28, True, 0.0)], None),  # nothing larger is tried
        ([judged(0.08, True, 0.0), judged(0.32, False, 9.0)], 0.16),
        ([judged(0.08, True, 0.0), judged(0.32, False, 9.0), judged(0.16, True, 0.0)], None),
        ([judged(0.08, True, 0.0), judged(0.32, False, 9.0), judged(0.16, False, 2.0)], 0.08),  # made again
        ([judged(0.08, True, 0.0), judged(0.32, False), judged(0.16, False), judged(0.08, True, 0.0)], None),
        ([judged(0.08, False, 2.0)], 0.04),
        ([judged(0.08, False, 100.0)], 0.02),
        ([judged(0.08, False, 100.0), judged(0.02, True, 0.1, sqnr=30.0)], 0.04),
        ([judged(0.08, False, 100.0), judged(0.02, True, 0.9)], None),
        ([judged(0.08, False, 100.0), judged(0.02, False, 9.0)], 0.01),
    ],
)
def test_losses_go_up_and_down_until_the_largest_that_keeps_the_promise(tried, upcoming):
    assert next_attempt(tried) == (None if upcoming is None else Attempt(upcoming, True))


@pytest.mark.parametrize(
    ("metric", "sqnr", "plain"), [("answers", 30.0, 1), (None, 30.0, 1), ("answers", 5.0, 4), ("top1", 30.0, 4)]
)
def test_where_nothing_calibrated_is_kept_the_default_follows(metric, sqnr, plain):
    """Without targets no further, unless outputs are far off."""
    tried = [judged(loss, False, 9.0, metric=metric, sqnr=sqnr) for loss in (0.08, 0.02, 0.01)]
    for number in range(plain):
        upcoming = next_attempt(tried)
        assert upcoming == Attempt(LOSS / 2**number, False)
        tried.append(judged(upcoming.loss, False, 9.0, calibrated=False, metric=metric, sqnr=sqnr))
    assert next_attempt(tried) is None
    tried[-1] = replace(tried[-1], kept=True)
    assert next_attempt(tried) is None


def test_a_calibrated_result_stands_where_what_is_made_without_data_is_far_off():
    tried = [judged(0.08, False, 9.0, sqnr=21.0), judged(0.01, False, 2.0, sqnr=24.0)]
    assert next_attempt(tried) == DEFAULT
    tried.append(judged(LOSS, False, 50.0, calibrated=False, sqnr=9.0))
    assert next_attempt(tried) == Attempt(0.01, True)
    assert next_attempt([*tried, tried[1]]) is None
    tried[2] = judged(LOSS, False, 1.5, calibrated=False, sqnr=12.0)
    assert next_attempt(tried) is None


def test_no_loss_above_the_largest_is_tried():
    assert [next_attempt([], most).loss for most in (0.32, 0.08, 0.04, 0.01)] == [0.08, 0.08, 0.04, 0.01]
    assert next_attempt([judged(0.08, True, 0.0, sqnr=30.0)], 0.16) == Attempt(0.16, True)


def test_of_those_that_all_miss_the_one_that_changes_least_is_made_again():
    """A network for speech was written without calibration, larger and farther off."""
    tried = [judged(loss, False, error, sqnr=30.0) for loss, error in ((0.08, 400.0), (0.02, 100.0), (0.01, 64.0))]
    tried.append(judged(LOSS, False, 81.0, calibrated=False, sqnr=30.0))
    assert next_attempt(tried) == Attempt(0.01, True)
    assert next_attempt([*tried, tried[2]]) is None
    tried[-1] = judged(LOSS, False, 49.0, calibrated=False, sqnr=30.0)
    assert next_attempt(tried) is None
