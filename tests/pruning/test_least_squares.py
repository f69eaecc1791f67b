"""Masks by saliency and refitted survivors, against dense least squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.pruning import patterns
from onnxprune.pruning.least_squares import Moments, Problem, pruned_rows
from onnxprune.pruning.selection import smallest
from tests.helpers.builders import normal

SALIENCIES = ["activation", "obs"]


def select(count: int):
    """The `count` smallest scores."""
    return lambda scores: smallest([lambda: [np.ascontiguousarray(scores)]], count, scores.size).mask(scores)


def correlated(inputs: int, vectors: int, seed: int) -> np.ndarray:
    """Vectors [vectors, inputs] with a few directions in common."""
    common = normal(vectors, max(1, inputs // 3), seed=seed) @ normal(max(1, inputs // 3), inputs, seed=seed + 1)
    return (common + 0.3 * normal(vectors, inputs, seed=seed + 2)).astype(np.float32)


def halves_of(x: np.ndarray, z: np.ndarray) -> tuple[Moments, Moments]:
    """Moments of each half of vectors [vectors, inputs]."""
    first, second = (
        Moments((b.T @ b / len(b))[None], (a.T @ b / len(b))[None])
        for a, b in ((x[::2], z[::2]), (x[1::2], z[1::2]))
    )  # fmt: skip
    return first, second


def together(halves: tuple[Moments, Moments]) -> Moments:
    return Moments((halves[0].own + halves[1].own) / 2, (halves[0].cross + halves[1].cross) / 2)


@pytest.mark.parametrize("saliency", SALIENCIES)
@given(outputs=st.integers(1, 6), inputs=st.integers(2, 24), share=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_inputs_that_have_nothing_in_common_leave_survivors_as_they_are(saliency, outputs, inputs, share, seed):
    rows = normal(1, outputs, inputs, seed=seed)
    count = round(share * rows.size)
    one = Moments(np.eye(inputs, dtype=np.float32)[None], np.eye(inputs, dtype=np.float32)[None])
    found = pruned_rows(rows, (one, one), select(count), saliency)
    np.testing.assert_allclose(found, np.where(select(count)(np.abs(rows)), 0, rows), rtol=1e-4)


@pytest.mark.parametrize("saliency", SALIENCIES)
@given(
    outputs=st.integers(1, 8), inputs=st.integers(2, 24), share=st.floats(0, 0.99), vectors=st.integers(2, 80),
    drift=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_count_is_exact_and_no_layer_loses_more_than_by_magnitude(
    saliency, outputs, inputs, share, vectors, drift, seed
):
    rows, x = normal(1, outputs, inputs, seed=seed), correlated(inputs, 2 * vectors, seed)
    halves = halves_of(x, x + np.float32(drift) * normal(2 * vectors, inputs, seed=seed + 5))
    count = round(share * rows.size)
    found = pruned_rows(rows, halves, select(count), saliency)
    assert (found == 0).sum() == count
    whole, plain = together(halves), np.where(select(count)(np.abs(rows)), 0, rows)
    assert whole.error(rows, found) <= whole.error(rows, plain) + 1e-5 * abs(whole.error(rows, rows))


@given(seed=st.integers(0, 50), damping=st.sampled_from([0.003, 0.3]))
def test_the_refit_is_the_least_squares_of_each_row(seed, damping):
    rows, x = normal(1, 5, 12, seed=seed), correlated(12, 60, seed)
    z = x + 0.3 * normal(60, 12, seed=seed + 9)
    moments = Moments((z.T @ z / 60)[None], (x.T @ z / 60)[None])
    problem = Problem(rows, moments, damping)
    mask = select(30)(np.abs(problem.start))
    found = problem.refit(mask, problem.start) / problem.unit
    added = damping * np.trace(moments.own[0]) / 12
    for row, gone, got in zip(rows[0], mask[0], found[0], strict=True):
        keep = np.flatnonzero(~gone)
        matrix = np.vstack([z[:, keep] / np.sqrt(60), np.sqrt(added) * np.eye(12)[:, keep]])
        target = np.concatenate([x @ row / np.sqrt(60), np.sqrt(added) * row])
        wanted = np.linalg.lstsq(matrix, target, rcond=None)[0]
        least, reached = (np.square(matrix @ values - target).sum() for values in (wanted, got[keep]))
        assert reached <= 1.005 * least + 1e-4 * np.square(target).sum()  # as far as conjugate gradients go
        assert not got[gone].any()


def test_obs_finds_better_masks_than_activation_and_that_than_magnitude():
    x = correlated(48, 2000, 3) * np.geomspace(0.2, 5, 48, dtype=np.float32)
    rows, halves = normal(1, 16, 48, seed=8), halves_of(x, x)
    whole = together(halves)
    energy = -whole.error(rows, rows)
    plain, activation, obs = (
        1 + whole.error(rows, found) / energy
        for found in (
            np.where(select(538)(np.abs(rows)), 0, rows),
            *(pruned_rows(rows, halves, select(538), saliency) for saliency in SALIENCIES),
        )
    )
    assert obs < 0.7 * activation < 0.7 * plain


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_n_of_m_stays_n_of_m(saliency):
    x = correlated(32, 400, 1)
    found = pruned_rows(
        normal(1, 8, 32, seed=2), halves_of(x, x), lambda scores: patterns.keep_n_of_m(scores, 2, 4), saliency
    )
    assert ((found.reshape(-1, 4) != 0).sum(1) == 2).all()


@given(share=st.floats(0, 1), groups=st.integers(1, 3), seed=st.integers(0, 99), damping=st.sampled_from([0.01, 0.5]))
def test_a_share_is_kept_to_the_entry_and_loses_less_than_by_magnitude(share, groups, seed, damping):
    rows = normal(groups, 4, 20, seed=seed)
    own = np.stack([x.T @ x / len(x) for x in (correlated(20, 60, seed + g) for g in range(groups))])
    kept = Problem.of(rows, own, damping).kept([share], 40)[0]
    count = max(1, round(share * rows.size))
    assert np.count_nonzero(kept) <= count <= np.count_nonzero(kept) + 2  # a refit may end at 0
    moments = Moments(own, own)
    plain = np.where(select(rows.size - count)(np.abs(rows)), 0, rows)
    scale = abs(moments.error(rows, rows))
    slack = 2 * damping * scale  # damping draws towards the rows as they were
    assert moments.error(rows, kept) <= moments.error(rows, plain) + slack + 1e-3 * scale


def test_groups_are_fitted_by_themselves():
    x = [correlated(9, 300, seed) for seed in (1, 2)]
    rows, each = normal(2, 4, 9, seed=4), [halves_of(part, part) for part in x]
    both = tuple(
        Moments(np.concatenate([part[half].own for part in each]), np.concatenate([part[half].cross for part in each]))
        for half in range(2)
    )
    problems = [Problem(rows, both[0], 0.03), *(Problem(rows[n : n + 1], each[n][0], 0.03) for n in range(2))]
    mask = select(40)(np.abs(rows))
    whole = problems[0].refit(mask, problems[0].start)
    for n in range(2):
        np.testing.assert_allclose(
            whole[n], problems[n + 1].refit(mask[n : n + 1], problems[n + 1].start)[0], atol=1e-4
        )
