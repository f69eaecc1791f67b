"""The pass: ONNX Runtime computes the chosen nodes in integers, near what they were."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxprune.activations.quantise import STEPS
from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import layer_of
from onnxprune.calibration.moments import moments
from onnxprune.errors import DataError, OptionError
from onnxprune.model.discovery import find
from onnxprune_passes import Activations, Decode, Encode
from tests.activations.networks import closed, conv, residual, samples
from tests.helpers.builders import node
from tests.helpers.running import load, run, serialise


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, x=samples())
    return path


def silu():
    weights: dict[str, np.ndarray] = {}
    nodes = [
        conv("x", "a", 8, 16, 1, weights),
        node("Sigmoid", ["a"], ["s"]),
        node("Mul", ["a", "s"], ["m"]),
        node("MaxPool", ["m"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", ["m", "p"], ["c"], axis=1),
        conv("c", "b", 32, 16, 2, weights),
        node("Relu", ["b"], ["r"]),
    ]
    return closed(nodes, "r", 16, weights)


def rounded(proto, data, **options):
    opened = load(proto)
    change = Activations(data=str(data), **options).run(opened)
    return opened, change


def operators(model: bytes, tmp_path) -> Counter:
    """Of the graph that ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(each.op_type for each in onnx.load(tmp_path / "optimised.onnx").graph.node)


def sqnr(before: np.ndarray, after: np.ndarray) -> float:
    return float(10 * np.log10(np.square(before).sum() / np.square(before - after).sum()))


@pytest.mark.parametrize(
    ("make", "kernels"),
    [
        (residual, {"QLinearConv": 2, "QLinearAdd": 1, "Relu": 0}),
        (silu, {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1, "QLinearConcat": 1, "Relu": 0}),
        (lambda: residual(11), {"QLinearConv": 2, "QLinearAdd": 1}),
        (lambda: residual(9, ir_version=3), {"QLinearConv": 2, "QLinearAdd": 1}),
    ],
    ids=["residual", "silu", "opset 11", "IR 3"],
)
def test_onnxruntime_computes_in_integers_near_what_it_was(make, kernels, data, tmp_path):
    proto = make()
    opened, change = rounded(proto, data)
    onnx.checker.check_model(serialise(opened), full_check=True)
    made = operators(serialise(opened), tmp_path)
    assert {kind: made[kind] for kind in kernels} == kernels
    assert made["Conv"] + made["FusedConv"] == 1  # the last
    assert change.modified
    assert change.integers == [f"Conv_{name}" for name in ("a", "b")]
    feeds = {"x": samples(4, seed=9)}
    assert sqnr(run(proto, feeds)[0], run(serialise(opened), feeds)[0]) > 22


def test_a_sum_of_two_is_an_add_and_a_batch_norm_is_folded(data, tmp_path):
    proto = residual()
    proto.graph.node[3].op_type = "Sum"
    proto.graph.node[0].output[0] = "raw"
    names = [f"norm.{part}" for part in ("gamma", "beta", "mean", "variance")]
    for number, name in enumerate(names):
        proto.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.full(16, 0.5 + number, "f"), name))
    proto.graph.node.insert(1, node("BatchNormalization", ["raw", *names], ["a"]))
    opened, _ = rounded(proto, data)
    made = operators(serialise(opened), tmp_path)
    assert (made["QLinearConv"], made["QLinearAdd"], made["BatchNormalization"]) == (2, 1, 0)
    feeds = {"x": samples(4, seed=9)}
    assert sqnr(run(proto, feeds)[0], run(serialise(opened), feeds)[0]) > 22


def test_products_of_two_bytes_do_not_saturate_in_16_bits(data):
    """2 * 255 * STEPS has to fit: processors without VNNI add two products there."""
    assert 2 * 255 * STEPS < 2**15
    opened, _ = rounded(residual(), data)
    proto = onnx.load_from_string(serialise(opened))
    integers = [each.output[0] for each in proto.graph.node if each.op_type == "QuantizeLinear" and each.attribute]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in integers)
    found = run(proto, {"x": samples(1)}, optimised=False)[1:]
    assert [np.abs(each.astype(int)).reshape(len(each), -1).max(1).tolist() for each in found] == [[STEPS] * 16] * 2


def test_activations_of_relu_start_at_zero_point_0(data):
    opened, _ = rounded(residual(), data)
    zeros = {t.name: onnx.numpy_helper.to_array(t) for t in opened.proto.graph.initializer if t.name.endswith(".zero")}
    assert (zeros["a.relu.zero"], zeros["sum.relu.zero"]) == (0, 0)
    assert zeros["x.zero"] > 0
    assert zeros["b.zero"] > 0


def test_weights_keep_their_names_and_zeros_and_are_encoded_as_ever(data):
    proto = residual()
    opened, _ = rounded(proto, data)
    weights = {weight.name: weight for weight in find(opened)}
    for name in ("a.weight", "b.weight"):
        assert (weights[name].kind, weights[name].out_axis, weights[name].dtype) == ("conv", 0, "float32")
        np.testing.assert_array_equal(weights[name].array(opened), dict(arrays(proto))[name])
    layers = [layer_of(weights[name], {}) for name in ("a.weight", "b.weight")]
    assert all(found is not None for found in moments(opened, layers, CalibrationSet(data, 8)))

    before = serialise(opened)
    Encode(values="shared:4").run(opened)
    assert len(serialise(opened)) < 0.6 * len(before)
    feeds = {"x": samples(4, seed=9)}
    assert sqnr(run(before, feeds)[0], run(serialise(opened), feeds)[0]) > 15
    decoded = load(onnx.load_from_string(serialise(opened)))
    Decode().run(decoded)
    assert run(serialise(decoded), feeds)[0].tobytes() == run(serialise(opened), feeds)[0].tobytes()


def arrays(proto):
    return [(t.name, onnx.numpy_helper.to_array(t)) for t in proto.graph.initializer]


@pytest.mark.parametrize(("tiny", "rest", "bias"), [(1e-9, 1, 10), (0, 1e-2, 0.05)])
def test_a_bias_that_is_large_for_its_channel_stays(tiny, rest, bias, data):
    proto = residual()
    factors = {"b.weight": np.float32([tiny] * 8 + [rest] * 8).reshape(-1, 1, 1, 1), "b.bias": np.float32(bias)}
    for tensor in proto.graph.initializer:
        if tensor.name in factors:
            array = onnx.numpy_helper.to_array(tensor) * factors[tensor.name]
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    proto.graph.node[3].input[1] = "b"  # the sum: nothing larger hides the channels
    feeds = {"x": samples(4, seed=9)}
    assert sqnr(run(proto, feeds)[0], run(serialise(rounded(proto, data)[0]), feeds)[0]) > 40


def test_the_same_bytes_again_and_nothing_the_second_time(data):
    first, _ = rounded(residual(), data)
    again, _ = rounded(residual(), data)
    assert serialise(first) == serialise(again)
    once = serialise(first)
    assert not Activations(data=str(data)).run(first).modified
    assert serialise(first) == once


def test_halves_calibrate_on_other_samples(data):
    assert serialise(rounded(residual(), data)[0]) != serialise(rounded(residual(), data, half=True)[0])


def test_values_that_are_not_finite_and_data_that_does_not_fit_are_refused(tmp_path):
    bad = samples(2)
    bad[0, 0, 0, 0] = np.inf
    np.savez(tmp_path / "inf.npz", x=bad)
    with pytest.raises(DataError, match="'x' is not finite"):
        rounded(residual(), tmp_path / "inf.npz")
    np.savez(tmp_path / "other.npz", z=bad)
    with pytest.raises(DataError, match="no array named 'x'"):
        rounded(residual(), tmp_path / "other.npz")
    with pytest.raises(OptionError, match="data is wanted"):
        Activations(data="")
