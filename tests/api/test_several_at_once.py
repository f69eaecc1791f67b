"""Verification without data runs one sample at a time, and several at once too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.runtime.samples import batch_of
from onnxprune.runtime.session import open_session
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import put


def plus(rows: np.ndarray) -> onnx.ModelProto:
    """A product, and the row of some that has the number of samples as its index."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Shape", ["x"], ["s"]), node("Gather", ["s", "first"], ["n"]),
        node("Gather", ["rows", "n"], ["row"]), node("Add", ["h", "row"], ["y"]),
    ]  # fmt: skip
    held = {"w": normal(8, 4), "first": np.array(0), "rows": rows}
    return model(nodes, [info("x", ["N", 8])], [info("y", ["N", 4])], held)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((4, 4), np.float32), ""),
        (np.eye(4, dtype=np.float32)[[1, 1, 1, 3]] * [[0], [0], [0], [50]], "dB for three samples at once"),
        (np.zeros((3, 4), np.float32), "does not run for three samples at once"),
    ],
)
def test_what_is_right_for_one_sample_alone_is_told(rows, said, tmp_path):
    a = put(tmp_path / "a.onnx", plus(np.zeros((4, 4), np.float32)))
    b = put(tmp_path / "b.onnx", plus(rows.astype(np.float32)))
    (output,) = onnxprune.verify(a, b).outputs
    assert bool(output["differs"]) == bool(said)
    assert said in (output["differs"] or "")


def test_states_are_put_together_along_their_own_axis(tmp_path):
    nodes = [node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["", "hn", "cn"], hidden_size=4)]
    shapes = {"x": [5, "N", 3], "h": [1, "N", 4], "c": [1, "N", 4]}
    held = {"W": normal(1, 16, 3), "R": normal(1, 16, 4)}
    for first, count in (("x", None), ("k", 3)):
        inputs = [info(name, shape) for name, shape in shapes.items()]
        if first == "k":  # an input whose first axis counts samples
            inputs.insert(0, info("k", ["N", 2]))
        proto = model([*nodes, node("Identity", ["k"], ["o"])] if count else nodes, inputs, [info("hn", None)], held)
        session = open_session(put(tmp_path / "m.onnx", proto))
        feed = {
            n: np.ones([1 if d == "N" else d for d in s], np.float32) for n, s in (shapes | {"k": ["N", 2]}).items()
        }
        found = batch_of(session, [feed] * 3)
        assert (None if found is None else found["h"].shape[1]) == count
