"""How sizes are written for people."""

from __future__ import annotations

import pytest

from onnxprune.report.terminal.tables import smaller


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.0, "as large"), (1.0049, "as large"), (1 / 1.0049, "as large"), (1.006, "1.01x smaller"),
     (1 / 1.006, "1.01x larger"), (30.114, "30.11x smaller"), (0.25, "4.00x larger")],
)  # fmt: skip
def test_a_ratio_that_rounds_to_one_is_neither_smaller_nor_larger(ratio, text):
    assert smaller(ratio) == text
