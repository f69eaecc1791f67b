"""Channels that a shared codebook fits badly: found, and given the scale that fits them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.core.chunked import ChunkedArray
from onnxprune.quantization.channel_scales import GROWTHS, LIVE, Channels, extreme, heaviest, loss
from onnxprune.quantization.codebook import Codebook, fit_codebook
from onnxprune.quantization.histogram import Histogram, root_mean_square
from onnxprune.quantization.rounding import encode


def tailed(channels: int = 40, inputs: int = 96, *, heavy: tuple[int, ...] = (3,), seed: int = 0) -> np.ndarray:
    """Gaussian channels, of which some have one value of 9 standard deviations in 40."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((channels, inputs)).astype(np.float32)
    for channel in heavy:
        rows[channel, ::40] = 9 * np.sign(rows[channel, ::40])
    return rows


def assert_holds(channels: Channels, rows: np.ndarray) -> None:
    """The channels' values, whatever their order."""
    for number, row in enumerate(rows):
        held = slice(*channels.starts[number : number + 2])
        found = (channels.places[held] - channels.origins[number]) * channels.scale[number]
        np.testing.assert_allclose(found, np.sort(row[row != 0]), rtol=1e-5)


@pytest.mark.parametrize("axes", [(1,), (0,)])
def test_the_heavy_channels_are_found_along_either_axis(axes):
    rows = tailed(heavy=(3, 17))
    array = np.ascontiguousarray(rows if axes == (1,) else rows.T)
    wide = ChunkedArray.of(array)
    (found,) = heaviest(wide, root_mean_square(wide, axes), axes, 2)
    assert found.index.tolist() == [3, 17]
    assert_holds(found, rows[[3, 17]])
    np.testing.assert_allclose(found.scale, np.sqrt(np.square(rows[[3, 17]]).mean(axis=1)), rtol=1e-3)


def test_the_channels_of_a_convolution_and_of_two_directions():
    rows = tailed(24, 4 * 3 * 3, heavy=(5,))
    kernel = ChunkedArray.of(rows.reshape(24, 4, 3, 3))
    assert next(heaviest(kernel, root_mean_square(kernel, (1, 2, 3)), (1, 2, 3), 1)).index.tolist() == [5]
    directions = ChunkedArray.of(rows.reshape(2, 12, 36))
    (found,) = heaviest(directions, root_mean_square(directions, (2,)), (2,), 1)
    assert found.index.tolist() == [5]
    assert_holds(found, rows[[5]])


def test_channels_that_come_in_turn_are_those_that_come_at_once(monkeypatch):
    wide = ChunkedArray.of(np.random.default_rng(0).standard_t(4, (60, 24)).astype(np.float32))
    scale, codebook = root_mean_square(wide, (0,)), Codebook(np.array([0.0, -1.5, -0.5, 0.5, 1.5]), 0.0, np.zeros(5))
    (whole,) = heaviest(wide, scale, (0,), 8)
    monkeypatch.setattr("onnxprune.quantization.channel_scales._HELD", 200)
    parts = list(heaviest(wide, scale, (0,), 8))
    assert [len(part.index) for part in parts] == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate([part.index for part in parts]), whole.index)
    fitted = np.concatenate([part.fitted(codebook, True)[0] for part in parts])
    np.testing.assert_array_equal(fitted, whole.fitted(codebook, True)[0])


def test_the_extreme_channels_are_the_heaviest_and_the_lightest():
    rows = tailed(heavy=(3, 17))
    rows[[5, 30]] /= 100
    wide = ChunkedArray.of(rows)
    assert extreme(wide, root_mean_square(wide, (1,)), (1,), 2).index.tolist() == [3, 5, 17, 30]
    assert extreme(wide, root_mean_square(wide, (1,)), (1,), 100).index.tolist() == list(range(40))


def test_dead_channels_are_not_among_them():
    rows = tailed()
    rows[3] *= np.float32(LIVE / 10)
    rows[7] = 0
    wide = ChunkedArray.of(rows)
    assert not {3, 7} & set(extreme(wide, root_mean_square(wide, (1,)), (1,), 40).index.tolist())
    assert not {3, 7} & set(next(heaviest(wide, root_mean_square(wide, (1,)), (1,), 40)).index.tolist())


def squared_errors(rows: np.ndarray, codebook: Codebook, prune: bool, divisor: np.ndarray) -> np.ndarray:
    """What the codes say: the squared error of each row over its energy."""
    codes = encode(rows, divisor[:, None], codebook.levels, prune, codebook.boundaries)
    rest = rows - codebook.levels[codes] * divisor[:, None]
    return np.square(rest).sum(axis=1) / np.square(rows.astype(np.float64)).sum(axis=1)


@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.integers(4, 30),
    prune=st.booleans(),
    zeros=st.sampled_from([0.0, 0.5, 0.95]),
    threshold=st.sampled_from([0.0, 0.7]),
)
def test_errors_are_those_of_the_codes(seed, levels, prune, zeros, threshold):
    rows = tailed(heavy=(0, 9), seed=seed)
    rows *= np.random.default_rng(seed).random(rows.shape) >= zeros
    rows[:, 0] = 1.0  # no channel without a value
    wide = ChunkedArray.of(rows)
    scale = root_mean_square(wide, (1,))
    codebook = fit_codebook(Histogram.of(wide, scale), levels, prune, threshold if prune else 0.0)
    (channels,) = heaviest(wide, scale, (1,), 12)
    errors = channels.errors(codebook, prune, GROWTHS)
    assert errors.shape == (12, len(GROWTHS))
    for growth, found in zip(GROWTHS, errors.T, strict=True):
        expected = squared_errors(rows[channels.index], codebook, prune, (channels.scale * growth).astype(np.float32))
        np.testing.assert_allclose(
            found, expected, rtol=0.02, atol=0.04 if threshold else 2e-5
        )  # float16 looks codes up


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(4, 30), prune=st.booleans())
def test_a_fitted_scale_is_never_worse(seed, levels, prune):
    wide = ChunkedArray.of(tailed(heavy=(0, 9), seed=seed))
    scale = root_mean_square(wide, (1,))
    codebook = fit_codebook(Histogram.of(wide, scale), levels, prune)
    (channels,) = heaviest(wide, scale, (1,), 12)
    growth, errors = channels.fitted(codebook, prune)
    every = channels.errors(codebook, prune, GROWTHS)
    assert (errors <= every[:, 0]).all()
    np.testing.assert_array_equal(every[np.arange(12), np.searchsorted(GROWTHS, growth)], errors)
    assert channels.loss(codebook, prune) == errors.max()


def test_the_clipped_channel_loses_a_fraction_of_what_it_lost():
    wide = ChunkedArray.of(tailed(400, 800, heavy=(3,)))
    scale = root_mean_square(wide, (1,))
    codebook = fit_codebook(Histogram.of(wide, scale), 16, True)
    (channels,) = heaviest(wide, scale, (1,), 1)
    assert channels.index.tolist() == [3]
    assert channels.errors(codebook, True, np.ones(1))[0, 0] > 0.1
    assert channels.loss(codebook, True) < 0.05


def test_one_scale_for_all_is_measured_by_that_scale():
    rows = tailed()
    wide = ChunkedArray.of(rows)
    codebook = fit_codebook(Histogram.of(wide, np.full((1, 1), 2.0, np.float32)), 16, True)
    (channels,) = heaviest(wide, root_mean_square(wide, (1,)), (1,), 40)
    expected = squared_errors(rows, codebook, True, np.full(40, 2.0, np.float32))
    assert channels.loss(codebook, True, 2.0) == pytest.approx(expected.max(), rel=0.02)


@pytest.mark.parametrize("axes", [(1,), (0,)])
@pytest.mark.parametrize("worst", [False, True])
def test_the_loss_is_the_mean_over_the_channels_that_are_not_all_zeros_or_half_of_the_worst(axes, worst):
    rows = tailed(6, 5)
    rows[2] = 0
    rows[1, :4] = 0
    rounded = rows * np.array([0.9, 0.87, 0.9, 0.0 if worst else 0.9, 0.9, 0.9], np.float32)[:, None]
    array, decoded = (np.ascontiguousarray(a if axes == (1,) else a.T) for a in (rows, rounded))
    expected = 1.0 / 2 if worst else (20 * 0.1**2 + 0.13**2) / 21  # its 5 channels hold 5, 1, 5, 5 and 5 values
    assert loss(ChunkedArray.of(array), ChunkedArray.of(decoded), axes) == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_zeros_has_no_watched_channel():
    wide = ChunkedArray.of(np.zeros((3, 8), np.float32))
    assert not list(heaviest(wide, root_mean_square(wide, (1,)), (1,), 8))
    channels = extreme(wide, root_mean_square(wide, (1,)), (1,), 8)
    codebook = fit_codebook(Histogram.of(ChunkedArray.of(tailed())), 4, True)
    assert channels.loss(codebook, True) == 0
    assert channels.loss(codebook, True, 1.0) == 0
