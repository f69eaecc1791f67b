"""Tables of integers: quantisers leave them to be dequantised row by row, behind the node that takes rows."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

import onnxprune
from onnxprune.model.discovery import find
from onnxprune.model.weight import Kind
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, put, run

ROWS, WIDTH, ZERO = 512, 64, 138
NUMBERS = info("ids", ["N", "T"], TensorProto.INT64)
IDS = np.arange(ROWS, dtype=np.int64).reshape(8, -1)


def table() -> np.ndarray:
    return np.clip(np.rint(normal(ROWS, WIDTH, seed=3) * 11 + ZERO), 0, 255).astype(np.uint8)


def quantised(*behind, zero=ZERO, readers=("rows",)):
    """A table of bytes, and what stands between its rows and the nodes that dequantise them."""
    nodes = [node("Gather", ["w", "ids"], ["rows"]), *behind]
    nodes += [node("DequantizeLinear", [name, "s", f"z{at}"], [f"y{at}"]) for at, name in enumerate(readers)]
    zeros = np.broadcast_to(zero, len(readers)).astype(np.uint8)
    held = {"w": table(), "s": np.float32(0.01)} | {f"z{at}": np.uint8(each) for at, each in enumerate(zeros)}
    outputs = [info(f"y{at}", None) for at in range(len(readers))]
    return model(nodes, [NUMBERS], outputs, {name: np.asarray(value) for name, value in held.items()})


def the_table(proto):
    return next(weight for weight in find(load(proto)) if weight.name == "w")


@pytest.mark.parametrize(
    "proto",
    [
        quantised(),
        quantised(node("Transpose", ["rows"], ["t"], perm=[0, 2, 1]), readers=("t",)),
        quantised(node("Unsqueeze", ["rows", "axis"], ["u"]), node("Identity", ["u"], ["i"]), readers=("i", "rows")),
    ],
    ids=["at once", "turned", "twice"],
)
def test_the_zero_point_is_found_behind_the_rows(proto):
    if any("axis" in each.input for each in proto.graph.node):
        proto.graph.initializer.add(name="axis", dims=[1], data_type=TensorProto.INT64, int64_data=[0])
    found = the_table(proto)
    assert found.zero == ZERO
    assert found.kind == "embedding"


@pytest.mark.parametrize(
    "proto",
    [
        quantised(node("Cast", ["rows"], ["c"], to=TensorProto.FLOAT), readers=("rows",)),
        quantised(zero=(3, 4), readers=("rows", "rows")),
    ],
    ids=["read as numbers", "two zero points"],
)
def test_integers_that_count_from_nobody_knows_where_are_kept(tmp_path, proto):
    if proto.graph.node[1].op_type == "Cast":
        proto.graph.output.append(info("c", None))
    assert the_table(proto).reason.kind is Kind.QUANTIZATION
    source = put(tmp_path / "m.onnx", proto)
    for options in ({}, {"loss": 0.3}, {"values": "int4"}, {"values": "shared:2"}):
        onnxprune.compress(source, tmp_path / "o.onnx", **options)
        before, after = (run(path.read_bytes(), {"ids": IDS}) for path in (source, tmp_path / "o.onnx"))
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_its_rows_keep_to_the_loss(tmp_path):
    """A loss is a share of what the rows are worth, however far from 0 they are stored."""
    source = put(tmp_path / "m.onnx", quantised())
    onnxprune.compress(source, tmp_path / "o.onnx", loss=0.02)
    before, after = (run(path.read_bytes(), {"ids": IDS})[0] for path in (source, tmp_path / "o.onnx"))
    lost = np.square(after - before).sum() / np.square(before).sum()
    assert 0 < lost < 0.1  # a table counts a quarter


def test_what_onnxruntime_quantises_keeps_its_answers(tmp_path):
    nodes = [node("Gather", ["t", "ids"], ["e"]), node("MatMul", ["e", "w"], ["y"])]
    held = {"t": normal(ROWS, WIDTH), "w": normal(WIDTH, 256, seed=1)}
    floats = put(tmp_path / "f.onnx", model(nodes, [NUMBERS], [info("y", None)], held))
    quantize_dynamic(floats, tmp_path / "m.onnx")
    onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx")
    before, after = (run((tmp_path / name).read_bytes(), {"ids": IDS})[0] for name in ("m.onnx", "o.onnx"))
    assert np.square(after - before).sum() < 0.03 * np.square(before).sum()


@pytest.mark.parametrize("reader", ["QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearMatMul"])
def test_operators_between_integers_say_what_the_rows_count_from(reader, tmp_path):
    operand = ["rows", "s", "z"]
    other = {"QLinearMatMul": ["w2", "s", "z2"], "QLinearConcat": []}.get(reader, ["row", "s", "z2"])
    ends = ["so", "zo"]
    microsoft = reader != "QLinearMatMul"
    inputs = [*ends, *operand] if reader == "QLinearConcat" else [*operand, *other, *ends]
    nodes = [
        node("Gather", ["w", "ids"], ["rows"]),
        node(reader, inputs, ["q"], **({"domain": "com.microsoft"} if microsoft else {}),
             **({"axis": 0} if reader == "QLinearConcat" else {})),
        node("DequantizeLinear", ["q", "so", "zo"], ["y"]),
    ]  # fmt: skip
    held = {"w": table(), "row": table()[5], "w2": table()[:WIDTH], "s": np.float32(0.01), "z": np.uint8(ZERO)}
    held |= {"z2": np.uint8(130), "so": np.float32(0.02), "zo": np.uint8(128)}
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    arrays = {name: np.asarray(each) for name, each in held.items() if name in {i for n in nodes for i in n.input}}
    proto = model(nodes, [NUMBERS], [info("y", None)], arrays, opset_imports=imports)
    assert the_table(proto).zero == ZERO
    source = put(tmp_path / "m.onnx", proto)
    assert onnxprune.compress(source, tmp_path / "o.onnx").ratio > 1.1
    before, after = (run(path.read_bytes(), {"ids": IDS})[0] for path in (source, tmp_path / "o.onnx"))
    assert np.square(after - before).sum() < 0.1 * np.square(before).sum()


@pytest.mark.parametrize(("zero_points", "said"), [(3, "zero point"), (0, "scale")])
def test_what_does_not_fit_the_shape_is_named(zero_points, said):
    dequantised = node("DequantizeLinear", ["w", "s", "z"] if zero_points else ["w", "s"], ["d"], axis=1)
    held = {"w": table(), "s": np.full(3, 0.01, np.float32)}
    if zero_points:
        held["z"] = np.full(zero_points, ZERO, np.uint8)
    proto = model([dequantised, node("MatMul", ["x", "d"], ["y"])], [info("x", ["n", ROWS])], [info("y", None)], held)
    assert the_table(proto).reason.text == f"its {said} does not fit its shape"
