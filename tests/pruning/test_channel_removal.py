"""The order in which groups of inputs go, and what makes them good, against dense least squares."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.pruning.channel_removal import COSTED, Reader, refitted, removal_order
from tests.helpers.builders import normal
from tests.pruning.test_least_squares import correlated, halves_of, together


def reader_of(x: np.ndarray, rows: np.ndarray, size: int) -> Reader:
    labels = np.repeat(np.arange(rows.shape[1] // size), size)
    return Reader(rows, (x.T @ x / len(x)).astype(np.float32), labels, np.arange(rows.shape[1] // size))


def lost(x: np.ndarray, rows: np.ndarray, gone: np.ndarray) -> float:
    """What the damped least squares on the other inputs loses, over the energy of the outputs."""
    own = (x.T @ x / len(x)).astype(np.float64)
    damped = own + COSTED * np.trace(own) / len(own) * np.eye(len(own))
    kept = np.setdiff1d(np.arange(len(own)), gone)
    change = np.array(rows, np.float64)
    change[:, kept] -= np.linalg.solve(damped[np.ix_(kept, kept)], damped[kept] @ rows.T).T
    return float(np.trace(change @ damped @ change.T) / np.trace(rows @ own @ rows.T))


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(0, 1000))
def test_costs_are_what_least_squares_loses(size, seed):
    x, rows = correlated(8 * size, 60, seed), normal(5, 8 * size, seed=seed + 5)
    order, costs = removal_order([reader_of(x, rows, size)], 5, 8)
    assert len(set(order.tolist())) == 5
    gone = (order[:, None] * size + np.arange(size)).reshape(-1)
    for step in range(1, 6):
        np.testing.assert_allclose(costs[:step].sum(), lost(x, rows, gone[: step * size]), rtol=1e-3, atol=1e-6)
    each = [lost(x, rows, np.arange(n * size, n * size + size)) for n in range(8)]
    assert order[0] == int(np.argmin(each))


@settings(max_examples=15)
@given(st.integers(1, 2), st.integers(0, 1000))
def test_what_the_others_tell_goes_at_no_loss(size, seed):
    x = normal(200, 8 * size, seed=seed)
    told = slice(3 * size, 4 * size)  # a group that is a combination of two others
    x[:, told] = x[:, :size] - 0.5 * x[:, 5 * size : 6 * size]
    rows = normal(1, 6, 8 * size, seed=seed + 1)
    gone = np.zeros((1, 8 * size), bool)
    gone[:, told] = True
    found = refitted(rows, halves_of(x, x), gone)
    assert not found[:, :, told].any()
    wanted = x @ rows[0].T
    assert np.square(x @ found[0].T - wanted).sum() < 1e-6 * np.square(wanted).sum()


def test_of_two_that_are_the_same_one_stays():
    x = normal(100, 6)
    x[:, 1] = x[:, 0]
    rows = normal(4, 6, seed=1)
    order, costs = removal_order([reader_of(x, rows, 1)], 2, 6)
    assert order[0] in (0, 1)
    assert order[1] not in (0, 1)
    assert costs[0] < 0.1 * costs[1]


def test_all_readers_count():
    x, one, other = normal(100, 6), normal(4, 6, seed=1), normal(4, 6, seed=2)
    one[:, 2], other[:, 4] = 0, 0  # each has no use for an input that the other needs
    one[:, 4] *= 3
    other[:, 2] *= 3
    assert removal_order([reader_of(x, one, 1)], 1, 6)[0] == [2]
    assert removal_order([reader_of(x, one, 1), reader_of(x, other, 1)], 1, 6)[0] not in ([2], [4])


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(2, 40), st.integers(0, 1000))
def test_a_refit_never_loses_more_on_the_samples(groups, vectors, seed):
    rng = np.random.default_rng(seed)
    rows, gone = normal(groups, 5, 9, seed=seed), rng.random((groups, 9)) < 0.4
    x = correlated(9, 2 * vectors, seed)
    z = (x + 0.3 * normal(*x.shape, seed=seed + 9)).astype(np.float32)
    one = halves_of(x, z)
    halves = tuple(type(h)(np.repeat(h.own, groups, 0), np.repeat(h.cross, groups, 0)) for h in one)
    found, whole = refitted(rows, halves, gone), together(halves)
    assert not found.transpose(0, 2, 1)[gone].any()
    plain = np.where(gone[:, None], 0, rows)
    assert whole.error(rows, found) <= whole.error(rows, plain) + 1e-4 * abs(whole.error(rows, plain))
