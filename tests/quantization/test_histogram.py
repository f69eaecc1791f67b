"""Histograms of channels and of scaled values, and the root mean square of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.quantization.histogram import Histogram, root_mean_square


@given(
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    axis=st.integers(0, 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_root_mean_square_is_that_of_the_non_zeros(seed, share, axis, dtype):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random((20, 30)) < share, rng.standard_normal((20, 30)), 0).astype(dtype)
    found = root_mean_square(array, (axis,))
    assert found.shape == ((1, 30) if axis == 0 else (20, 1))
    count = np.count_nonzero(array, axis=axis)
    mean = np.sqrt(np.square(array.astype(np.float64)).sum(axis) / np.maximum(count, 1))
    np.testing.assert_allclose(found.reshape(-1), np.where(count, mean, 1.0), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e19, 1e30])
@pytest.mark.parametrize("size", [64, 1 << 18])
def test_a_scale_fits_what_it_scales_whatever_its_size(scale, size):
    """Large arrays are summed in float32: squares of 1e20 must not overflow, those of 1e-20 not vanish."""
    array = (np.random.default_rng(0).standard_normal((2, size)) * scale).astype(np.float32)
    found = root_mean_square(array, (1,))
    np.testing.assert_allclose(found, np.sqrt(np.square(array.astype(np.float64)).mean(1, keepdims=True)), rtol=1e-3)


def test_one_pass_over_channels_is_the_same_as_over_the_scaled_array():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((700, 500)).astype(np.float32)  # several pieces
    scale = rng.uniform(0.1, 10, (700, 1)).astype(np.float32)
    importance = rng.uniform(0.1, 10, (700, 1))
    whole = Histogram.of((array * (1 / scale)), None, np.broadcast_to(importance, array.shape))
    pieces = Histogram.of(array, scale, importance)
    np.testing.assert_array_equal(whole.values, pieces.values)
    np.testing.assert_allclose(whole.sums, pieces.sums, rtol=1e-9, atol=1e-6)
