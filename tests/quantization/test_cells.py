"""Levels by a table: those that a search finds, for numbers anywhere and borders however close."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.quantization import cells

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(
    books=st.lists(st.lists(NUMBERS, max_size=40, unique=True).map(sorted), min_size=1, max_size=4),
    seed=st.integers(0, 99), many=st.booleans(),
)  # fmt: skip
def test_the_levels_of_a_search(books, seed, many):
    borders = [np.array(own, np.float32) for own in books]
    points = [np.arange(len(own) + 1, dtype=np.float32) + 100 * at for at, own in enumerate(books)]
    rng, width = np.random.default_rng(seed), cells._MANY if many else 9

    def beside(own: np.ndarray) -> np.ndarray:
        """Borders, what is just below them, and numbers of any size."""
        others = rng.standard_normal(width) * 2.0 ** rng.integers(-99, 99, width)
        return rng.permutation(np.concatenate([own, np.nextafter(own, np.float32(-np.inf)), others]))[:width]

    numbers = np.stack([beside(own) for own in borders]).astype(np.float32)
    ranks, levels = np.zeros(numbers.shape, np.uint8), np.zeros(numbers.shape, np.float32)
    cells.Cells(points, borders).nearest(numbers, ranks, levels)
    expected = np.stack([own.searchsorted(row, side="right") for own, row in zip(borders, numbers, strict=True)])
    np.testing.assert_array_equal(ranks, expected)
    np.testing.assert_array_equal(levels, expected + 100 * np.arange(len(books))[:, None])


def test_of_even_levels_a_table_tells_without_a_search():
    found = cells.Cells([np.arange(256, dtype=np.float32)], [np.arange(0.5, 255, dtype=np.float32)])
    assert not len(found._searched)
    assert found._steps == 1
