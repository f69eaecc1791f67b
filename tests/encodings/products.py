"""Networks with a weight in front of a MatMul or a Gemm, wherever models have such; how many of its nodes may fuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.helpers.builders import info, model, node, normal, tensor

IN, OUT = 128, 64  # 8,192 elements: enough for a kernel of its own
X, Y = [info("x", ["N", IN])], [info("y", ["N", OUT])]
W, T = normal(IN, OUT, seed=1), normal(OUT, IN, seed=1)
B = normal(OUT, seed=2)
W.flags.writeable = T.flags.writeable = B.flags.writeable = False
FLAG = info("c", [], TensorProto.BOOL)


def net(nodes, weights=None, inputs=X, outputs=Y, opset: int = 21, ir_version: int = 10, **kw) -> onnx.ModelProto:
    return model(nodes, inputs, outputs, {"w": W} if weights is None else weights, opset, ir_version, **kw)


def gemm(weight=T, bias=None, x=X, **attributes) -> onnx.ModelProto:
    weights = {"w": weight} | ({} if bias is None else {"b": bias})
    return net([node("Gemm", ["x", *weights], ["y"], **attributes)], weights, x)


def tail(*nodes, kind: str = "Gemm", outputs=Y, **weights) -> onnx.ModelProto:
    """A product `h` of each kind and what follows it."""
    bias = {"b": B} if kind == "Gemm" else {}
    first = node("Gemm", ["x", "w", "b"], ["h"], transB=1) if bias else node("MatMul", ["x", "w"], ["h"])
    return net([first, *nodes], {"w": T if bias else W} | bias | weights, outputs=outputs)


def branch(nodes, output: str = "y", weights=()) -> onnx.GraphProto:
    return helper.make_graph(nodes, f"body_{output}", [], [info(output, ["N", OUT])], list(weights))


def choice(then, other) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)


def captured() -> onnx.ModelProto:
    """The weight is read by a branch only."""
    then, other = branch([node("MatMul", ["x", "w"], ["a"])], "a"), branch([node("MatMul", ["x", "v"], ["e"])], "e")
    return net([choice(then, other)], {"w": W, "v": normal(IN, OUT, seed=5)}, [*X, FLAG])


def captured_too() -> onnx.ModelProto:
    """The weight is read by a MatMul and by a branch."""
    then = branch([node("MatMul", ["x", "w"], ["a"])], "a")
    other = branch([node("Neg", ["h"], ["e"])], "e")
    return net([node("MatMul", ["x", "w"], ["h"]), choice(then, other)], None, [*X, FLAG])


def in_branch() -> onnx.ModelProto:
    """The weight belongs to the branch, and so does the Relu behind it."""
    then = branch([node("Gemm", ["x", "w", "b"], ["h"]), node("Relu", ["h"], ["a"])], "a", [tensor("w", W)])
    other = branch([node("MatMul", ["x", "v"], ["e"])], "e", [tensor("v", normal(IN, OUT, seed=5))])
    return net([choice(then, other)], {"b": B}, [*X, FLAG])


def read_in_branch(kind: str) -> Callable[[], onnx.ModelProto]:
    """The weight is outside; what alone reads the product is in a branch."""

    def build() -> onnx.ModelProto:
        bounds = ["", "six"] if kind == "Clip" else []
        then, other = branch([node(kind, ["h", *bounds], ["a"])], "a"), branch([node("Neg", ["x2"], ["e"])], "e")
        nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["x", "v"], ["x2"]), choice(then, other)]
        held = {"w": W, "v": normal(IN, OUT, seed=5), "six": np.array(6, np.float32)}
        return net(nodes, held, [*X, FLAG])

    return build


def function() -> onnx.ModelProto:
    """Inside a function, as a Constant, and passed to it."""
    opsets = [helper.make_opsetid("", 21)]
    nodes = [
        helper.make_node("Constant", [], ["inside"], value=tensor("", normal(OUT, 80, seed=4))),
        node("MatMul", ["a", "b"], ["h"]),
        node("Gemm", ["h", "inside"], ["g"]),
        node("Relu", ["g"], ["r"]),
    ]
    body = helper.make_function("local", "Twice", ["a", "b"], ["r"], nodes, opsets)
    call = helper.make_node("Twice", ["x", "w"], ["y"], name="call", domain="local")
    return net(
        [call],
        outputs=[info("y", ["N", 80])],
        functions=[body],
        opset_imports=[*opsets, helper.make_opsetid("local", 1)],
    )


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("MatMul", ["item", "w"], ["h"]), node("Relu", ["h"], ["out"]), node("Identity", ["state"], ["next"])],
        "body",
        [info("state", [1]), info("item", [3, IN])],
        [info("next", [1]), info("out", [3, OUT])],
        [tensor("w", W)],
    )
    nodes = [helper.make_node("Scan", ["zero", "x"], ["last", "y"], name="scan", body=body, num_scan_inputs=1)]
    outs = [info("y", [5, 3, OUT]), info("last", [1])]
    return net(nodes, {"zero": np.zeros(1, np.float32)}, [info("x", [5, 3, IN])], outs)


def constant() -> onnx.ModelProto:
    nodes = [
        node("Relu", ["x"], ["r"]),
        helper.make_node("Constant", [], ["w"], name="held", value=tensor("", T)),
        node("Gemm", ["r", "w"], ["y"], transB=1),
    ]
    return net(nodes, {})


def ir3() -> onnx.ModelProto:
    return tail_of(
        [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Relu", ["h"], ["y"])], {"w": T, "b": B}, ir_version=3
    )


def tail_of(nodes, weights, **kw) -> onnx.ModelProto:
    return net(nodes, weights, opset=17, **kw)


def lora() -> onnx.ModelProto:
    """The bias of a Gemm is a MatMul that is fused too."""
    nodes = [
        node("MatMul", ["x", "v"], ["c"]),
        node("Gemm", ["x", "w", "c"], ["h"], transB=1),
        node("Relu", ["h"], ["y"]),
    ]
    return net(nodes, {"w": T, "v": normal(IN, OUT, seed=5)})


def residual() -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["x", "v"], ["b"]),
        node("Add", ["a", "b"], ["s"]), node("Relu", ["s"], ["y"]),
    ]  # fmt: skip
    return net(nodes, {"w": W, "v": normal(IN, OUT, seed=5)})


def deep() -> onnx.ModelProto:
    nodes, weights, last = [], {}, "x"
    for i in range(4):
        weights |= {f"w{i}": normal(IN, IN, seed=i), f"b{i}": normal(IN, seed=9 + i)}
        nodes += [node("Gemm", [last, f"w{i}", f"b{i}"], [f"h{i}"], transB=1), node("Relu", [f"h{i}"], [f"r{i}"])]
        last = f"r{i}"
    nodes.append(node("Identity", [last], ["y"]))
    return net(nodes, weights, outputs=[info("y", ["N", IN])])


def two(first: str, second: str) -> Callable[[], onnx.ModelProto]:
    """One square weight, two readers."""

    def reader(kind: str, inputs: str, output: str) -> onnx.NodeProto:
        attributes = {"transB": 1} if kind == "Gemm" else {}
        if kind == "left":
            return node("MatMul", ["w", inputs], [output])
        if kind == "Gather":
            return node("Gather", ["w", "rows"], [output])
        return node(kind, [inputs, "w"], [output], **attributes)

    def build() -> onnx.ModelProto:
        nodes = [reader(first, "x", "p"), reader(second, "x", "q"), node("Relu", ["p"], ["y"])]
        shape = [4, 64] if second == "Gather" else ["N", 64]
        held = {"w": normal(64, 64, seed=1), "rows": np.arange(4)}
        return net(nodes, held, [info("x", [64 if "left" in (first, second) else "N", 64])],
                   [info("y", ["N", 64]), info("q", shape)])  # fmt: skip

    return build


def cases() -> dict[str, tuple[Callable[[], onnx.ModelProto], int | None]]:
    """Name -> (model, how many kernels read integers; None where that is ONNX Runtime's affair)."""
    three = [info("x", [2, 3, IN])], [info("y", [2, 3, OUT])]
    product, left = [node("MatMul", ["x", "w"], ["y"])], [node("MatMul", ["w", "x"], ["y"])]
    six, low = np.array(6, np.float32), np.array(-1, np.float32)
    found: dict[str, tuple[Callable[[], onnx.ModelProto], int | None]] = {
        "matmul": (lambda: net([node("MatMul", ["x", "w"], ["y"])]), 1),
        "matmul 3-D": (lambda: net([node("MatMul", ["x", "w"], ["y"])], None, *three), 1),
        "matmul 4-D": (
            lambda: net(product, None, [info("x", [1, 1, "N", IN])], [info("y", [1, 1, "N", OUT])]), 1,
        ),
        "unit dimension in front": (lambda: net(product, {"w": W[None]}, *three), 1),
        "unit dimensions in front": (
            lambda: net([node("Unsqueeze", ["x", "axes"], ["u"]), node("MatMul", ["u", "w"], ["h"]),
                         node("Relu", ["h"], ["y"])],
                        {"w": W[None, None], "axes": np.array([0])}, three[0], [info("y", [1, 2, 3, OUT])]), 1,
        ),
        "more dimensions than the value": (
            lambda: net(product, {"w": W[None]}, X, [info("y", [1, "N", OUT])]), 0,
        ),
        "matmul 1-D": (lambda: net(product, None, [info("x", [IN])], [info("y", [OUT])]), None),
        "left": (lambda: net(left, None, [info("x", [OUT, 3])], [info("y", [IN, 3])]), 0),
        "gemm": (lambda: gemm(W), 1),
        "gemm transB": (lambda: gemm(T, transB=1), 1),
        "gemm bias": (lambda: gemm(W, B), 1),
        "gemm transB bias": (lambda: gemm(T, B, transB=1), 1),
        "gemm as torch writes it": (lambda: gemm(T, B, alpha=1.0, beta=1.0, transB=1), 1),
        "gemm transB=0 transA=0": (lambda: gemm(W, B, transA=0, transB=0), 1),
        "gemm no bias, beta": (lambda: gemm(T, beta=0.5, transB=1), 0),
        "gemm empty bias": (lambda: net([node("Gemm", ["x", "w", ""], ["y"], transB=1)], {"w": T}), 1),
        "gemm bias [1, N]": (lambda: gemm(T, B[None], transB=1), None),
        "gemm bias [1]": (lambda: gemm(T, B[:1], transB=1), 1),
        "gemm bias scalar": (lambda: gemm(T, B[0], transB=1), 1),
        "gemm bias [M, 1]": (lambda: gemm(T, normal(3, 1), transB=1), 1),
        "gemm alpha": (lambda: gemm(T, B, alpha=0.5, transB=1), 0),
        "gemm beta": (lambda: gemm(T, B, beta=0.5, transB=1), 0),
        "gemm transA": (lambda: gemm(T, B, x=[info("x", [IN, 3])], transA=1, transB=1), 0),
        "two matmuls": (two("MatMul", "MatMul"), None),
        "two gemms": (two("Gemm", "Gemm"), None),
        "matmul and gather": (two("MatMul", "Gather"), 1),
        "gemm and gather": (two("Gemm", "Gather"), 1),
        "gemm and matmul disagree": (two("Gemm", "MatMul"), None),
        "matmul and left": (two("MatMul", "left"), None),
        "weight is an output": (
            lambda: net([node("MatMul", ["x", "w"], ["y"])], outputs=[*Y, info("w", [IN, OUT])]), 1,
        ),
        "transposed weight is an output": (
            lambda: net([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": T}, outputs=[*Y, info("w", [OUT, IN])]), 1,
        ),
        "captured": (captured, None), "captured too": (captured_too, None), "in a branch": (in_branch, None),
        "read in a branch, Relu": (read_in_branch("Relu"), None),
        "read in a branch, Clip": (read_in_branch("Clip"), None),
        "function": (function, None), "scan": (scan, None), "constant": (constant, 1), "ir 3": (ir3, 1),
        "lora": (lora, None), "residual": (residual, None), "deep": (deep, 4),
    }  # fmt: skip
    for kind in ("MatMul", "Gemm"):
        tails: dict[str, tuple] = {
            "Relu": (node("Relu", ["h"], ["y"]),),
            "Sigmoid": (node("Sigmoid", ["h"], ["y"]),),
            "Clip": (node("Clip", ["h", "low", "six"], ["y"]),),
            "Clip above": (node("Clip", ["h", "", "six"], ["y"]),),
            "Clip below": (node("Clip", ["h", "low"], ["y"]),),
            "Clip unbounded": (node("Clip", ["h"], ["y"]),),
            "Add Relu": (node("Add", ["z", "h"], ["s"]), node("Relu", ["s"], ["y"])),
            "Add Clip": (node("Add", ["h", "z"], ["s"]), node("Clip", ["s", "low", "six"], ["y"])),
            "two readers": (node("Relu", ["h"], ["r"]), node("Sub", ["r", "h"], ["y"])),
            "Add of itself": (node("Add", ["h", "h"], ["s"]), node("Relu", ["s"], ["y"])),
        }
        held = {"low": low, "six": six, "z": normal(OUT, seed=3)}
        for name, nodes in tails.items():
            found[f"{kind} {name}"] = (partial(tail, *nodes, kind=kind, **held), 1)
        both = [info("h", ["N", OUT]), *Y]
        found[f"{kind} product and Relu are outputs"] = (
            lambda kind=kind, both=both: tail(node("Relu", ["h"], ["y"]), kind=kind, outputs=both), 1,
        )  # fmt: skip
    return found


CASES = cases()
