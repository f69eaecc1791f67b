"""Entropy-constrained codebooks: less entropy, within the error, and codes that are what the codebook says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.quantization import rounding
from onnxprune.quantization.codebook import Codebook, fit_codebook
from onnxprune.quantization.entropy_constrained import EXCESS, constrained, entropy
from onnxprune.quantization.histogram import Histogram
from tests.helpers.builders import mlp
from tests.helpers.distributions import KINDS, sample
from tests.helpers.running import run


def codes_of(values: np.ndarray, codebook: Codebook) -> np.ndarray:
    return rounding.encode(values, None, codebook.levels, False, codebook.boundaries)


@given(
    kind=st.sampled_from(KINDS), size=st.integers(1, 2000), seed=st.integers(0, 99), bits=st.integers(2, 8),
    excess=st.sampled_from([0.05, 0.2, 1.0]),
)  # fmt: skip
def test_a_constrained_codebook_is_what_it_says(kind, size, seed, bits, excess):
    values = sample(kind, size, seed)
    histogram = Histogram.of(values)
    plain = fit_codebook(histogram, 2**bits, prune=False)
    codebook = constrained(histogram, plain, excess)
    assert len(codebook.levels) <= len(plain.levels)
    assert codebook.levels[0] == 0
    assert codebook.levels[1:].all()
    assert (np.diff(codebook.levels[1:]) > 0).all()
    assert entropy(codebook) <= entropy(plain) + 1e-9
    codes = codes_of(values, codebook)
    assert ((codes == 0) == (values == 0)).all()
    np.testing.assert_array_equal(np.bincount(codes, minlength=len(codebook.levels)), codebook.shares)
    error = float(np.square(values - codebook.levels[codes]).sum())
    assert error == pytest.approx(codebook.error, rel=1e-6, abs=1e-9)
    assert error <= (1 + excess) * plain.error * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize(("bits", "saved"), [(3, 0.25), (4, 0.25), (5, 0.2), (6, 0.15), (8, 0.05)])
def test_of_a_pruned_gaussian_a_fifth_more_error_saves_entropy(bits, saved):
    values = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    values[np.abs(values) < 1.65] = 0
    histogram = Histogram.of(values)
    plain = fit_codebook(histogram, 2**bits, prune=False)
    assert entropy(constrained(histogram, plain, EXCESS)) <= entropy(plain) - saved


@given(seed=st.integers(0, 200), bits=st.integers(2, 6), width=st.integers(1, 60))
def test_balancing_with_its_boundaries_lessens_the_sum_of_errors(seed, bits, width):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random((6, width)) < 0.3, 0, rng.standard_normal((6, width))).astype(np.float32)
    histogram = Histogram.of(array)
    codebook = constrained(histogram, fit_codebook(histogram, 2**bits, prune=False), EXCESS)
    before = codes_of(array, codebook)
    after = before.copy()
    rounding.balance(array, after, codebook.levels, False, codebook.boundaries)
    assert ((after == 0) == (array == 0)).all()
    old, new = (np.abs((codebook.levels[codes] - array).sum(1)) for codes in (before, after))
    assert (new <= old * (1 + 1e-5) + 1e-5).all()


@pytest.mark.parametrize("values", ["shared:3", "shared:4", "shared:8", "int8:4"])
def test_preferring_size_packs_smaller_within_a_fifth_more_error(values, tmp_path):
    source, pruned = tmp_path / "model.onnx", tmp_path / "pruned.onnx"
    source.write_bytes(mlp((400, 300, 10), seed=1).SerializeToString())
    onnxprune.prune(source, pruned, sparsity=0.8)
    packed, errors = {}, {}
    for prefer in ("speed", "size"):
        out, decoded = tmp_path / f"{prefer}.onnx", tmp_path / "decoded.onnx"
        onnxprune.encode(pruned, out, values=values, prefer=prefer)
        packed[prefer] = onnxprune.pack(out, tmp_path / "out.onnxz").after
        onnxprune.decode(out, decoded)
        x = {"x": np.random.default_rng(2).standard_normal((3, 400)).astype(np.float32)}
        for one, two in zip(run(out.read_bytes(), x), run(decoded.read_bytes(), x), strict=True):
            assert np.linalg.norm(one - two) <= 0.02 * np.linalg.norm(two)  # the integer kernel rounds what it reads
        errors[prefer] = squared_error(pruned, decoded)
    assert packed["size"] < 0.99 * packed["speed"]
    assert errors["size"] <= (1 + EXCESS) * 1.05 * errors["speed"]  # balancing moves some


def squared_error(before: Path, after: Path) -> float:
    old, new = (Model.load(path) for path in (before, after))
    kept = {w.name: w.array(new).astype(np.float64) for w in find(new)}
    return sum(float(np.square(w.array(old) - kept[w.name]).sum()) for w in find(old))
