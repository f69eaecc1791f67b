"""Uniform codebooks: cells of one width, and few bits by entropy for their error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.quantization import rounding
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.histogram import Histogram
from onnxprune.quantization.uniform import uniform_codebooks
from tests.helpers.distributions import KINDS, sample


@given(kind=st.sampled_from(KINDS), size=st.integers(2, 2000), seed=st.integers(0, 99), step=st.floats(0.01, 10))
def test_a_codebook_is_what_it_says(kind, size, seed, step):
    values = sample(kind, size, seed).astype(np.float16).astype(np.float32)
    histogram = Histogram.of(values)
    for codebook in uniform_codebooks(histogram, [step, 2 * step]):
        assert 2 < len(codebook.levels) <= 256
        assert codebook.levels[0] == 0
        assert (np.diff(codebook.levels[1:]) > 0).all()
        codes = rounding.encode(values, None, codebook.levels, True)
        np.testing.assert_array_equal(np.bincount(codes, minlength=len(codebook.levels)), codebook.shares)
        error = float(np.square(values - codebook.levels[codes]).sum())
        assert error == pytest.approx(codebook.error, rel=1e-6, abs=1e-9 * histogram.energy)


def test_an_outlier_leaves_cells_without_levels():
    values = np.append(np.random.default_rng(0).standard_normal(10_000), 900.0).astype(np.float32)
    (codebook,) = uniform_codebooks(Histogram.of(values), [0.25])
    assert len(codebook.levels) < 40
    assert codebook.levels[-1] == 900


def bits(codebook) -> float:
    shares = codebook.shares[codebook.shares > 0] / codebook.shares.sum()
    return float(-(shares * np.log2(shares)).sum())


def test_equal_cells_lose_less_than_the_best_levels_of_as_many_bits_by_entropy():
    """At a high rate uniform cells are 1.53 dB from what can be (Gish and Pierce 1968), Lloyd's levels up to 4.35."""
    histogram = Histogram.of(np.random.default_rng(0).standard_normal(100_000).astype(np.float32))
    best = fit_codebook(histogram, 32, True)
    for codebook in uniform_codebooks(histogram, np.geomspace(0.05, 0.6, 20).tolist()):
        if bits(codebook) <= bits(best):
            assert codebook.error < best.error
            break
    noise = codebook.error / histogram.energy
    assert 10 * np.log10(noise / 2 ** (-2 * bits(codebook))) == pytest.approx(1.53, abs=0.1)
