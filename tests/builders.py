"""Small models, one for each place and form in which exporters keep weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def info(name: str, shape, element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def model(nodes, inputs, outputs, weights=None, opset: int = 17, ir_version: int = 8, **kw) -> onnx.ModelProto:
    """A model; `weights` is name -> array."""
    initializers = [tensor(name, array) for name, array in (weights or {}).items()]
    listed = list(inputs)
    if ir_version < 4:  # IR 3 lists every initializer as an input
        listed += [info(t.name, list(t.dims), t.data_type) for t in initializers]
    graph = helper.make_graph(nodes, "g", listed, outputs, initializers)
    opsets = kw.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, **kw)


def mlp(sizes=(8, 16, 4), seed: int = 0, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """Gemm (transB=1) layers with Relu between: x [N, sizes[0]] -> y [N, sizes[-1]]."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], {}, "x"
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weights[f"fc{i}.weight"] = rng.standard_normal((n_out, n_in)).astype(np.float32)
        weights[f"fc{i}.bias"] = rng.standard_normal(n_out).astype(np.float32)
        final = i == len(sizes) - 2
        out = "y" if final else f"fc{i}"
        inputs = [last, f"fc{i}.weight", f"fc{i}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [out], name=f"fc{i}", transB=1))
        if not final:
            nodes.append(helper.make_node("Relu", [out], [f"relu{i}"], name=f"relu{i}"))
            last = f"relu{i}"
    return model(nodes, [info("x", ["N", sizes[0]])], [info("y", ["N", sizes[-1]])], weights, opset, ir_version)
