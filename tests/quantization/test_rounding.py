"""Codes of the nearest levels, balanced so that the errors of a row add up to little."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.quantization import rounding
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.histogram import Histogram


@given(
    seed=st.integers(0, 200),
    bits=st.integers(2, 8),
    rows=st.integers(1, 6),
    width=st.integers(1, 60),
    prune=st.booleans(),
)
def test_balancing_moves_codes_to_neighbours_and_lessens_the_sum_of_errors(seed, bits, rows, width, prune):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random((rows, width)) < 0.3, 0, rng.standard_normal((rows, width))).astype(np.float32)
    levels = fit_codebook(Histogram.of(array), 2**bits, prune).levels
    before = rounding.encode(array, None, levels, prune)
    after = before.copy()
    rounding.balance(array, after, levels, prune)
    assert (after[array == 0] == 0).all()
    if not prune:
        assert (after[array != 0] != 0).all()
    old, new = (np.abs((levels[codes] - array).sum(1)) for codes in (before, after))
    assert (new <= old * (1 + 1e-5) + 1e-5).all()
