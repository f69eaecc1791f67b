"""ONNX Runtime folds no node that makes a tensor above a limit (1 GiB): no weight is stored so that it meets that.

Both limits are lowered, so that small weights are large ones.
"""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest

from onnxprune.encodings import GRAPH, smallest
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import arrays, load, serialise

LIMIT = 1 << 16
DECODING = {"ScatterElements", "CumSum", "NonZero", "BitShift", "Cast", "DequantizeLinear", "Reshape", "Mod", "Mul"}
OPTION = "optimization.constant_folding_max_output_size_in_bytes"
RELEASE = tuple(map(int, ort.__version__.split(".")[:2]))


def product(size: int, zeros: float, seed: int = 0):
    """A matrix of that many entries in front of a MatMul."""
    weight = normal(64, size // 64, seed=seed)
    weight[np.random.default_rng(seed).random(weight.shape) < zeros] = 0
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", size // 64])], {"w": weight}, 17)


def executed(data: bytes, folder) -> set[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "run")
    options.add_session_config_entry(OPTION, str(LIMIT))
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": normal(2, 64, seed=3)})
    with open(session.end_profiling()) as file:
        return {event["args"]["op_name"] for event in json.load(file) if event["name"].endswith("_kernel_time")}


@pytest.mark.skipif(RELEASE < (1, 27), reason="older releases fold tensors of any size")
@pytest.mark.parametrize("values", ["exact", "half", "shared:4", "int8", "int8:3"])
@pytest.mark.parametrize("zeros", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [1 << 12, 1 << 13, (1 << 14) - 64, 1 << 14, (1 << 14) + 64, 1 << 16, (1 << 16) + 64])
def test_nothing_is_decoded_at_each_run(tmp_path, monkeypatch, size, zeros, values):
    monkeypatch.setattr(smallest, "FOLDED", LIMIT)
    for encoding in ("auto", *GRAPH):
        opened = load(product(size, zeros))
        change = Encode(values=values, encoding=encoding).run(opened)
        assert not executed(serialise(opened), tmp_path) & DECODING, encoding
        if encoding == "auto" and values != "exact":
            held = size <= LIMIT if values in ("shared:4", "int8:3") else values == "int8" or 4 * size <= LIMIT
            assert bool(encoded_weights(opened)) == held
            assert held or "1 GiB" in " ".join(change.notes)
        if values == "exact":
            Decode().run(opened)
            assert arrays(opened) == arrays(load(product(size, zeros)))


@pytest.mark.skipif(RELEASE < (1, 27), reason="older releases fold tensors of any size")
@pytest.mark.parametrize("encoding", ["flat", "rows", "bitmask"])
def test_what_is_larger_is_decoded_at_each_run(tmp_path, encoding):
    """Where our limit stays as it is, the lowered one of ONNX Runtime shows."""
    opened = load(product(1 << 16, 0.5))
    Encode(values="half", encoding=encoding).run(opened)
    assert executed(serialise(opened), tmp_path) & DECODING
