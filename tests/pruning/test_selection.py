"""The smallest entries, per weight, per row, of each group of m, and of blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.pruning import patterns, selection

LENGTHS = st.integers(1, 200)
DTYPES = st.sampled_from([np.float32, np.float64])
TINY = [0.0, 1e-45, 3e-45, 1e-40, 0.5, 1.0, 1.0000001, 2.0]


@st.composite
def scores(draw, shape=LENGTHS):
    """Many ties (a few levels), or anything."""
    dtype = draw(DTYPES)
    levels = st.sampled_from(TINY[: draw(st.integers(1, len(TINY)))])
    width = 8 * np.dtype(dtype).itemsize
    anything = st.floats(0, width=width, allow_nan=False, allow_infinity=False)
    values = draw(st.sampled_from([levels, anything]))
    return draw(hnp.arrays(dtype, shape, elements=values.map(lambda v: dtype(v).item())))


def reference(flat: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[:count]] = True
    return mask


@given(scores(), st.data())
def test_smallest_is_a_stable_sort(flat, data):
    count = data.draw(st.sampled_from([0, 1, flat.size]) | st.integers(0, flat.size))
    size = data.draw(st.integers(1, flat.size))
    collect, sample = data.draw(st.sampled_from([(selection._COLLECT, selection._SAMPLE), (8, 4), (0, 1), (0, 16)]))

    chunks = [flat[i : i + size] for i in range(0, flat.size, size)]
    each = data.draw(st.integers(1, len(chunks)))
    chunked = [lambda at=at: iter(chunks[at : at + each]) for at in range(0, len(chunks), each)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_COLLECT", collect)
        patch.setattr(selection, "_SAMPLE", sample)
        cut = selection.smallest(chunked, count, flat.size)
    np.testing.assert_array_equal(cut.mask(flat), reference(flat, count))


@pytest.mark.parametrize("misled", ["low", "high"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sample_that_misleads_costs_a_pass_and_nothing_else(monkeypatch, dtype, misled):
    """Every sampled score lies on the wrong side of the wanted one."""
    monkeypatch.setattr(selection, "_SAMPLE", 300)
    monkeypatch.setattr(selection, "_COLLECT", 16)
    flat = np.arange(1, 3001).astype(dtype)
    flat[5::10] = 1e-3 if misled == "low" else 1e6
    for count in (1, 299, 301, 1500, 2699, 2701, 3000):
        cut = selection.smallest([lambda: [flat]], count, flat.size)
        np.testing.assert_array_equal(cut.mask(flat), reference(flat, count))


def test_candidates_beyond_the_limit_are_halved(monkeypatch):
    halvings = []
    halve = selection._halve
    monkeypatch.setattr(selection, "_COLLECT", 4)
    monkeypatch.setattr(selection, "_SAMPLE", 1)
    monkeypatch.setattr(selection, "_halve", lambda *a: halvings.append(a) or halve(*a))
    flat = np.random.default_rng(0).uniform(size=5000).astype(np.float32)
    cut = selection.smallest([lambda: np.split(flat, 10)], 1234, flat.size)
    assert halvings
    np.testing.assert_array_equal(cut.mask(flat), reference(flat, 1234))


@given(scores(st.tuples(st.integers(1, 8), st.integers(1, 12))), st.data())
def test_smallest_per_row(rows, data):
    count = data.draw(st.integers(0, rows.shape[1]))
    expected = np.stack([reference(row, count) for row in rows])
    np.testing.assert_array_equal(patterns.smallest_per_row(rows, count), expected)


@given(scores(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 13))), st.data())
def test_keep_n_of_m(values, data):
    m = data.draw(st.integers(1, 6))
    n = data.draw(st.integers(1, m))
    mask = patterns.keep_n_of_m(values, n, m)
    assert mask.shape == values.shape
    for row, got in zip(values.reshape(-1, values.shape[-1]), mask.reshape(-1, values.shape[-1]), strict=True):
        for at in range(0, len(row), m):
            group = row[at : at + m]
            np.testing.assert_array_equal(got[at : at + m], reference(group, max(0, len(group) - n)))


@given(hnp.arrays(np.float32, (2, 5, 7), elements=st.integers(0, 64).map(float)), st.integers(1, 6), st.integers(1, 8))
def test_blocks_are_means_and_spread_back(values, height, width):
    block = (height, width)
    means = patterns.block_scores(values, block)
    assert means.dtype == values.dtype
    for at in np.ndindex(means.shape):
        rows, columns = (slice(i * s, (i + 1) * s) for i, s in zip(at[1:], block, strict=True))
        np.testing.assert_allclose(means[at], values[at[0], rows, columns].mean(), rtol=1e-6)
    blocks = np.arange(means.size).reshape(means.shape) % 3 == 0
    entries = patterns.spread_blocks(blocks, block, values.shape)
    assert entries.shape == values.shape
    for at in np.ndindex(values.shape):
        assert entries[at] == blocks[at[0], at[1] // height, at[2] // width]
