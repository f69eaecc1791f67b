"""Weights that ONNX Runtime reads as small integers: equal outputs, fused kernels, and the way back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxprune import Model
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.scopes import scopes_of
from onnxprune_passes import Decode, Encode
from tests.encodings.products import CASES, net
from tests.helpers.builders import info, model, node, normal
from tests.helpers.deep import chain
from tests.helpers.running import feeds_of, load, newest_opset, run, serialise

FORMS = ("int8", "int8:4", "int4", "auto")
FUSES = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 32)


@pytest.fixture(autouse=True, scope="module")
def small_weights_are_fused() -> Iterator[None]:
    """As `auto` does with large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.encodings.smallest._KERNEL_PAYS", 0)
        yield


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


@pytest.mark.parametrize("values", ["shared:4", "half"])
def test_forms_without_a_kernel_put_unit_dimensions_back(values):
    data, dense = encoded("unit dimensions in front", values)
    before = CASES["unit dimensions in front"][0]()
    assert skeleton(onnx.load_from_string(dense)) == skeleton(before)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    np.testing.assert_array_equal(run(data, feeds_of(before))[0], run(dense, feeds_of(before))[0])


def test_a_weight_whose_shape_is_declared_keeps_its_unit_dimensions():
    proto = CASES["unit dimension in front"][0]()
    proto.graph.value_info.append(info("w", [1, 128, 64]))
    opened = load(proto)
    Encode(values="int8").run(opened)
    (weight,) = encoded_weights(opened)
    assert not weight.fused
    onnx.checker.check_model(onnx.load_from_string(serialise(opened)), full_check=True)


@pytest.mark.parametrize("name", ["deep", "lora", "function", "two gemms", "unit dimensions in front"])
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


def behind(*operators: str | tuple[str, float]) -> onnx.ModelProto:
    """A product and what is computed of it, entry by entry; a number is the second operand."""
    nodes, held, last = [node("MatMul", ["x", "w"], ["h0"])], {"w": np.abs(normal(128, 64))}, "h0"
    for place, each in enumerate(operators, 1):
        kind, operand = each if isinstance(each, tuple) else (each, None)
        inputs = [last] if operand is None else [last, f"c{place}"]
        held |= {} if operand is None else {f"c{place}": np.array([operand], np.float32)}
        last = f"h{place}"
        nodes.append(node(kind, inputs[::-1] if kind == "Div" and operand == 1 else inputs, [last]))
    nodes[-1].output[0] = "y"
    return net(nodes, held, [info("x", ["N", 128])], [info("y", ["N", 64])])


@pytest.mark.parametrize("values", ["int8", "auto"])
@pytest.mark.parametrize(
    ("operators", "fused"),
    [
        (["Log"], False), ([("Add", 1e-6), "Log"], False), ([("Max", 1e-5), "Abs", ("Mul", 20.0), "Sqrt"], False),
        ([("Pow", 0.5)], False), ([("Pow", -1.0)], False), ([("Div", 1)], False), (["Reciprocal"], False),
        ([("Pow", 2.0)], True), ([("Div", 8.0)], True), (["Sigmoid", "Log"], True), ([("Add", 0.5), "Tanh"], True),
    ],
    ids=str,
)  # fmt: skip
def test_products_of_which_logarithms_and_quotients_are_taken_stay_floats(operators, fused, values):
    """Inputs like the powers of a sound: the kernel would round the small ones to 0 beside the large."""
    proto = behind(*operators)
    opened = load(proto)
    Encode(values=values).run(opened)
    (weight,) = encoded_weights(opened)
    assert weight.fused == fused
    rng = np.random.default_rng(0)
    feeds = {"x": (10.0 ** rng.uniform(-9, 2, (16, 128)) * (rng.random((16, 128)) < 0.9)).astype(np.float32)}
    if not fused:
        data = serialise(opened)
        Decode().run(opened)
        expected, got = run(serialise(opened), feeds)[0], run(data, feeds)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def behind_integers(*moves: tuple[str, dict[str, list[int]]]) -> onnx.ModelProto:
    """A product with activations that were dequantised, and moved then."""
    scale, zero = np.array(0.03, np.float32), np.array(128, np.uint8)
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["v0"]),
    ]
    for place, (kind, attributes) in enumerate(moves):
        nodes.append(node(kind, [f"v{place}"], [f"v{place + 1}"], **attributes))
    nodes.append(node("MatMul", [f"v{len(moves)}", "w"], ["y"]))
    held = {"w": normal(512, 128), "scale": scale, "zero": zero}
    return model(nodes, [info("x", ["N", 512])], [info("y", ["N", 128])], held, opset=21)


@pytest.mark.parametrize("values", ["int8", "int4", "auto"])
@pytest.mark.parametrize("moves", [[], [("Transpose", {"perm": [1, 0]})] * 2])
def test_products_with_what_was_dequantised_are_right_whatever_the_batch(moves, values):
    """Optimised, blocks of inputs would be taken for rows: 1 and 2 rows were right, others wrong or refused."""
    opened = load(behind_integers(*moves))
    Encode(values=values).run(opened)
    data = serialise(opened)
    for rows in (1, 2, 3, 4, 8):
        feeds = {"x": np.random.default_rng(rows).standard_normal((rows, 512)).astype(np.float32)}
        expected, got = run(data, feeds, optimised=False)[0], run(data, feeds)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_a_product_may_have_any_number_of_biases():
    nodes = [node("MatMul", ["x", "w"], ["h"]), *chain("Add", "h", "g", "b", length=1500), node("Relu", ["g"], ["y"])]
    weights = {"w": normal(256, 128), "b": normal(128)}
    opened = load(model(nodes, [info("x", ["N", 256])], [info("y", ["N", 128])], weights, opset=21, ir_version=10))
    Encode(values="int8").run(opened)
    assert opened.proto.graph.node[-1].op_type == "Max"
