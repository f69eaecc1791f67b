"""The command that tells which runtimes read a model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx

import onnxprune
from onnxprune_passes import Encode
from tests.helpers.builders import matmul, mlp
from tests.helpers.commands import call
from tests.helpers.running import load, serialise


def written(tmp_path: Path, proto: onnx.ModelProto, **options) -> Path:
    opened = load(proto)
    if options:
        Encode(**options).run(opened)
    (tmp_path / "m.onnx").write_bytes(serialise(opened))
    return tmp_path / "m.onnx"


def test_the_command_prints_what_the_function_returns(tmp_path):
    path = written(tmp_path, mlp((96, 96, 96)), values="int8", set=("fc1*=shared:4",), encoding="dense")
    facts = onnxprune.compat(path)
    assert json.loads(call("compat", path, "--json").stdout) == dataclasses.asdict(facts)
    lines = [line.split() for line in call("compat", path).stdout.splitlines()]
    assert ["dense", "int8", "for", "MatMul", "1", "13", "1.18", "1.25", "loads"] in lines
    assert ["dense", "shared", "1", "10", "1.18", "1.18", "loads"] in lines
    text = " ".join(word for line in lines for word in line)
    assert "onnxruntime 1.18 loads it, 1.25 runs it fast." in text
    assert "onnxprune decode" in text
    assert "optimisation" in text


def test_the_command_without_encoded_weights(tmp_path):
    assert "No weight is encoded" in call("compat", written(tmp_path, matmul())).stdout
