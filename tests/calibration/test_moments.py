"""Moments of what layers read: against ONNX Runtime, which multiplies the same patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import layer_of
from onnxprune.calibration.moments import moments
from onnxprune.calibration.vectors import patches
from onnxprune.model.discovery import find
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, run


@given(
    rank=st.integers(1, 3), kernel=st.integers(1, 3), stride=st.integers(1, 3), dilation=st.integers(1, 2),
    groups=st.integers(1, 2), pads=st.sampled_from(["none", "uneven", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_patches_times_the_weight_are_the_convolution(rank, kernel, stride, dilation, groups, pads, seed):
    size = (9, 7, 6)[:rank]
    x, w = normal(2, 2 * groups, *size, seed=seed), normal(3 * groups, 2, *[kernel] * rank, seed=seed + 1)
    given = {"pads": [1] * rank + [2] * rank} if pads == "uneven" else {} if pads == "none" else {"auto_pad": pads}
    if pads.startswith("SAME"):
        dilation = 1  # ONNX Runtime leaves dilated SAME padding open
    conv = node("Conv", ["x", "w"], ["y"], strides=[stride] * rank, dilations=[dilation] * rank, group=groups, **given)
    proto = model([conv], [info("x", x.shape)], [info("y", ["N"] * (rank + 2))], {"w": w})
    (expected,) = run(proto, {"x": x})
    found = patches(x, conv, w.shape, 10**6, np.random.default_rng(0))
    product = np.einsum("gpi,gri->pgr", found, w.reshape(groups, 3, -1)).reshape(len(x), -1, 3 * groups)
    np.testing.assert_allclose(np.moveaxis(product, 2, 1).reshape(expected.shape), expected, rtol=1e-3, atol=1e-4)
    few = patches(x, conv, w.shape, 5, np.random.default_rng(0))
    assert few.shape[1] == min(5, found.shape[1])
    assert all(any(np.array_equal(row, each) for each in found[0]) for row in few[0])


def network(tmp_path: Path, nodes, weights, x: np.ndarray, **options) -> dict[str, np.ndarray | None]:
    """The moments of each weight of a model with one input and output."""
    opened = load(model(nodes, [info("x", ["N", *x.shape[1:]])], [info("y", ["N", None])], weights))
    np.savez(tmp_path / "data.npz", x=x)
    found = find(opened)
    layers, calibration = [layer_of(weight, {}) for weight in found], CalibrationSet(tmp_path / "data.npz", 1000)
    measured = moments(opened, layers, calibration, **options)
    return dict(zip((w.name for w in found), measured, strict=True))


def test_matrices_see_the_moments_of_their_inputs(tmp_path):
    x, a, b = normal(100, 24), normal(24, 30, seed=1), normal(20, 30, seed=2)
    nodes = [
        node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("Gemm", ["r", "b"], ["y"], transB=1),
    ]  # fmt: skip
    found = network(tmp_path, nodes, {"a": a, "b": b}, x)
    hidden = np.maximum(x @ a, 0)
    pieces = np.arange(100) % 32 // 8 + np.arange(100) // 32 * 4  # batches of 32 in pieces of 8
    for half in range(2):
        read, behind = x[pieces % 2 == half], hidden[pieces % 2 == half]
        np.testing.assert_allclose(found["a"][half, 0], read.T @ read / len(read), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["b"][half, 0], behind.T @ behind / len(behind), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("widest", "size"), [(9, 8), (24, 24), (5, 5)])
def test_inputs_in_blocks_are_multiplied_within_these(widest, size, tmp_path):
    nodes, weights = [node("MatMul", ["x", "a"], ["y"])], {"a": normal(24, 30, seed=1)}
    whole = network(tmp_path, nodes, weights, normal(100, 24))["a"]
    found = network(tmp_path, nodes, weights, normal(100, 24), widest=widest)["a"]
    assert found.shape == (2, -(-24 // size), size, size)
    for at, block in enumerate(np.moveaxis(found, 1, 0)):
        expected = whole[:, 0, at * size :, at * size :][:, :size, :size]
        inside = expected.shape[1]
        np.testing.assert_allclose(block[:, :inside, :inside], expected, rtol=1e-5, atol=1e-6)
        assert not block[:, inside:].any()
        assert not block[:, :, inside:].any()


def test_a_weight_that_two_nodes_read_sees_the_inputs_of_both(tmp_path):
    x, a = normal(8, 16), normal(16, 16, seed=1)
    found = network(tmp_path, [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "a"], ["y"])], {"a": a}, x)
    both = np.concatenate([x, x @ a])
    np.testing.assert_allclose(found["a"].mean(0)[0], both.T @ both / 16, rtol=1e-4, atol=1e-3)


def test_layers_that_read_the_same_share_their_moments(tmp_path):
    x, weights = normal(64, 16), {"a": normal(16, 8, seed=1), "b": normal(16, 8, seed=2), "c": normal(8, 8, seed=3)}
    nodes = [
        node("MatMul", ["x", "a"], ["q"]), node("MatMul", ["x", "b"], ["k"]), node("MatMul", ["k", "c"], ["v"]),
        node("Add", ["q", "v"], ["y"]),
    ]  # fmt: skip
    found = network(tmp_path, nodes, weights, x)
    assert found["a"] is found["b"]
    assert found["c"] is not found["a"]
    np.testing.assert_allclose(found["a"].mean(0)[0], x.T @ x / len(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", ["a", "x"], ["y"])],
        [node("Gemm", ["x", "a"], ["y"], transA=1)],
        [node("Transpose", ["a"], ["t"]), node("MatMul", ["x", "t"], ["y"])],
        [node("MatMul", ["x", "a"], ["h"]), node("Add", ["h", "a"], ["y"])],
        [node("MatMul", ["a", "a"], ["h"]), node("Add", ["h", "x"], ["y"])],
    ],
)
def test_what_is_not_known_is_not_measured(nodes, tmp_path):
    assert network(tmp_path, nodes, {"a": normal(16, 16)}, normal(16, 16))["a"] is None


@pytest.mark.parametrize("size", [0, 1e25, np.inf], ids=str)
def test_inputs_that_are_0_or_beyond_float32_tell_nothing(size, tmp_path):
    x = np.ones((16, 16), np.float32) * np.float32(size)
    found = network(tmp_path, [node("MatMul", ["x", "a"], ["y"])], {"a": normal(16, 16)}, x)
    assert found["a"] is None
