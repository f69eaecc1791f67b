"""A form that is given says how values are stored, and prunes only where somebody bounds or judges the loss."""

from __future__ import annotations

import pytest

import onnxprune
from tests.helpers.builders import mlp
from tests.helpers.running import put


@pytest.fixture
def source(tmp_path):
    return put(tmp_path / "m.onnx", mlp((64, 64, 32)))


def zeros(result: onnxprune.Result) -> int:
    """How many parameters the result has lost."""
    return result.parameters["after"] - result.parameters["nonzero"]


@pytest.mark.parametrize("values", ["exact", "half", "int8", "shared:8"])
def test_nothing_is_pruned_that_nobody_asked_for(source, tmp_path, values):
    """`exact` lost a quarter of the entries, and a text reader 42 dB of its 50 as `half`."""
    made = onnxprune.compress(source, tmp_path / "out.onnx", values=values, verify=False)
    assert made.passes[-1].startswith("encode")
    assert not any(step.startswith("magnitude") for step in made.passes)
    if values in ("exact", "half"):
        assert zeros(made) == 0


@pytest.mark.parametrize("asked", [{"loss": 0.05}, {"sparsity": 0.5}, {"tolerance": 15.0, "metric": "sqnr"}])
def test_a_bound_prunes(source, tmp_path, asked):
    made = onnxprune.compress(source, tmp_path / "out.onnx", values="half", **asked)
    assert zeros(made) > 0
