"""Element types that numpy lacks: 8-bit floats and what is smaller, behind DequantizeLinear or Cast."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxprune
from onnxprune.channels.coupling import couplings
from onnxprune.core.dtypes import array_dtype, numpy_dtype
from onnxprune.errors import ModelError
from onnxprune.model.model import Model
from tests.helpers import builders
from tests.helpers.running import arrays, load, put, run

SMALL = [
    name
    for name, value in TensorProto.DataType.items()
    if name.startswith(("FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")) and numpy_dtype(value) is None
]
RUNS = ("INT4", "UINT4", "INT2", "UINT2", "FLOAT8E4M3FN", "FLOAT8E5M2")  # in ONNX Runtime
SCALES = {"tensor": (), "channel": (47,), "blocks": (4, 47)}
# DequantizeLinear takes no scales of scales.
CASES = [(name, way) for name in SMALL for way in (*SCALES, "cast") if way == "cast" or name != "FLOAT8E8M0"]
X = builders.normal(3, 64, seed=5)


def drawn(name: str, *shape: int) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(shape) * (1 if "2" in name else 3)
    return (abs(values) if name.startswith("U") or name.endswith("E8M0") else values).astype(
        array_dtype(TensorProto.DataType.Value(name))
    )


def network(name: str, way: str, weight: np.ndarray | None = None) -> onnx.ModelProto:
    """x @ w, w small, then Relu and a float matrix that reads all but three of the 47 features."""
    last = builders.normal(47, 40, seed=1)
    last[[3, 20, 46]] = 0
    weights = {"w": drawn(name, 64, 47) if weight is None else weight, "last": last}
    if way == "cast":
        first = builders.node("Cast", ["w"], ["v"], to=TensorProto.FLOAT)
    else:
        weights["scale"] = np.full(SCALES[way], 0.05, np.float32)
        blocks = {"axis": 0, "block_size": 16} if way == "blocks" else {"axis": 1}
        first = builders.node("DequantizeLinear", ["w", "scale"], ["v"], **blocks)
    nodes = [
        first,
        builders.node("MatMul", ["x", "v"], ["h"]),
        builders.node("Relu", ["h"], ["r"]),
        builders.node("MatMul", ["r", "last"], ["y"]),
    ]
    inputs, outputs = [builders.info("x", ["N", 64])], [builders.info("y", ["N", 40])]
    newest = name.startswith("FLOAT6")
    return builders.model(nodes, inputs, outputs, weights, opset=28 if newest else 25, ir_version=14 if newest else 13)


def computed(proto: onnx.ModelProto) -> np.ndarray:
    return ReferenceEvaluator(proto).run(None, {"x": X})[0]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_dead_channels_of_a_small_type_go_and_the_outputs_stay(name, way, tmp_path):
    proto = network(name, way)
    result = onnxprune.strip(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", verify=name in RUNS)
    after = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(computed(after), computed(proto), rtol=1e-5, atol=1e-5)
    if name in RUNS:
        np.testing.assert_allclose(run(after, {"x": X})[0], run(proto, {"x": X})[0], rtol=1e-5, atol=1e-5)
    left = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    if way != "blocks":
        assert {removed.name: len(removed.indices) for removed in result.removed}["w"] == 3
        kept = np.delete(drawn(name, 64, 47), [3, 20, 46], axis=1)
        assert left["w"].dtype == kept.dtype
        assert np.array_equal(left["w"], kept)


@pytest.mark.parametrize(("name", "way"), CASES)
def test_weights_of_a_small_type_are_listed_and_left_alone(name, way, tmp_path):
    proto = network(name, way)
    path = put(tmp_path / "m.onnx", proto)
    (found,) = [w for w in onnxprune.inspect(path) if w["name"] == "w"]
    weight = drawn(name, 64, 47)
    assert found["total"] == 64 * 47
    assert found["zeros"] == np.count_nonzero(weight.astype(np.float32) == 0)
    assert found["left_alone"]
    onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.5, strip=False, verify=name in RUNS)
    onnxprune.decode(tmp_path / "o.onnx", tmp_path / "d.onnx", verify=False)
    assert arrays(onnxprune.load(tmp_path / "d.onnx"))["w"][2] == weight.tobytes()


def test_zeros_of_a_small_type_count_from_its_zero_point(tmp_path):
    weight = drawn("UINT4", 64, 47)
    proto = network("UINT4", "tensor", weight)
    proto.graph.initializer.append(builders.tensor("zero", np.array(3, weight.dtype)))
    proto.graph.node[0].input.append("zero")
    (found,) = [w for w in onnxprune.inspect(put(tmp_path / "m.onnx", proto)) if w["name"] == "w"]
    assert found["zeros"] == np.count_nonzero(weight.astype(np.int32) == 3)


@given(st.sampled_from(SMALL), st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_values_of_a_small_type_are_read_as_they_were_written(name, shape):
    opened, values = Model(onnx.ModelProto()), drawn(name, *shape)
    tensor = opened.tensor("w", values, TensorProto.DataType.Value(name))
    assert np.array_equal(opened.array(tensor), values)
    assert np.array_equal(numpy_helper.to_array(tensor), values)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_sixteen_bit_weights_are_counted_pruned_and_encoded(dtype, tmp_path):
    info = np.iinfo(dtype)
    middle = (info.max + info.min + 1) // 2
    values = np.random.default_rng(0).integers(info.min, info.max, (64, 32), dtype, endpoint=True)
    nodes = [
        builders.node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        builders.node("MatMul", ["x", "v"], ["y"]),
    ]
    weights = {"w": values, "s": np.array(1e-4, np.float32), "z": np.array(middle, dtype)}
    proto = builders.model(
        nodes, [builders.info("x", ["N", 64])], [builders.info("y", ["N", 32])], weights, opset=21, ir_version=10
    )
    path = put(tmp_path / "m.onnx", proto)
    assert [row["total"] for row in onnxprune.inspect(path)] == [64 * 32]
    result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.9, values="exact")
    assert result.ratio > 2
    onnxprune.decode(tmp_path / "o.onnx", tmp_path / "d.onnx")
    (left,) = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "d.onnx").graph.initializer if t.name == "w"]
    distance = abs(values.astype(int) - middle)
    order = np.argsort(distance.reshape(-1), kind="stable")[: round(0.9 * values.size)]
    expected = values.copy()
    expected.reshape(-1)[order] = middle
    assert np.array_equal(left, expected)
    quality = onnxprune.compress(path, tmp_path / "q.onnx", quality=0.5, values="exact").weights[0].zeros
    signed = values.astype(float) - middle
    assert quality == np.count_nonzero(abs(signed) < 0.5 * signed.std())


def test_constants_that_nothing_here_computes_keep_their_channels():
    """The operator is unknown with this type: what it makes is no constant, and all of it stays."""
    proto = network("INT4", "tensor")
    proto.graph.node[0].domain = "com.microsoft"
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    opened = load(proto)
    (coupling,) = couplings(opened)
    assert not coupling.is_constant("v")
    with pytest.raises(ModelError, match="'v' cannot be computed"):
        coupling.array("v")
    assert any("cannot be computed here" in note for note in coupling.notes())


@pytest.mark.parametrize("options", [{}, {"loss": 0.001}, {"values": "shared:6"}], ids=["default", "loss", "shared"])
@pytest.mark.parametrize(("dtype", "zero"), [(np.int16, 0), (np.uint16, 28655), (np.uint16, 40001)])
def test_entries_at_the_ends_of_a_type_do_not_come_out_at_the_other_end(dtype, zero, options, tmp_path):
    info = np.iinfo(dtype)
    values = np.clip(np.rint(builders.normal(64, 96) * 6000 + zero), info.min, info.max).astype(dtype)
    values[3, 5], values[7, 11] = info.min, info.max
    nodes = [builders.node("DequantizeLinear", ["w", "s", "z"], ["v"]), builders.node("MatMul", ["x", "v"], ["y"])]
    held = {"w": values, "s": np.array(1e-4, np.float32), "z": np.array(zero, dtype)}
    x, y = builders.info("x", ["N", 64]), builders.info("y", ["N", 96])
    path = put(tmp_path / "m.onnx", builders.model(nodes, [x], [y], held, opset=21, ir_version=10))
    assert onnxprune.compress(path, tmp_path / "o.onnx", **options).ratio > 1.5
    onnxprune.decode(tmp_path / "o.onnx", tmp_path / "d.onnx")
    (left,) = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "d.onnx").graph.initializer if t.name == "w"]
    assert abs(left.astype(int) - values.astype(int)).max() < 12000
