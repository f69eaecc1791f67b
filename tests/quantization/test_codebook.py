"""Few levels, least squared error: against the optimum by dynamic programming, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.quantization import rounding
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.histogram import Histogram
from tests.helpers.distributions import KINDS, sample


def optimum(values: np.ndarray, levels: int) -> float:
    """The least sum of squared errors of `levels` free levels, exactly (Bellman 1973)."""
    x = np.sort(values.astype(np.float64))
    first, second = (np.concatenate([[0.0], np.cumsum(p)]) for p in (x, x * x))
    ends = np.arange(len(x) + 1)
    count = np.maximum(ends[None] - ends[:, None], 1)
    total = first[None] - first[:, None]
    cost = np.where(ends[None] >= ends[:, None], second[None] - second[:, None] - total**2 / count, np.inf)
    least = cost[0]
    for _ in range(levels - 1):
        least = (least[:, None] + cost).min(0)
    return max(float(least[-1]), 0.0)


def restored(array: np.ndarray, scale: np.ndarray | None, levels: np.ndarray, prune: bool) -> np.ndarray:
    decoded = levels[rounding.encode(array, scale, levels, prune)]
    return decoded if scale is None else decoded * scale


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_near_the_optimum(kind, bits):
    worst = 0.0
    for seed in range(5):
        values = sample(kind, 300, seed)
        codebook = fit_codebook(Histogram.of(values), 2**bits, prune=False)
        least = optimum(values[values != 0], 2**bits - 1)
        error = float(np.square(values - restored(values, None, codebook.levels, False)).sum())
        assert error == pytest.approx(codebook.error, rel=1e-6, abs=1e-9)
        assert error >= least * (1 - 1e-9) - 1e-9
        worst = max(worst, (error + 1e-9) / (least + 1e-9))
    assert worst <= 1.02


@given(
    kind=st.sampled_from(KINDS), size=st.integers(1, 2000), seed=st.integers(0, 99), bits=st.integers(2, 8),
    share=st.sampled_from([0.0, 0.5, 0.99]), prune=st.booleans(),
)  # fmt: skip
def test_a_codebook_is_what_it_says(kind, size, seed, bits, share, prune):
    values = np.where(np.random.default_rng(seed).random(size) < share, 0, sample(kind, size, seed)).astype(np.float32)
    histogram = Histogram.of(values)
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.energy == pytest.approx(float(np.square(values.astype(np.float64)).sum()), rel=1e-9)
    codebook = fit_codebook(histogram, 2**bits, prune)
    assert 1 <= len(codebook.levels) <= 2**bits
    assert codebook.levels[0] == 0
    assert (np.diff(codebook.levels[1:]) > 0).all()
    assert codebook.levels[1:].all()
    codes = rounding.encode(values, None, codebook.levels, prune)
    assert codes.shape == values.shape
    assert (codes[values == 0] == 0).all()
    if not prune:
        assert (codes[values != 0] != 0).all()
    np.testing.assert_array_equal(np.bincount(codes, minlength=len(codebook.levels)), codebook.shares)
    nearest = np.abs(values[:, None] - (codebook.levels if prune else codebook.levels[1:])[None])
    if nearest.shape[1]:
        kept = np.ones(len(values), bool) if prune else values != 0
        error = np.square(values - codebook.levels[codes])[kept]
        np.testing.assert_allclose(error, np.square(nearest.min(1))[kept], rtol=1e-6, atol=1e-12)


@given(
    kind=st.sampled_from(KINDS), size=st.integers(2, 2000), seed=st.integers(0, 99), levels=st.integers(2, 40),
    kept=st.floats(0.01, 0.9), positive=st.booleans(),
)  # fmt: skip
def test_a_threshold_makes_zero_of_all_up_to_it_and_of_nothing_else(kind, size, seed, levels, kept, positive):
    values = sample(kind, size, seed).astype(np.float16).astype(np.float32)
    values = np.abs(values) if positive else values
    histogram = Histogram.of(values)
    for threshold in histogram.thresholds(np.array([kept])):
        above = np.abs(values) > threshold
        tied = np.unique(np.abs(values), return_counts=True)[1].max()
        assert abs(np.count_nonzero(above) - kept * size) <= tied + 1
        share = above.sum() / np.count_nonzero(values)
        assert histogram.kept(np.array([threshold])) == pytest.approx(share, abs=1e-9)
        codebook = fit_codebook(histogram, levels, True, threshold)
        codes = rounding.encode(values, None, codebook.levels, True, codebook.boundaries)
        if codebook.boundaries is not None:  # else there are no more values than levels
            sides = np.isin(np.sign(values), np.sign(codebook.levels[1:]))  # one level has one
            np.testing.assert_array_equal(codes != 0, above & sides)
        np.testing.assert_array_equal(np.bincount(codes, minlength=len(codebook.levels)), codebook.shares)
        error = float(np.square(values - codebook.levels[codes]).sum())
        assert error == pytest.approx(codebook.error, rel=1e-6, abs=1e-9 * histogram.energy)


def test_as_many_levels_as_values_above_a_threshold():
    """Whole numbers, as int8 weights have them: no level is left where all entries become 0."""
    values = np.repeat(np.arange(-127, 128), 3).astype(np.float32)
    codebook = fit_codebook(Histogram.of(values), 256, True, 40.5)
    assert np.abs(codebook.levels[1:]).min() == 41
    assert codebook.shares.tolist() == [3 * 81, *[3] * (2 * 87)]
    assert codebook.error == np.square(values[np.abs(values) < 41]).sum()


@given(values=hnp.arrays(np.float16, st.integers(1, 200), elements=st.sampled_from([0, 1, -1, 0.5, 3, 1e-4, -6e4])))
def test_as_many_levels_as_values_lose_nothing(values):
    wide = values.astype(np.float32)
    codebook = fit_codebook(Histogram.of(wide), 8, prune=False)
    assert codebook.error == 0
    np.testing.assert_array_equal(restored(wide, None, codebook.levels, False), wide)


@pytest.mark.parametrize("degrees", [2, 3, 5])
@pytest.mark.parametrize("size", [4096, 1 << 18])
def test_heavy_tails_at_8_bits(degrees, size):
    values = np.random.default_rng(degrees).standard_t(degrees, size).astype(np.float32)
    codebook = fit_codebook(Histogram.of(values), 256, prune=False)
    error = np.square(values - restored(values, None, codebook.levels, False).astype(np.float64)).sum()
    assert error <= 1e-3 * np.square(values.astype(np.float64)).sum()


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 99), prune=st.booleans())
def test_more_levels_never_lose_much(kind, seed, prune):
    histogram = Histogram.of(sample(kind, 1500, seed))
    errors = [fit_codebook(histogram, levels, prune).error for levels in (4, 8, 16, 32, 64, 128, 256)]
    for more, fewer in zip(errors[1:], errors, strict=False):
        assert more <= fewer * 1.01 + 1e-9
