"""Small graphs with dead channels, and what must hold of them without."""

import numpy as np
import onnx
from onnx import helper

from onnxprune_passes import DeadNeurons
from tests.helpers import graph_checks as checks
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, serialise


def layers(*between: onnx.NodeProto, out: int = 3, dtype=np.float32, **kw) -> onnx.ModelProto:
    """x [N, 6] @ a [6, 8] -> h, what stands between h and k, k @ b [8, out] -> y; units 2 and 5 are not read."""
    weights = {"a": normal(6, 8), "b": normal(8, out, seed=1)} | kw.pop("weights", {})
    weights["b"][[2, 5]] = 0
    weights = {n: w.astype(dtype) if w.dtype == np.float32 else w for n, w in weights.items()}
    between = between or (node("Relu", ["h"], ["k"]),)
    nodes = [node("MatMul", ["x", "a"], ["h"]), *between, node("MatMul", ["k", "b"], ["y"])]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [info("x", ["N", 6], element), *kw.pop("inputs", [])]
    outputs = [info("y", ["N", out], element), *kw.pop("outputs", [])]
    return model(nodes, inputs, outputs, weights, **kw)


def image(*nodes: onnx.NodeProto, weights, out: int = 3, side: int = 6, outside: int | None = None, **kw):
    """x [N, 3, side, side] -> what the nodes make of it -> y."""
    shape = ["N", out] + [outside or side] * 2
    return model(nodes, [info("x", ["N", 3, side, side])], [info("y", shape)], weights, **kw)


def check(proto: onnx.ModelProto, tolerance: float = 1e-5, **expected):
    """Strip, hold everything against it, and the shapes of some weights."""
    after, change = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after, tolerance)
    checks.assert_valid(after)
    checks.assert_names_kept(proto, after)
    found = checks.shapes(after)
    assert {name: found.get(name) for name in expected} == expected
    again, second = checks.stripped(after, DeadNeurons())
    assert not second.modified
    assert again == after
    return after, change


def untouched(proto: onnx.ModelProto):
    opened = load(proto)
    change = DeadNeurons().run(opened)
    assert not change.modified
    assert not change.removed
    assert serialise(opened) == serialise(load(proto))
    return change
