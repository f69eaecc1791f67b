"""Words that hold several digits, and their entropy."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from onnxprune.packed import coder
from onnxprune.packed.coder import CodeLayout


@st.composite
def layouts(draw) -> CodeLayout:
    word = draw(st.sampled_from(coder.WORDS))
    base = draw(st.integers(2, 256))
    most = next(m for m in range(8 * word, 0, -1) if base**m <= 256**word)
    return CodeLayout(word, base, draw(st.integers(1, most)))


def entropy(symbols: np.ndarray) -> float:
    """Zeroth-order, in bytes."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(counts @ np.log2(counts.sum() / counts)) / 8


def words_of(digits: np.ndarray, layout: CodeLayout) -> bytes:
    """[words, count] digits as the layout's words."""
    powers = np.array([layout.base**i for i in range(layout.count)], np.uint64)
    return (digits.astype(np.uint64) * powers).sum(1, dtype=np.uint64).astype(f"<u{layout.word}").tobytes()
