"""A default loss gives way to a smaller one where the outputs are far off: some networks amplify what weights lose."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import put

LOSS = 0.01


def swaying(by: float):
    """A layer whose outputs go through so many periods of a sine."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "by"], ["p"]), node("Sin", ["p"], ["y"])]
    held = {"w": normal(64, 256), "by": np.array(by, np.float32)}
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 256])], held)


def losses(result: onnxprune.Result) -> list[str]:
    """The notes on a smaller loss."""
    return [note for note in result.notes if "far off" in note]


@pytest.mark.parametrize(("by", "tries"), [(0.01, 1), (1.0, 2), (5.0, 3)])
def test_the_loss_is_the_largest_of_three_at_which_outputs_are_near(tmp_path, by, tries):
    source = put(tmp_path / "m.onnx", swaying(by))
    made = onnxprune.compress(source, tmp_path / "out.onnx")
    for number, loss in enumerate((LOSS, LOSS / 4, LOSS / 16), 1):
        given = onnxprune.compress(source, tmp_path / f"{number}.onnx", loss=loss)
        assert (given.deviation.outputs[0]["sqnr_db"] >= 7) == (number >= tries) or number == 3
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / f"{tries}.onnx").read_bytes()
    assert len(losses(made)) == (tries > 1)


@pytest.mark.parametrize("said", [{"loss": LOSS}, {"sparsity": 0.5}, {"values": "int8"}, {"verify": False}])
def test_what_is_asked_for_stays(tmp_path, said):
    made = onnxprune.compress(put(tmp_path / "m.onnx", swaying(500.0)), tmp_path / "out.onnx", **said)
    assert not losses(made)
    assert not made.deviation.outputs or made.deviation.outputs[0]["sqnr_db"] < 7
