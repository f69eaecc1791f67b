"""Weights whose values are far from ordinary: tiny, huge, one entry beyond all others, denormal, NaN."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import onnxprune
from onnxprune.errors import WeightError
from onnxprune_passes import Channels, Encode, Magnitude
from tests.helpers import builders
from tests.helpers.running import arrays, load, put

KINDS = {
    np.float16: TensorProto.FLOAT16,
    np.float32: TensorProto.FLOAT,
    np.float64: TensorProto.DOUBLE,
}


@st.composite
def weights(draw):
    """A matrix of a size anywhere in its type's range, with a few entries anywhere in it."""
    dtype = draw(st.sampled_from(list(KINDS)))
    info = np.finfo(dtype)
    low, high = int(np.floor(np.log10(float(info.smallest_subnormal)))), int(np.log10(float(info.max))) - 1
    values = builders.normal(64, 32, seed=draw(st.integers(0, 9)), dtype=np.float64)
    values *= 10.0 ** draw(st.integers(low, high))
    array = np.clip(values, info.min, info.max).astype(dtype)
    lone = st.one_of(st.floats(width=8 * array.itemsize, allow_nan=False, allow_infinity=False), st.just(info.min))
    for place, entry in draw(st.lists(st.tuples(st.integers(0, array.size - 1), lone), max_size=3)):
        array.reshape(-1)[place] = entry
    return array


STEPS = {
    "encode": lambda: Encode(values="auto"),
    "sparsity": lambda: Magnitude(sparsity=0.5),
    "quality": lambda: Magnitude(quality=0.5),
    "loss": lambda: Magnitude(loss=0.01),
    "block": lambda: Magnitude(sparsity=0.5, pattern="1x4"),
    "l1": lambda: Channels(sparsity=0.5),
    "l2": lambda: Channels(sparsity=0.5, score="l2"),
    **{form: (lambda form=form: Encode(values=form)) for form in ("half", "shared:4", "int8", "int8:4", "int4")},
}


@settings(max_examples=60, deadline=None)
@given(weights(), st.sampled_from(list(STEPS)))
def test_finite_values_are_never_refused_and_stay_finite(array, step):
    nodes = [builders.node("MatMul", ["x", "w"], ["h"]), builders.node("MatMul", ["h", "v"], ["y"])]
    element = KINDS[array.dtype.type]
    inputs, outputs = [builders.info("x", ["N", 64], element)], [builders.info("y", ["N", 16], element)]
    held = {"w": array, "v": builders.normal(32, 16, dtype=array.dtype)}
    opened = load(builders.model(nodes, inputs, outputs, held, opset=21, ir_version=10))
    STEPS[step]().run(opened)
    for _, _, data in arrays(opened).values():
        assert np.isfinite(np.frombuffer(data, array.dtype)).all()


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e37), (np.float64, 1e151)])
def test_what_the_layers_read_may_lie_beyond_what_is_squared(dtype, size, tmp_path):
    weights = {
        "w": builders.normal(64, 32, dtype=dtype) * dtype(size),
        "v": builders.normal(32, 16, seed=1, dtype=dtype),
    }
    nodes = [builders.node("MatMul", ["x", "w"], ["h"]), builders.node("MatMul", ["h", "v"], ["y"])]
    element = KINDS[dtype]
    proto = builders.model(
        nodes, [builders.info("x", ["N", 64], element)], [builders.info("y", ["N", 16], element)], weights
    )
    onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", loss=0.01)
    found = arrays(onnxprune.load(tmp_path / "o.onnx"))
    assert all(np.isfinite(np.frombuffer(data, np.float16)).any() for _, _, data in found.values())


@pytest.mark.parametrize("factor", [1e-16, 1e-30, 1e-42])
def test_a_weight_of_tiny_values_keeps_them(factor, tmp_path):
    path = put(tmp_path / "m.onnx", builders.matmul((builders.normal(64, 32) * factor).astype(np.float32)))
    before = arrays(onnxprune.load(path))
    onnxprune.compress(path, tmp_path / "o.onnx")
    onnxprune.decode(tmp_path / "o.onnx", tmp_path / "d.onnx")
    assert arrays(onnxprune.load(tmp_path / "d.onnx")) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5}, {"quality": 0.5}])
def test_what_is_not_finite_is_named_with_what_to_do(bad, options, tmp_path):
    weight = builders.normal(64, 32)
    weight[3, 4] = bad
    proto = builders.mlp((64, 64, 64))
    proto.graph.node.append(builders.node("MatMul", ["x", "w"], ["z"]))
    proto.graph.output.append(builders.info("z", ["N", 32]))
    proto.graph.initializer.append(builders.tensor("w", weight))
    path = put(tmp_path / "m.onnx", proto)
    with pytest.raises(WeightError, match=r"weight 'w' holds NaN or Inf: .*skip 'w'") as caught:
        onnxprune.compress(path, tmp_path / "o.onnx", verify=False, **options)
    assert "\n" not in str(caught.value)
    onnxprune.compress(path, tmp_path / "o.onnx", skip=["w"], verify=False, **options)
    kept = {t.name: t for t in onnx.load(tmp_path / "o.onnx").graph.initializer}["w"]
    assert onnx.numpy_helper.to_array(kept).tobytes() == weight.tobytes()


@pytest.mark.parametrize("step", ["quality", "l1", "l2", "loss"])
def test_sums_of_the_largest_values_leave_float64_and_nothing_is_refused(step):
    array = builders.normal(64, 32, dtype=np.float64)
    array[0, :2] = np.finfo(np.float64).min
    nodes = [builders.node("MatMul", ["x", "w"], ["h"]), builders.node("MatMul", ["h", "v"], ["y"])]
    shapes = [builders.info("x", ["N", 64], KINDS[np.float64])], [builders.info("y", ["N", 16], KINDS[np.float64])]
    held = {"w": array, "v": builders.normal(32, 16, dtype=np.float64)}
    opened = load(builders.model(nodes, *shapes, held, opset=21, ir_version=10))
    STEPS[step]().run(opened)
    assert all(np.isfinite(np.frombuffer(data, np.float64)).all() for _, _, data in arrays(opened).values())
