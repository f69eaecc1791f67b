"""Small models, one for each place and form in which exporters keep weights."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


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
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
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


def node(kind: str, inputs, outputs, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"{kind}_{outputs[0]}", **attributes)


def normal(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def smallest(array: np.ndarray, count: int) -> np.ndarray:
    """The array with the `count` smallest magnitudes zeroed, ties by lowest index."""
    out = array.copy().reshape(-1)
    out[np.argsort(np.abs(out), kind="stable")[:count]] = 0
    return out.reshape(array.shape)


def matmul(weight: np.ndarray | None = None, before=(), element: int = FLOAT, **kw) -> onnx.ModelProto:
    """x @ w; `before` are nodes that make `v` from `w`."""
    weight = normal(64, 32) if weight is None else weight
    nodes = [*before, node("MatMul", ["x", "v" if before else "w"], ["y"])]
    return model(nodes, [info("x", ["N", 64], element)], [info("y", ["N", 32], element)], {"w": weight}, **kw)


def conv_net() -> onnx.ModelProto:
    weights = {"c0": normal(16, 3, 3, 3), "b0": normal(16), "c1": normal(16, 16, 3, 3, seed=1), "fc": normal(40, 16)}
    nodes = [
        node("Conv", ["x", "c0", "b0"], ["h0"], pads=[1, 1, 1, 1]),
        node("Conv", ["h0", "c1"], ["h1"]),
        node("GlobalAveragePool", ["h1"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fc"], ["y"], transB=1),
    ]
    return model(nodes, [info("x", ["N", 3, 8, 8])], [info("y", ["N", 40])], weights)


def shared() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    return model(nodes, [info("x", ["N", 48])], [info("y", ["N", 48])], {"w": normal(48, 48)})


def constant_node() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor("", normal(64, 32))),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 32])])


def _constant(name: str, array) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=tensor("", np.asarray(array)))


def if_branches() -> onnx.ModelProto:
    """A weight in each branch (one an initializer, one a Constant node), and one that a branch captures."""
    then = helper.make_graph(
        [node("MatMul", ["x", "inner"], ["a"])], "then", [], [info("a", ["N", 32])], [tensor("inner", normal(64, 32))]
    )
    body = [
        _constant("inner", normal(32, 32, seed=1)),
        node("MatMul", ["x", "outer"], ["h"]),
        node("MatMul", ["h", "inner"], ["b"]),
    ]
    other = helper.make_graph(body, "else", [], [info("b", ["N", 32])])
    nodes = [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)]
    inputs = [info("x", ["N", 64]), info("c", [], TensorProto.BOOL)]
    return model(nodes, inputs, [info("y", ["N", 32])], {"outer": normal(64, 32, seed=2)})


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", ["keep"], ["again"]), node("MatMul", ["state", "w"], ["next"])],
        "body",
        [info("i", [], TensorProto.INT64), info("keep", [], TensorProto.BOOL), info("state", ["N", 32])],
        [info("again", [], TensorProto.BOOL), info("next", ["N", 32])],
        [tensor("w", normal(32, 32))],
    )
    nodes = [helper.make_node("Loop", ["times", "go", "x"], ["y"], name="loop", body=body)]
    weights = {"times": np.array(2, np.int64), "go": np.array(True)}
    return model(nodes, [info("x", ["N", 32])], [info("y", ["N", 32])], weights)


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("MatMul", ["item", "w"], ["h"]), node("Add", ["state", "h"], ["next"]), node("Identity", ["h"], ["out"])],
        "body",
        [info("state", [32]), info("item", [64])],
        [info("next", [32]), info("out", [32])],
        [tensor("w", normal(64, 32))],
    )
    nodes = [helper.make_node("Scan", ["zero", "x"], ["last", "y"], name="scan", body=body, num_scan_inputs=1)]
    weights = {"zero": np.zeros(32, np.float32)}
    return model(nodes, [info("x", [5, 64])], [info("y", [5, 32]), info("last", [32])], weights)


def function() -> onnx.ModelProto:
    """One weight inside the function, one passed to it."""
    imports = [helper.make_opsetid("", 17)]
    nodes = [
        _constant("inside", normal(32, 32)),
        node("MatMul", ["a", "b"], ["h"]),
        node("MatMul", ["h", "inside"], ["r"]),
    ]
    body = helper.make_function("local", "Twice", ["a", "b"], ["r"], nodes, imports)
    call = helper.make_node("Twice", ["x", "w"], ["y"], name="call", domain="local")
    weights = {"w": normal(64, 32, seed=1)}
    opsets = [*imports, helper.make_opsetid("local", 1)]
    return model(
        [call], [info("x", ["N", 64])], [info("y", ["N", 32])], weights, functions=[body], opset_imports=opsets
    )


def lstm() -> onnx.ModelProto:
    weights = {"W": normal(1, 64, 16), "R": normal(1, 64, 16, seed=1), "B": normal(1, 128, seed=2)}
    nodes = [node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=16)]
    return model(nodes, [info("x", [5, 1, 16])], [info("y", [5, 1, 1, 16])], weights)


def bf16() -> onnx.ModelProto:
    """ONNX Runtime multiplies no bfloat16 on a CPU: the weight is widened."""
    weight = normal(64, 32, dtype=ml_dtypes.bfloat16)
    return matmul(weight, [node("Cast", ["w"], ["v"], to=FLOAT)])


def qdq(zeros: tuple[int, int] = (0, 0)) -> onnx.ModelProto:
    """int8, one scale and zero point per output channel."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-128, 128, (64, 32), np.int8),
        "scale": rng.uniform(0.01, 0.1, 32).astype(np.float32),
        "zero": rng.integers(*zeros, 32, np.int8, endpoint=True),
    }
    nodes = [node("DequantizeLinear", ["w", "scale", "zero"], ["v"], axis=1), node("MatMul", ["x", "v"], ["y"])]
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 32])], weights)


def qlinear() -> onnx.ModelProto:
    """uint8 with zero point 128."""
    u8 = np.uint8
    weights = {
        "scale": np.float32(0.05), "middle": u8(128),
        "w": np.random.default_rng(0).integers(0, 256, (64, 32), u8),
    }  # fmt: skip
    one = ["scale", "middle"]
    nodes = [
        node("QuantizeLinear", ["x", *one], ["xq"]),
        node("QLinearMatMul", ["xq", *one, "w", *one, *one], ["yq"]),
        node("DequantizeLinear", ["yq", *one], ["y"]),
    ]
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 32])], {k: np.asarray(v) for k, v in weights.items()})


def behind() -> onnx.ModelProto:
    """An fp16 weight behind Identity, Cast and Transpose."""
    before = [
        node("Identity", ["w"], ["w1"]),
        node("Cast", ["w1"], ["w2"], to=FLOAT),
        node("Transpose", ["w2"], ["v"], perm=[1, 0]),
    ]
    return matmul(normal(32, 64, dtype=np.float16), before)


def overridable() -> onnx.ModelProto:
    """`w` has a default that a caller may replace; `v` is a plain initializer."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    inputs = [info("x", ["N", 64]), info("w", [64, 32])]
    return model(nodes, inputs, [info("y", ["N", 32])], {"w": normal(64, 32), "v": normal(32, 32, seed=1)})


# name -> (builder, the weights that are pruned by default)
MODELS = {
    "mlp": (lambda: mlp((32, 64, 16)), {"fc0.weight", "fc1.weight"}),
    "opset9": (lambda: mlp((32, 64, 16), opset=9), {"fc0.weight", "fc1.weight"}),
    "ir3": (lambda: mlp((32, 64, 16), opset=9, ir_version=3), {"fc0.weight", "fc1.weight"}),
    "conv": (conv_net, {"c0", "c1", "fc"}),
    "shared": (shared, {"w"}),
    "constant": (constant_node, {"w"}),
    "if": (if_branches, {"outer", "choice.then_branch/inner", "choice.else_branch/inner"}),
    "loop": (loop, {"loop.body/w"}),
    "scan": (scan, {"scan.body/w"}),
    "function": (function, {"w", "local::Twice/inside"}),
    "lstm": (lstm, {"W", "R"}),
    "fp16": (lambda: matmul(normal(64, 32, dtype=np.float16), element=TensorProto.FLOAT16), {"w"}),
    "bf16": (bf16, {"w"}),
    "fp64": (lambda: matmul(normal(64, 32, dtype=np.float64), element=TensorProto.DOUBLE), {"w"}),
    "qdq": (qdq, {"w"}),
    "asymmetric": (lambda: qdq((-5, 5)), {"w"}),
    "qlinear": (qlinear, {"w"}),
    "behind": (behind, {"w"}),
    "overridable": (overridable, {"v", "w"}),
}
