"""freeze: initializers that were inputs are inputs no longer, and can be encoded."""

from __future__ import annotations

import onnx
import pytest

import onnxprune
from onnxprune_passes import Freeze
from tests.helpers.builders import info, mlp
from tests.helpers.commands import call
from tests.helpers.running import load, outputs, put


def listed(ir_version: int = 8) -> onnx.ModelProto:
    """A model whose weights are inputs too."""
    proto = mlp((64, 64, 32))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(info(tensor.name, list(tensor.dims)))
    proto.ir_version = ir_version
    return proto


def names(path) -> list[str]:
    """Of the inputs of a file."""
    return [value.name for value in onnx.load(path).graph.input]


def test_outputs_stay_and_inputs_go():
    opened = load(listed())
    assert Freeze().run(opened).modified
    assert [value.name for value in opened.proto.graph.input] == ["x"]
    assert outputs(opened.to_bytes()) == outputs(mlp((64, 64, 32)))
    assert not Freeze().run(opened).modified


def test_before_ir_version_4_they_have_to_be_inputs():
    opened = load(listed(ir_version=3))
    assert not Freeze().run(opened).modified
    assert len(opened.proto.graph.input) > 1


@pytest.mark.parametrize("command", ["compress", "strip"])
def test_the_option_is_there_where_the_note_sends_its_reader(tmp_path, command):
    source, out = put(tmp_path / "m.onnx", listed()), tmp_path / "o.onnx"
    told = call("compress", source, "-o", out).output
    assert "freeze takes them out" in told
    assert names(out) == names(source)
    told = call(command, source, "-o", out, "--freeze").output
    assert "no inputs any more" in told
    assert names(out) == ["x"]
    if command == "compress":
        assert onnxprune.compress(source, out, freeze=True).ratio > 2
