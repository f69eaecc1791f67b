"""What the report says of promises and metrics of results that are equal to their originals."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import onnxprune
from onnxprune.errors import ToleranceMissed
from onnxprune.report.terminal import show_result
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import put


def printed(result) -> str:
    console = Console(file=io.StringIO(), width=500)
    show_result(console, result)
    return console.file.getvalue()


def test_a_model_that_does_not_change_is_equal_at_no_loss(tmp_path):
    source = put(tmp_path / "m.onnx", model([node("Relu", ["x"], ["y"])], [info("x", ["N", 8])], [info("y", ["N", 8])]))
    result = onnxprune.compress(source, tmp_path / "o.onnx", data={"x": normal(64, 8)})
    assert result.promise.sqnr == 1000
    (line,) = [line for line in printed(result).splitlines() if "promise" in line]
    assert line == "  promise     kept, on 32 held-out samples: the outputs are equal"
    assert "1000" not in printed(result)


def test_a_changed_model_has_the_sqnr_of_its_outputs(tmp_path):
    source, data = put(tmp_path / "m.onnx", mlp((64, 128, 8))), {"x": normal(64, 64)}
    text = printed(onnxprune.compress(source, tmp_path / "o.onnx", data=data))
    assert " held-out samples at a loss of " in text
    assert " dB of the worst output; at least " in text
    with pytest.raises(ToleranceMissed) as raised:
        onnxprune.verify(source, tmp_path / "o.onnx", data=data, metric="sqnr", tolerance=900)
    assert "wanted at least 900 dB" in str(raised.value)
    assert "the original has" not in str(raised.value)


@pytest.mark.parametrize(("size", "after"), [(0, "equal"), (1, " dB")])
def test_the_sqnr_of_equal_outputs_is_no_number(size, after, tmp_path):
    weight = normal(64, 8)
    for name, part in (("a", 0), ("b", size)):
        weights = {"w": weight + np.float32(0.1) * part * normal(64, 8, seed=1)}
        shapes = [info("x", ["N", 64])], [info("y", ["N", 8])]
        put(tmp_path / f"{name}.onnx", model([node("MatMul", ["x", "w"], ["y"])], *shapes, weights))
    done = call("verify", tmp_path / "a.onnx", tmp_path / "b.onnx", "--metric", "sqnr")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  sqnr")]
    assert line.startswith("  sqnr        equal -> ")
    assert line.endswith(after)


@pytest.mark.parametrize(("after", "told"), [(2.0, True), (1.0, False)])
def test_channels_that_made_a_model_slower_have_advice(tmp_path, after, told):
    source = put(tmp_path / "m.onnx", mlp((64, 128, 8)))
    result = onnxprune.compress(source, tmp_path / "o.onnx", channels=("0.2",), data={"x": normal(16, 64)})
    cost = replace(result.cost, latency_ms={"before": 1.0, "after": after})
    assert ("--multiple 8" in printed(replace(result, cost=cost))) == told
