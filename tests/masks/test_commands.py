"""The commands that write, check, apply and take back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import onnxprune
from onnxprune.masks import file as mask_files
from tests.helpers.builders import mlp
from tests.helpers.running import put
from tests.masks.weights import values


def test_the_commands(masked, mlp_files):
    from click.testing import CliRunner

    from onnxprune.cli import cli

    def call(*args):
        done = CliRunner().invoke(cli, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    call("prune", "m.onnx", "-o", "q.onnx", "--sparsity", "0.5", "--masks", "q.npz", "--names-from", "c.safetensors")
    assert "dense0/kernel" in call("masks", "export", "q.onnx", "-o", "e.npz", "--names-from", "c.safetensors")
    assert "2 masks keep 1,536 of 3,072 entries; 2 more parameters are named" in call("masks", "show", "e.npz")
    assert json.loads(call("masks", "show", "e.npz", "--json"))["version"] == mask_files.VERSION
    assert "written" not in call("masks", "apply", "m.onnx", "e.npz", "-o", "a.onnx", "--json", "facts.json")
    assert "1,536 masked entries of 2 weights are zero" in call("masks", "check", "a.onnx", "e.npz")
    assert "u.onnx" in call("update", "q.onnx", "--from", "r.safetensors", "-o", "u.onnx", "--masks", "q.npz")


def test_parameters_of_one_element_are_said_to_stay(folder):
    """No value tells them apart; a bias of a single output is one."""
    put(Path("m.onnx"), mlp((8, 64, 1)))
    before = values("m.onnx")
    before["fc1.bias"] = np.zeros(1, np.float32)
    save_file(before, "old.safetensors")
    save_file({n: a + 1 for n, a in before.items()}, "new.safetensors")
    result = onnxprune.update("m.onnx", "new.safetensors", "o.onnx", names_from="old.safetensors")
    assert "parameters of one element stay as they were: fc1.bias" in result.notes
    np.testing.assert_array_equal(values("o.onnx")["fc1.weight"], before["fc1.weight"] + 1)
