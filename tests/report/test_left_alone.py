"""What the report says of weights that passes left alone: counted by a label each, and in JSON a sentence each."""

from __future__ import annotations

import io

import numpy as np
import pytest
from onnx import TensorProto
from rich.console import Console

import onnxprune
from onnxprune.report.terminal import show_result
from tests.helpers import builders
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import put


def read_otherwise():
    """An embedding, a norm, two biases, an operand, a small matrix, one that is read twice, one that nothing reads."""
    nodes = [
        node("Gather", ["table", "i"], ["e"]),
        node("LayerNormalization", ["e", "norm"], ["n"]),
        node("Gemm", ["n", "w", "bias"], ["g"]),
        node("Add", ["g", "shift"], ["a"]),
        node("Mul", ["a", "factor"], ["m"]),
        node("MatMul", ["m", "twice"], ["t"]),
        node("Add", ["t", "twice"], ["s"]),
        node("MatMul", ["s", "small"], ["y"]),
    ]
    held = {
        "table": normal(40, 30), "norm": normal(30), "w": normal(30, 30), "bias": normal(30), "shift": normal(30),
        "factor": normal(30), "twice": normal(30, 30), "small": normal(30, 5), "unread": normal(30, 30),
    }  # fmt: skip
    return model(nodes, [info("i", [30], TensorProto.INT64)], [info("y", [30, 5])], held)


def left_alone(result) -> dict[str, int]:
    """Label -> how many, as printed."""
    console = Console(file=io.StringIO(), width=500)
    show_result(console, result)
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("left alone: ")]
    counts = (entry.split(" ", 1) for entry in line.removeprefix("left alone: ").split(", "))
    return {label: int(count) for count, label in counts}


def reasons(result) -> dict[str, str]:
    """Name -> sentence, as in JSON."""
    return {entry["name"]: entry["reason"] for entry in result.facts()["skipped"]}


def test_reasons_of_the_model(tmp_path):
    result = onnxprune.prune(
        put(tmp_path / "m.onnx", read_otherwise()), tmp_path / "o.onnx", sparsity=0.5, verify=False
    )
    assert reasons(result) == {
        "table": "is an embedding", "norm": "is a norm", "bias": "is a bias", "shift": "is a bias",
        "factor": "is a Mul operand", "twice": "also read as bias",
        "small": "is small: 150 elements, fewer than 256", "unread": "nothing reads it",
    }  # fmt: skip
    labels = {"bias": 2, "embedding": 1, "norm": 1, "Mul operand": 1, "also read as bias": 1, "small": 1}
    assert left_alone(result) == labels  # the six most frequent, the first of equals


def test_reasons_of_magnitude(tmp_path):
    source = put(tmp_path / "m.onnx", builders.mlp((32, 64, 64, 16)))
    skipped = onnxprune.prune(source, tmp_path / "o.onnx", sparsity=0.9, skip=["fc2*"], verify=False)
    assert left_alone(skipped) == {"bias": 2, "skipped on request": 2}
    onnxprune.compress(source, tmp_path / "e.onnx", sparsity=0.9, strip=False, verify=False)
    encoded = onnxprune.transform(tmp_path / "e.onnx", tmp_path / "o.onnx", ["magnitude{sparsity=0.9}"], verify=False)
    named = [name for name, reason in reasons(encoded).items() if reason == "is encoded: decode the model first"]
    assert {"fc0.weight", "fc1.weight", "fc2.weight"} <= set(named)
    assert left_alone(encoded)["encoded"] == len(named)


@pytest.mark.parametrize(
    ("proto", "sentence"),
    [
        (builders.overridable(), "stays dense: it is a graph input that a caller may override"),
        (builders.qdq((-3, 3)), "stays dense: its channels have different zero points"),
    ],
)
def test_reasons_of_encode(tmp_path, proto, sentence):
    result = onnxprune.encode(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", verify=False)
    assert sentence in reasons(result).values()
    assert left_alone(result)["stays dense"] == 1


def test_a_quantised_weight_without_a_zero_point(tmp_path):
    held = {"w": np.ones((32, 32), np.int8)}
    proto = model([node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["x", "f"], ["y"])],
                  [info("x", ["N", 32])], [info("y", ["N", 32])], held)  # fmt: skip
    result = onnxprune.prune(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", sparsity=0.5, verify=False)
    assert reasons(result) == {"w": "is int8 without a known zero point"}
    assert left_alone(result) == {"int8 without a known zero point": 1}
