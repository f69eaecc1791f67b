"""Weights that ONNX Runtime reads as small integers: equal outputs, fused kernels, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxprune import Model
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.scopes import scopes_of
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal, tensor
from tests.helpers.running import feeds_of, load, newest_opset, run, serialise

IN, OUT = 128, 64  # 8,192 elements: enough for a kernel of its own
FORMS = ("int8", "int8:4", "int4", "auto")
X, Y = [info("x", ["N", IN])], [info("y", ["N", OUT])]
W, T = normal(IN, OUT, seed=1), normal(OUT, IN, seed=1)
B = normal(OUT, seed=2)
W.flags.writeable = T.flags.writeable = B.flags.writeable = False
FLAG = info("c", [], TensorProto.BOOL)
FUSES = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 32)


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


@cache
def encoded(name: str, values: str) -> tuple[bytes, bytes]:
    """(encoded, decoded) files."""
    opened = load(CASES[name][0]())
    Encode(values=values).run(opened)
    assert encoded_weights(opened)
    data = serialise(opened)
    Decode().run(opened)
    assert not encoded_weights(opened)
    return data, serialise(opened)


def optimised(data: bytes, path) -> list[onnx.NodeProto | onnx.GraphProto]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [scope.body for top in scopes_of(onnx.load(path)) for scope in top.inner()]


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Everything but the values of tensors and the order of initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for scope in (inner for top in scopes_of(copy) for inner in top.inner()):
        for attribute in (a for n in scope.body.node for a in n.attribute if a.HasField("t")):
            attribute.t.ClearField("raw_data")
            attribute.t.ClearField("name")
        if isinstance(scope.body, onnx.GraphProto):
            held = sorted(scope.body.initializer, key=lambda t: t.name)
            for each in held:
                each.ClearField("raw_data")
            del scope.body.initializer[:]
            scope.body.initializer.extend(held)
    return copy


TAILS = re.compile("(MatMul|Gemm) ")
EVERY = [(name, values) for name in CASES for values in (FORMS[1:3] if TAILS.match(name) else FORMS)]
every = pytest.mark.parametrize(("name", "values"), EVERY, ids=[f"{n}-{v}" for n, v in EVERY])


@every
def test_the_outputs_are_those_of_the_decoded_model(name, values):
    data, dense = encoded(name, values)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    for flag in (True, False):
        feeds = feeds_of(onnx.load_from_string(dense), flag=flag)
        expected, exact, fast = run(dense, feeds, optimised=False), run(data, feeds, optimised=False), run(data, feeds)
        for want, same, near in zip(expected, exact, fast, strict=True):
            size = float(np.linalg.norm(want)) + 1e-30
            assert np.linalg.norm(same - want) <= 1e-5 * size
            assert np.linalg.norm(near - want) <= 0.02 * size


@every
def test_kernels_read_integers_or_the_weight_is_decoded_at_load(name, values, tmp_path):
    data, _ = encoded(name, values)
    kinds = []
    for body in optimised(data, tmp_path / "optimised.onnx"):
        kinds += [n.op_type for n in body.node]
        fixed = {t.name for t in body.initializer} if isinstance(body, onnx.GraphProto) else set()
        for each in body.node:
            named = [i for i in each.input if i]
            if (named and fixed.issuperset(named)) or each.op_type == "Constant":
                fixed.update(each.output)
                assert each.op_type == "Constant", f"{each.op_type} decodes at run time"
    if FUSES and CASES[name][1] is not None:
        assert kinds.count("MatMulNBits") == CASES[name][1]
        assert "DequantizeLinear" not in kinds


@every
def test_decode_restores_the_graph(name, values):
    before, after = CASES[name][0](), onnx.load_from_string(encoded(name, values)[1])
    if name == "ir 3":  # its weight comes back as a Constant: an initializer would have to be an input
        assert [n for n in after.graph.node if n.op_type != "Constant"] == list(before.graph.node)
    else:
        assert skeleton(after) == skeleton(before)


@pytest.mark.parametrize("name", ["deep", "lora", "function", "two gemms"])
def test_encoding_again_changes_nothing(name):
    data, _ = encoded(name, "int8")
    again = load(onnx.load_from_string(data))
    assert not Encode(values="int8").run(again).modified
    assert again.proto == onnx.load_from_string(data)
    repeated: Model = load(CASES[name][0]())
    Encode(values="int8").run(repeated)
    assert serialise(repeated) == data


@pytest.mark.parametrize("values", ["int8", "int4"])
@pytest.mark.parametrize("opset", [12, 13, 20, newest_opset()])
@pytest.mark.parametrize("name", ["residual", "two matmuls", "gemm as torch writes it"])
def test_every_opset_loads(name, opset, values):
    """Above what DequantizeLinear has a kernel for, a weight that does not fuse must not need it."""
    proto = CASES[name][0]()
    proto.opset_import[0].version = opset
    opened = load(proto)
    Encode(values=values).run(opened)
    data = serialise(opened)
    Decode().run(opened)
    feeds = feeds_of(proto)
    for near, want in zip(run(data, feeds), run(serialise(opened), feeds), strict=True):
        assert np.linalg.norm(near - want) <= 0.02 * np.linalg.norm(want)


@pytest.mark.parametrize("values", FORMS)
@pytest.mark.parametrize("shape", [(64, 63), (1, 4096), (4096, 1), (4095, 2), (70, 61), (33, 200)])
def test_odd_shapes(values, shape):
    rows, columns = shape
    proto = net(
        [node("MatMul", ["x", "w"], ["y"])],
        {"w": normal(*shape)},
        [info("x", ["N", rows])],
        [info("y", ["N", columns])],
    )
    opened = load(proto)
    Encode(values=values).run(opened)
    data = serialise(opened)
    Decode().run(opened)
    feeds = {"x": normal(5, rows, seed=2)}
    expected = run(serialise(opened), feeds, optimised=False)[0]
    size = np.linalg.norm(expected)
    assert np.linalg.norm(run(data, feeds, optimised=False)[0] - expected) <= 1e-5 * size
    assert np.linalg.norm(run(data, feeds)[0] - expected) <= 0.02 * size
