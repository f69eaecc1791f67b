"""Shares of active neurons, against numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from tests.helpers import builders
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import costs_of


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
