"""The onnx package's own backend tests: a sample of them passes, and the tool sees what is broken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from tests.helpers.builders import info, matmul, model, normal
from tests.helpers.repository import TOOLS
from tests.helpers.running import run


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("backend_tests")


def case(tool: ModuleType, proto: onnx.ModelProto, **given: np.ndarray):
    expected = run(proto, given)
    return tool.Case("case", proto, [(list(given.values()), expected)], 1e-4, 1e-6)


@pytest.mark.backend
@pytest.mark.parametrize("sample", [["--every", "101"], ["--every", "151", "--hold"]])
def test_a_sample_passes(sample: list[str]) -> None:
    command = [sys.executable, str(TOOLS / "backend_tests.py"), "--jobs", "1", *sample]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(", 0 failed\n")


def test_a_model_of_weights_passes_and_its_inputs_can_be_weights(tool: ModuleType) -> None:
    x = normal(2, 64, seed=1)
    assert tool.checked(case(tool, matmul(), x=x)).word == "passed"
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", [2, 64]), info("w", [64, 32])], [info("y", [2, 32])])
    held = tool.holding(case(tool, proto, x=x, w=normal(64, 32)))
    assert [value.name for value in held.model.graph.input] == ["x"]
    assert tool.checked(held).word == "passed"


@pytest.mark.parametrize(("broken", "said"), [("w", "output 0 is not as expected"), ("x", "other inputs or outputs")])
def test_a_broken_model_is_called_failed(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, broken: str, said: str
) -> None:
    def strip(model: Path, out: Path, **_: object) -> None:
        proto = onnx.load(model)
        if broken == "w":
            proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(64, 32, seed=5), "w"))
        else:
            proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        onnx.save(proto, out)

    monkeypatch.setattr(onnxprune, "strip", strip)
    found = tool.checked(case(tool, matmul(), x=normal(2, 64, seed=1)))
    assert (found.word, said in found.reason) == ("failed", True)


def test_a_model_that_nothing_computes_is_refused_with_the_reason(tool: ModuleType) -> None:
    nodes = [helper.make_node("Nonsense", ["x"], ["y"])]
    proto = model(nodes, [info("x", [2])], [info("y", [2])])
    found = tool.checked(tool.Case("case", proto, [([np.zeros(2, np.float32)], [np.zeros(2, np.float32)])], 0, 0))
    assert (found.word, "Nonsense" in found.reason) == ("refused", True)
