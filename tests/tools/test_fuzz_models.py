"""Random models: a number is a model, a short run finds nothing, and what is broken is found."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import onnx
import pytest

import onnxprune
from tests.helpers.repository import TOOLS


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("fuzz_models")


def test_a_number_is_a_model_and_numbers_differ(tool: ModuleType) -> None:
    made = [tool.random_models.made(number).model.SerializeToString() for number in (*range(30), *range(30))]
    assert made[:30] == made[30:]
    assert len(set(made)) == 30


def test_all_opsets_ir_versions_and_types_come(tool: ModuleType) -> None:
    models = [tool.random_models.made(number).model for number in range(700)]
    assert {model.ir_version for model in models} == set(range(3, 14))
    assert {model.opset_import[0].version for model in models} == set(range(7, 29))
    types = Counter(tensor.data_type for model in models for tensor in model.graph.initializer)
    wanted = {*tool.random_models.CASTS, *tool.random_models.SCALED, "FLOAT"}
    assert {getattr(onnx.TensorProto, name) for name in wanted if hasattr(onnx.TensorProto, name)} <= set(types)
    kinds = {node.op_type for model in models for node in model.graph.node}
    assert {"Conv", "LSTM", "If", "Gemm", "MatMul", "Einsum", "Gather", "Split", "DequantizeLinear"} <= kinds


def test_a_short_run_finds_nothing() -> None:
    command = [sys.executable, str(TOOLS / "fuzz_models.py"), "--start", "100", "--count", "10", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    passed = re.search(r"10 models: (\d+) passed, \d+ refused, 0 failed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 7


def test_what_is_broken_is_found_and_named(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def decode(model: Path, out: Path, **_: object) -> None:
        raise ZeroDivisionError("nothing is left")

    monkeypatch.setattr(onnxprune, "decode", decode)
    monkeypatch.setattr(
        tool, "spread", lambda call, numbers, **_: map(Finished, range(len(numbers)), map(call, numbers))
    )
    monkeypatch.setattr(sys, "argv", ["fuzz_models.py", "--start", "7", "--count", "2"])
    assert tool.main() == 1
    assert "7: ZeroDivisionError: nothing is left" in capsys.readouterr().err


class Finished:
    """An outcome as `spread` gives it."""

    def __init__(self, index: int, value: object) -> None:
        self.index, self.value, self.error = index, value, None
