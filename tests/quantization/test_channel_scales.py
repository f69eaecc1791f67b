"""Channels that a shared codebook fits badly: found, and given the scale that fits them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.chunked import ChunkedArray
from onnxprune.quantization.channel_scales import GROWTHS, LIVE, Channels, heaviest
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.histogram import Histogram, root_mean_square


def tailed(channels: int = 40, inputs: int = 96, *, heavy: tuple[int, ...] = (3,), seed: int = 0) -> np.ndarray:
    """Gaussian channels, of which some have one value of 9 standard deviations in 40."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((channels, inputs)).astype(np.float32)
    for channel in heavy:
        rows[channel, ::40] = 9 * np.sign(rows[channel, ::40])
    return rows


@pytest.mark.parametrize("axes", [(1,), (0,)])
def test_the_heavy_channels_are_found_along_either_axis(axes):
    rows = tailed(heavy=(3, 17))
    array = np.ascontiguousarray(rows if axes == (1,) else rows.T)
    wide = ChunkedArray.of(array)
    found = heaviest(wide, root_mean_square(wide, axes), axes, 2)
    assert found.index.tolist() == [3, 17]
    np.testing.assert_array_equal(found.rows, rows[[3, 17]])
    np.testing.assert_allclose(found.scale, np.sqrt(np.square(rows[[3, 17]]).mean(axis=1)), rtol=1e-3)


def test_the_channels_of_a_convolution_and_of_two_directions():
    rows = tailed(24, 4 * 3 * 3, heavy=(5,))
    kernel = ChunkedArray.of(rows.reshape(24, 4, 3, 3))
    assert heaviest(kernel, root_mean_square(kernel, (1, 2, 3)), (1, 2, 3), 1).index.tolist() == [5]
    directions = ChunkedArray.of(rows.reshape(2, 12, 36))
    found = heaviest(directions, root_mean_square(directions, (2,)), (2,), 1)
    assert found.index.tolist() == [5]
    np.testing.assert_array_equal(found.rows, rows[[5]])


def test_dead_channels_are_not_among_them():
    rows = tailed()
    rows[3] *= np.float32(LIVE / 10)
    rows[7] = 0
    wide = ChunkedArray.of(rows)
    assert not {3, 7} & set(heaviest(wide, root_mean_square(wide, (1,)), (1,), 40).index.tolist())


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(4, 30), prune=st.booleans())
def test_a_fitted_scale_is_never_worse(seed, levels, prune):
    wide = ChunkedArray.of(tailed(heavy=(0, 9), seed=seed))
    scale = root_mean_square(wide, (1,))
    book = fit_codebook(Histogram.of(wide, scale), levels, prune)
    channels = heaviest(wide, scale, (1,), 12)
    growth, errors = channels.fitted(book, prune)
    plain = channels.errors(book, prune)
    assert (errors <= plain).all()
    for grown in GROWTHS:
        same = growth == grown
        np.testing.assert_array_equal(channels.errors(book, prune, grown)[same], errors[same])


def test_the_clipped_channel_loses_a_fraction_of_what_it_lost():
    wide = ChunkedArray.of(tailed(400, 800, heavy=(3,)))
    scale = root_mean_square(wide, (1,))
    book = fit_codebook(Histogram.of(wide, scale), 16, True)
    channels = heaviest(wide, scale, (1,), 1)
    assert channels.index.tolist() == [3]
    assert channels.errors(book, True)[0] > 0.1
    assert channels.fitted(book, True)[1][0] < 0.05


def test_the_error_is_that_of_what_the_codes_say():
    channels = Channels(np.array([0]), np.array([[1.0, -2.0, 0.5]], np.float32), np.array([1.0], np.float32))
    book = fit_codebook(Histogram.of(ChunkedArray.of(channels.rows)), 4, False)
    assert channels.errors(book, False)[0] == pytest.approx(0, abs=1e-6)
