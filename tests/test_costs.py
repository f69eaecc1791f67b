"""What layers cost: the paper's tables from its shapes and shares, activations against numpy, every kind of graph."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import DataError, OptionError
from onnxprune.layer_costs.costs import Costs, LayerCost
from onnxprune.layer_costs.flops import layers
from tests.helpers import builders
from tests.helpers.builders import MODELS, info, model, node, normal
from tests.helpers.repository import DIGITS, LENETS
from tests.helpers.running import run

FAR, TINY = 1e6, 1e-6  # such biases decide alone, with such weights, whether a neuron is active


def costs_of(proto: onnx.ModelProto, folder: Path, **arrays: np.ndarray) -> Costs:
    path = folder / "m.onnx"
    onnx.save(proto, path)
    if not arrays:
        return onnxprune.costs(path, samples=2)
    np.savez(folder / "data.npz", **arrays)
    return onnxprune.costs(path, data=folder / "data.npz")


def by_name(costs: Costs) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in costs.layers}


def shown(number: float) -> str:
    """A count as the paper prints it."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= factor:
            value = number / factor
            return f"{value:.1f}B" if unit == "B" else f"{math.floor(value + 0.5)}{unit}"
    return f"{number / 1e3:.1f}K"


def percent(share: float | None) -> int:
    assert share is not None
    return round(100 * share)


# the paper's tables -------------------------------------------------------------------------------

# weight's shape, Weight % and Act % (to a digit more than printed where the printed FLOP % asks for it), pool, padding,
# stride, groups; a fraction of a channel that is active is active in that share of the samples
LENET_300 = [((300, 784), 8, 38.4), ((100, 300), 9.4, 65), ((10, 100), 26, 100)]
LENET_5 = [((20, 1, 5, 5), 66, 82), ((50, 20, 5, 5), 12, 72), ((500, 800), 8, 55), ((10, 500), 19, 100)]
ALEXNET = [
    ((96, 3, 11, 11), 84, 88), ((256, 48, 5, 5), 38, 52), ((384, 256, 3, 3), 35, 37), ((384, 192, 3, 3), 37, 39.6),
    ((256, 192, 3, 3), 36.6, 34), ((4096, 9216), 9, 36), ((4096, 4096), 9, 40), ((1000, 4096), 25, 100),
]  # fmt: skip
VGG_16 = [
    (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256), (512, 512), (512, 512),
    (512, 512), (512, 512), (512, 512),
]  # fmt: skip


def network(
    layers: Sequence[tuple], inputs: Sequence[int], samples: int = 1, pools: dict[int, tuple[int, int]] | None = None,
    convs: dict[int, dict] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """Conv or Gemm, Relu, MaxPool of (kernel, stride): weights of exactly these shares, biases set what is active."""
    nodes, weights, value = [], {}, "x"
    for number, (shape, density, active) in enumerate(layers):
        size = math.prod(shape)
        flat = np.zeros(size, np.float32)
        flat[: round(density / 100 * size)] = TINY
        bias = np.full(shape[0], -FAR, np.float32)
        bias[shape[0] - int(active / 100 * shape[0]) :] = FAR
        if number == 0:  # of channel 0 a share of the samples is active, which go up by 1
            part = active / 100 * shape[0] % 1
            bias[0] = -TINY * math.prod(shape[1:]) * (samples * (1 - part) - 0.5)
        weights |= {f"w{number}": flat.reshape(shape), f"b{number}": bias}
        if len(shape) == 2 and value not in ("x", f"h{number - 1}"):
            nodes.append(node("Flatten", [value], [f"f{number}"]))
            value = f"f{number}"
        kind = {"transB": 1} if len(shape) == 2 else (convs or {}).get(number, {})
        operator = "Gemm" if len(shape) == 2 else "Conv"
        nodes.append(node(operator, [value, f"w{number}", f"b{number}"], [f"a{number}"], **kind))
        value = f"a{number}"
        if number < len(layers) - 1:
            nodes.append(node("Relu", [value], [f"h{number}"]))
            value = f"h{number}"
        if number in (pools or {}):
            kernel, stride = pools[number]
            nodes.append(
                node("MaxPool", [value], [f"p{number}"], kernel_shape=[kernel, kernel], strides=[stride, stride])
            )
            value = f"p{number}"
    return model(nodes, [info("x", ["N", *inputs])], [info(value, ["N", layers[-1][0][0]])], weights)


def steps(samples: int, shape: Sequence[int]) -> np.ndarray:
    """Sample k is k all over."""
    return np.broadcast_to(
        np.arange(samples, dtype=np.float32).reshape(-1, *[1] * len(shape)), (samples, *shape)
    ).copy()


def table(costs: Costs) -> list[tuple]:
    return [
        (
            shown(layer.parameters),
            shown(layer.flops),
            *map(percent, (layer.act_share, layer.weight_share, layer.flop_share)),
        )
        for layer in costs.layers
    ]


def sums(costs: Costs) -> tuple:
    total = costs.total
    shares = map(percent, (total.act_share, total.weight_share, total.flop_share))
    return (shown(total.parameters), shown(total.flops), *shares)


def test_lenet_300_100_as_the_paper_prints_it(tmp_path):
    costs = costs_of(network(LENET_300, [784], 10), tmp_path, x=steps(10, [784]))
    assert table(costs) == [("235K", "470K", 38, 8, 8), ("30K", "60K", 65, 9, 4), ("1K", "2K", 100, 26, 17)]
    assert sums(costs) == ("266K", "532K", 46, 8, 8)


def test_lenet_5_as_the_paper_prints_it(tmp_path):
    proto = network(LENET_5, [1, 28, 28], 10, {0: (2, 2), 1: (2, 2)})
    costs = costs_of(proto, tmp_path, x=steps(10, [1, 28, 28]))
    assert table(costs) == [
        ("0.5K", "576K", 82, 66, 66), ("25K", "3M", 72, 12, 10), ("400K", "800K", 55, 8, 6), ("5K", "10K", 100, 19, 10),
    ]  # fmt: skip
    assert costs.layers[1].flops == 3_200_000
    assert sums(costs) == ("431K", "5M", 77, 8, 16)
    assert costs.total.flops == 4_586_000


def test_alexnet_as_the_paper_prints_it(tmp_path):
    """But for conv4's 663K of 663,552 weights, and 1.5B operations where the rows' sum is 1.45B."""
    padded = {"pads": [1] * 4}
    convs = {0: {"strides": [4, 4]}, 1: {"pads": [2] * 4, "group": 2}, 2: padded, 3: padded | {"group": 2}}
    proto = network(ALEXNET, [3, 227, 227], 1, {0: (3, 2), 1: (3, 2), 4: (3, 2)}, convs | {4: convs[3]})
    costs = costs_of(proto, tmp_path, x=steps(1, [3, 227, 227]))
    assert table(costs) == [
        ("35K", "211M", 88, 84, 84), ("307K", "448M", 52, 38, 33), ("885K", "299M", 37, 35, 18),
        ("664K", "224M", 40, 37, 14), ("442K", "150M", 34, 37, 14), ("38M", "75M", 36, 9, 3), ("17M", "34M", 40, 9, 3),
        ("4M", "8M", 100, 25, 10),
    ]  # fmt: skip
    assert sums(costs) == ("61M", "1.4B", 54, 11, 30)


def test_vgg_16_does_as_many_operations_as_the_paper_prints(tmp_path):
    shapes = [(out, into, 3, 3) for out, into in VGG_16]
    proto = network([(s, 10, 50) for s in shapes], [3, 224, 224], 1, dict.fromkeys((1, 3, 6, 9, 12), (2, 2)),
                    {number: {"pads": [1] * 4} for number in range(13)})  # fmt: skip
    onnx.save(proto, tmp_path / "vgg.onnx")
    run = layers(tmp_path / "vgg.onnx", {"x": np.zeros((1, 3, 224, 224), np.float32)})
    convs = [layer.flops for layer in run if layer.kind == "Conv"]
    dense = 2 * (25088 * 4096 + 4096 * 4096 + 4096 * 1000)
    assert shown(sum(convs) + dense) == "30.9B"
    assert shown(sum(map(math.prod, shapes)) + dense // 2) == "138M"


# activations --------------------------------------------------------------------------------------


@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    samples=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_shares_are_what_numpy_counts(tmp_path, widths, samples, seed):
    rng = np.random.default_rng(seed)
    x = value = rng.integers(-2, 3, (samples, widths[0])).astype(np.float32)
    nodes, weights, expected, read = [], {}, [], 1.0
    for number, (n_in, n_out) in enumerate(pairwise(widths)):
        w, b = (rng.integers(-1, 2, shape).astype(np.float32) for shape in ((n_in, n_out), (n_out,)))
        weights |= {f"w{number}": w, f"b{number}": b}
        last = "x" if number == 0 else f"h{number - 1}"
        nodes.append(node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(node("Add", [f"m{number}", f"b{number}"], [f"a{number}"]))
        nodes.append(node("Relu", [f"a{number}"], [f"h{number}"]))
        value = np.maximum(value @ w + b, 0)
        share, density = np.count_nonzero(value) / value.size, np.count_nonzero(w) / w.size
        expected.append((density if w.size > 1 else 1.0, read, share, n_out))
        read = share
    proto = model(nodes, [info("x", ["N", widths[0]])], [info(nodes[-1].output[0], ["N", widths[-1]])], weights)
    costs = costs_of(proto, tmp_path, x=x)
    assert costs.samples == samples
    for layer, (density, read, share, neurons) in zip(costs.layers, expected, strict=True):
        assert (layer.input_share, layer.act_share, layer.neurons) == (read, share, neurons)
        assert layer.weight_share in (None, density)
        assert layer.flop_share == pytest.approx(density * read)
    total = sum(share * neurons for _, _, share, neurons in expected) / sum(widths[1:])
    assert costs.total.act_share == pytest.approx(total)


def test_a_residual_network_ends_each_way_at_the_first_value_that_a_layer_reads(tmp_path):
    """x -> c0 -> Relu r -> c1 -> Add(r) -> Relu s -> c2 -> Add(s) -> Relu t: nobody reads t."""
    nodes = [
        node("MatMul", ["x", "w0"], ["c0"]), node("Relu", ["c0"], ["r"]),
        node("MatMul", ["r", "w1"], ["c1"]), node("Add", ["c1", "r"], ["s0"]), node("Relu", ["s0"], ["s"]),
        node("MatMul", ["s", "w2"], ["c2"]), node("Add", ["c2", "s"], ["t0"]), node("Relu", ["t0"], ["t"]),
    ]  # fmt: skip
    weights = {f"w{n}": normal(8, 8, seed=n) for n in range(3)}
    proto = model(nodes, [info("x", ["N", 8])], [info("t", ["N", 8])], weights)
    x = normal(50, 8, seed=9)
    r = np.maximum(x @ weights["w0"], 0)
    s = np.maximum(r @ weights["w1"] + r, 0)
    t = np.maximum(s @ weights["w2"] + s, 0)
    shares = [np.count_nonzero(value) / value.size for value in (r, s, t)]
    assert len(set(shares)) == 3
    costs = costs_of(proto, tmp_path, x=x)
    assert [layer.act_share for layer in costs.layers] == shares
    assert [layer.flop_share for layer in costs.layers] == [1.0, *shares[:2]]
    assert costs.total.act_share == pytest.approx(np.mean(shares))


def test_layers_that_share_a_reader_count_its_neurons_once(tmp_path):
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]), node("MatMul", ["x", "w1"], ["b"]), node("Add", ["a", "b"], ["s"]),
        node("Relu", ["s"], ["r"]), node("MatMul", ["r", "w2"], ["m"]), node("ArgMax", ["m"], ["y"], axis=1),
    ]  # fmt: skip
    weights = {"w0": normal(8, 24), "w1": normal(8, 24, seed=1), "w2": normal(24, 4, seed=2)}
    proto = model(nodes, [info("x", ["N", 8])], [info("y", ["N", 1], TensorProto.INT64)], weights)
    x = normal(40, 8, seed=3)
    share = np.mean(x @ (weights["w0"] + weights["w1"]) > 0)
    first, second, last = costs_of(proto, tmp_path, x=x).layers
    assert first.act_share == second.act_share == last.flop_share == share
    assert (last.act_share, last.neurons) == (1.0, 4)  # the scores: indices are no activations
    assert costs_of(proto, tmp_path, x=x).total.act_share == pytest.approx((24 * share + 4) / 28)


def test_quantised_activations_are_zero_at_their_zero_point(tmp_path):
    """A Relu in uint8: what is below 0 becomes the zero point."""
    weights = {
        "scale": np.float32(0.05),
        "zero": np.uint8(3),
        "w": builders.normal(16, 16).astype(np.int8).view(np.uint8),
    }
    one = ["scale", "zero"]
    nodes = [
        node("Relu", ["x"], ["h"]), node("MatMul", ["h", "f"], ["m"]), node("Relu", ["m"], ["r"]),
        node("QuantizeLinear", ["r", *one], ["q"]), node("QLinearMatMul", ["q", *one, "w", *one, *one], ["yq"]),
        node("DequantizeLinear", ["yq", *one], ["y"]),
    ]  # fmt: skip
    weights |= {"f": normal(16, 16, seed=4)}
    proto = model(nodes, [info("x", ["N", 16])], [info("y", ["N", 16])], {k: np.asarray(v) for k, v in weights.items()})
    x = normal(64, 16, seed=5)
    h = np.maximum(np.maximum(x, 0) @ weights["f"], 0)
    share = np.mean(np.rint(h / np.float32(0.05)) != 0)
    first, second = costs_of(proto, tmp_path, x=x).layers
    assert first.act_share == second.input_share == pytest.approx(share, abs=1e-3)
    assert share < 0.6
    assert (second.kind, second.flops) == ("QLinearMatMul", 512)


def test_a_product_of_two_activations_has_operations_and_no_weight(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["q0"]), node("Relu", ["q0"], ["q"]),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]), node("MatMul", ["q", "k"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 5, 8])], [info("y", ["N", 5, 5])], {"w": normal(8, 16)})
    first, second = costs_of(proto, tmp_path, x=normal(20, 5, 8, seed=1)).layers
    assert (second.weights, second.parameters, second.weight_share) == ((), 0, None)
    assert second.flops == 2 * 5 * 5 * 16
    assert second.flop_share == pytest.approx(first.act_share**2)


# every kind of graph ------------------------------------------------------------------------------


def without_times_and_bytes(costs: Costs) -> dict:
    facts = costs.facts()
    for part in (facts["total"], *facts["layers"]):
        for key in ("bytes", "latency_ms", "layers_ms", "other_ms"):
            part.pop(key, None)
    facts.pop("other_ms")
    return facts


@pytest.mark.parametrize(
    ("name", "values"),
    [*((name, "int8") for name in MODELS), ("lenet-5", "exact"), ("lenet-5", "shared:4"), ("lenet-5", "int8")],
)
def test_an_encoded_model_costs_what_its_decoded_one_does(tmp_path, name, values):
    source = LENETS.get(name) or tmp_path / "m.onnx"
    if name not in LENETS:
        onnx.save(MODELS[name][0](), source)
    small, dense = tmp_path / "small.onnx", tmp_path / "dense.onnx"
    onnxprune.compress(source, small, sparsity=0.8, values=values, verify=False, strip=False)
    onnxprune.decode(small, dense, verify=False)
    encoded, decoded = onnxprune.costs(small, samples=3), onnxprune.costs(dense, samples=3)
    assert without_times_and_bytes(encoded) == without_times_and_bytes(decoded)
    assert encoded.total.bytes <= decoded.total.bytes
    assert [layer.latency_ms is None for layer in encoded.layers] == [
        layer.latency_ms is None for layer in decoded.layers
    ]
    if name == "lenet-5":
        assert encoded.total.bytes < decoded.total.bytes / 3
        assert all(layer.latency_ms for layer in encoded.layers)


def test_every_layer_of_every_model_has_its_weights_and_operations(case, tmp_path):
    proto, names = case
    costs = costs_of(proto, tmp_path)
    assert {name for layer in costs.layers for name in layer.weights} == names
    assert costs.total.flops == sum(layer.flops for layer in costs.layers) > 0
    rows = {row["name"]: row for row in onnxprune.inspect(tmp_path / "m.onnx")}
    assert costs.total.parameters == sum(rows[name]["total"] for name in names)
    assert costs.total.nonzero == sum(rows[name]["total"] - rows[name]["zeros"] for name in names)
    assert costs.total.bytes == sum(rows[name]["bytes"] for name in names)
    assert json.loads(json.dumps(costs.facts(), allow_nan=False))["samples"] == costs.samples


def test_a_weight_that_two_layers_read_counts_once(tmp_path):
    costs = costs_of(builders.shared(), tmp_path)
    assert [layer.parameters for layer in costs.layers] == [48 * 48] * 2
    assert (costs.total.parameters, costs.total.flops) == (48 * 48, 2 * 2 * 48 * 48)


def test_what_lies_in_branches_is_not_measured(tmp_path):
    proto = builders.if_branches()
    for branch in proto.graph.node[0].attribute:
        for inner in branch.g.node:
            inner.input[:] = ["x0" if name == "x" else name for name in inner.input]
    proto.graph.node.insert(0, node("MatMul", ["x", "w"], ["x0"]))
    proto.graph.initializer.append(builders.tensor("w", normal(64, 64, seed=7)))
    costs = costs_of(proto, tmp_path, x=normal(4, 64), c=np.ones(4, bool))
    layers = by_name(costs)
    first = layers["MatMul_x0"]
    assert (first.act_share, first.neurons, first.flop_share) == (None, None, 1.0)
    inside = [layer for name, layer in layers.items() if name.startswith("choice.")]
    assert all(layer.input_share is layer.act_share is layer.flop_share is None for layer in inside)
    assert layers["choice.then_branch/MatMul_a"].flops == 2 * 64 * 32
    assert layers["choice.else_branch/MatMul_h"].flops == 0
    assert costs.total.measured_flops == 2 * 64 * 64 < costs.total.flops


def test_a_loop_counts_every_turn(tmp_path):
    costs = costs_of(builders.loop(), tmp_path, x=normal(3, 32))
    (layer,) = costs.layers
    assert "Loop" not in costs.other_ms  # its time is that of its turns
    assert (layer.flops, layer.act_share, layer.flop_share) == (2 * 2 * 32 * 32, None, None)


def test_a_layer_behind_a_body_with_layers_is_measured(tmp_path):
    proto = builders.loop()
    proto.graph.node.append(node("Relu", ["y"], ["r"]))
    proto.graph.node.append(node("MatMul", ["r", "v"], ["z"]))
    proto.graph.initializer.append(builders.tensor("v", normal(32, 8)))
    proto.graph.output[0].CopyFrom(info("z", ["N", 8]))
    x = normal(30, 32)
    y = run(builders.loop(), {"x": x})[0]
    last = by_name(costs_of(proto, tmp_path, x=x))["MatMul_z"]
    assert last.flop_share == pytest.approx(np.mean(y > 0), abs=1e-3)
    assert 0 < last.flop_share < 1


def test_a_body_without_layers_is_passed_through(tmp_path):
    then, other = (
        helper.make_graph([node(kind, ["h"], [kind])], kind, [], [info(kind, ["N", 16])]) for kind in ("Relu", "Neg")
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["c"], ["r"], name="choice", then_branch=then, else_branch=other),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    inputs = [info("x", ["N", 8]), info("c", [], TensorProto.BOOL)]
    weights = {"w": normal(8, 16), "v": normal(16, 4, seed=1)}
    x = normal(20, 8, seed=2)
    proto = model(nodes, inputs, [info("y", ["N", 4])], weights)
    first, second = costs_of(proto, tmp_path, x=x[:, None], c=np.ones(20, bool)).layers
    assert first.act_share == second.flop_share == np.mean(x @ weights["w"] > 0)


def test_the_hidden_state_of_a_recurrent_layer_is_not_measured(tmp_path):
    (layer,) = costs_of(builders.lstm(), tmp_path).layers
    assert (layer.input_share, layer.flop_share) == (1.0, None)
    assert layer.act_share is not None
    assert layer.flops == 2 * 64 * (16 + 16)


def test_grouped_convolution_and_qdq(tmp_path):
    quantised = {"w": normal(8, 2, 3, 3).astype(np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        node("Conv", ["x", "v"], ["c"], group=4), node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("GlobalMaxPool", ["d"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 8, 6, 6])], [info("y", ["N", 8, 1, 1])],
                  {k: np.asarray(v) for k, v in quantised.items()})  # fmt: skip
    (layer,) = costs_of(proto, tmp_path, x=normal(30, 8, 6, 6)).layers
    assert layer.flops == 2 * 8 * 4 * 4 * (2 * 3 * 3)
    assert (layer.weights, layer.parameters, layer.neurons) == (("w",), 8 * 2 * 9, 8)
    assert layer.weight_share == np.count_nonzero(quantised["w"]) / (8 * 2 * 9)
    assert layer.latency_ms


def test_a_product_whose_left_side_is_transposed(tmp_path):
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transA=1)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = model(nodes, [info("x", [32, 5])], [info("y", [5, 16])], {"w": normal(32, 16)}, opset_imports=opsets)
    (layer,) = costs_of(proto, tmp_path).layers
    assert layer.flops * 32 == 2 * 32 * 16 * 5  # the first axis counts as samples


def test_a_model_without_layers(tmp_path):
    proto = model([node("Relu", ["x"], ["y"])], [info("x", ["N", 4])], [info("y", ["N", 4])])
    costs = costs_of(proto, tmp_path)
    assert (costs.layers, costs.total.flops, costs.total.weight_share, costs.total.act_share) == ((), 0, None, None)


def test_a_fixed_batch_holds_several_samples(tmp_path):
    free, fixed = builders.mlp((8, 16, 4)), builders.mlp((8, 16, 4))
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    x = normal(8, 8)
    a, b = costs_of(free, tmp_path, x=x), costs_of(fixed, tmp_path, x=x)
    assert (a.run_samples, b.run_samples, a.samples, b.samples) == (1, 4, 8, 8)
    assert [layer.flops for layer in a.layers] == [layer.flops for layer in b.layers]
    assert [layer.neurons for layer in a.layers] == [layer.neurons for layer in b.layers] == [16, 4]
    assert [layer.act_share for layer in a.layers] == pytest.approx([layer.act_share for layer in b.layers])


@pytest.mark.parametrize("name", ["lenet-5", "lenet-300-100"])
def test_each_layer_is_timed_where_onnxruntime_fuses_it(name):
    costs = onnxprune.costs(LENETS[name], data=DIGITS, samples=5)
    assert len(costs.layers) == {"lenet-5": 4, "lenet-300-100": 3}[name]
    assert all(layer.latency_ms for layer in costs.layers)
    assert costs.total.layers_ms == pytest.approx(sum(layer.latency_ms for layer in costs.layers))
    assert costs.total.other_ms == pytest.approx(sum(costs.other_ms.values()))
    assert costs.total.latency_ms > 0
    assert not {"Conv", "Gemm", "FusedConv", "FusedGemm"} & costs.other_ms.keys()


def test_convolutions_in_the_blocked_layout_are_found_behind_what_is_fused_into_them(tmp_path):
    """Conv + Add of a reshaped bias + Relu run as one node that is called after the Relu's output."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Reshape", ["b", "shape"], ["b4"]), node("Add", ["c", "b4"], ["a"]),
        node("Relu", ["a"], ["r"]), node("Conv", ["r", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(16, 8, 3, 3), "v": normal(16, 16, 3, 3), "b": normal(16), "shape": np.array([1, 16, 1, 1])}
    costs = costs_of(model(nodes, [info("x", ["N", 8, 9, 9])], [info("y", ["N", 16, 5, 5])], weights), tmp_path)
    assert len(costs.layers) == 2
    assert all(layer.latency_ms for layer in costs.layers)


# the request --------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_one_error(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(builders.mlp(), path)
    with pytest.raises(OptionError, match="samples must be at least 1"):
        onnxprune.costs(path, samples=0)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="cannot read the data"):
        onnxprune.costs(path, data=tmp_path / "bad.npz")
    np.savez(tmp_path / "narrow.npz", x=normal(3, 7))
    with pytest.raises(DataError, match="has shape"):
        onnxprune.costs(path, data=tmp_path / "narrow.npz")
    strings = model([node("Identity", ["x"], ["y"])], *([info(n, ["N"], TensorProto.STRING)] for n in "xy"))
    onnx.save(strings, path)
    with pytest.raises(DataError, match="no inputs could be synthesised"):
        onnxprune.costs(path)
