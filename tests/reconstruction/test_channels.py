"""Whole networks that lose channels with data: the same shapes as without, and outputs that keep more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.model import Model
from onnxprune.pipeline.change import Change
from onnxprune_passes import Channels
from tests.helpers import graph_checks as checks
from tests.helpers.builders import if_branches, info, mlp, model, node, normal
from tests.helpers.running import load, put, run, serialise
from tests.passes.test_channels import stack
from tests.reconstruction.test_sequential import correlated, error, lstm

MODELS = Path(__file__).parents[2] / "models"


def thinned(tmp_path: Path, proto: onnx.ModelProto, x: np.ndarray, **options) -> tuple[Model, Change]:
    np.savez(tmp_path / "data.npz", x=x)
    opened = load(proto)
    return opened, Channels(data=str(tmp_path / "data.npz"), **options).run(opened)


def deconvolution() -> onnx.ModelProto:
    """A depthwise convolution and a transposed one behind it, whose windows overlap."""
    weights = {
        "c": normal(24, 3, 3, 3) / 5, "b": normal(24), "dw": normal(24, 1, 3, 3, seed=1) / 3,
        "up": normal(24, 4, 3, 3, seed=2) / 5,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "c", "b"], ["h"], pads=[1, 1, 1, 1]), node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "dw"], ["d"], group=24, pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["d", "up"], ["y"], strides=[2, 2]),
    ]  # fmt: skip
    return model(nodes, [info("x", ["N", 3, 8, 8])], [info("y", ["N", 4, 17, 17])], weights)


def attention(heads: int = 4) -> onnx.ModelProto:
    """Heads of eight features, their outputs mixed, a residual sum."""
    width = 8 * heads
    weights = {name: normal(16, width, seed=n) / 4 for n, name in enumerate("qkv")}
    weights["o"] = normal(width, 16, seed=4) / 6
    weights["split"] = np.array([0, -1, heads, 8], np.int64)
    weights["merge"] = np.array([0, -1, width], np.int64)
    nodes = []
    for name in "qkv":
        nodes += [
            node("MatMul", ["x", name], [f"{name}m"]), node("Reshape", [f"{name}m", "split"], [f"{name}s"]),
            node("Transpose", [f"{name}s"], [f"{name}t"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]  # fmt: skip
    nodes += [
        node("MatMul", ["qt", "kt"], ["scores"]), node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "vt"], ["c"]), node("Transpose", ["c"], ["ct"], perm=[0, 2, 1, 3]),
        node("Reshape", ["ct", "merge"], ["cm"]), node("MatMul", ["cm", "o"], ["om"]), node("Add", ["om", "x"], ["y"]),
    ]  # fmt: skip
    return model(nodes, [info("x", ["N", 6, 16])], [info("y", ["N", 6, 16])], weights)


def test_heads_are_rounded_by_their_widths():
    """Of six heads two go; any number of heads of eight is a multiple of four outputs."""
    for multiple, heads in ((1, 4), (4, 4), (8, 4), (16, 4), (24, 6), (32, 4)):
        found = checks.shapes(checks.stripped(attention(6), Channels(sparsity=0.34, multiple=multiple))[0])
        assert found["q"] == (16, 8 * heads), multiple


NETWORKS = {
    "mlp": (mlp((48, 64, 32, 8), seed=3), (256, 48)),
    "convolutions": (stack((8, 12, 6)), (48, 3, 8, 8)),
    "deconvolution": (deconvolution(), (32, 3, 8, 8)),
    "lstm": (lstm(), (200, 6, 24)),
    "attention": (attention(), (128, 6, 16)),
}  # fmt: skip


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_counts_as_by_norm_and_outputs_that_keep_more(tmp_path, network, scope):
    proto, shape = NETWORKS[network]
    opened, change = thinned(tmp_path, proto, correlated(*shape), sparsity=0.3, scope=scope, samples=shape[0])
    plain = load(proto)
    by_norm = Channels(sparsity=0.3, scope=scope).run(plain)
    after = onnx.load_from_string(serialise(opened))
    checks.assert_valid(after)
    checks.assert_names_kept(proto, after)
    if scope == "layer":
        assert [(r.name, r.axis, r.after) for r in change.removed] == [
            (r.name, r.axis, r.after) for r in by_norm.removed
        ]
    unseen = correlated(*shape, seed=50)
    assert error(proto, opened, unseen) < 0.9 * error(proto, plain, unseen)


def test_copies_go_at_no_loss(tmp_path):
    proto, x = mlp((24, 20, 6), seed=2), correlated(200, 24)
    weights = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    first, bias = weights["fc0.weight"], weights["fc0.bias"]
    axis = first.shape.index(20)
    half = np.take(first, np.tile(np.arange(10), 2), axis=axis)
    for tensor in proto.graph.initializer:
        if tensor.name == "fc0.weight":
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
        if tensor.name == "fc0.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.tile(bias[:10], 2), tensor.name))
    opened, _ = thinned(tmp_path, proto, x, sparsity=0.5)
    assert checks.shapes(onnx.load_from_string(serialise(opened)))["fc0.weight"][axis] == 10
    assert error(proto, opened, correlated(50, 24, seed=9)) < 1e-5


def test_the_mean_of_what_goes_is_in_the_bias(tmp_path):
    proto, x = mlp((24, 30, 8), seed=1), correlated(320, 24) + np.float32(1)
    opened, _ = thinned(tmp_path, proto, x, sparsity=0.7, samples=320)
    wanted, got = run(proto, {"x": x})[0], run(serialise(opened), {"x": x})[0]
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=1e-3)


def test_what_cannot_be_recorded_goes_by_norm_and_is_said(tmp_path):
    weights = {"a": normal(12, 6), "b": normal(5, 12, seed=1)}  # matrices on the left
    nodes = [node("MatMul", ["a", "x"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["b", "r"], ["y"])]
    proto = model(nodes, [info("x", ["N", 6, 4])], [info("y", ["N", 5, 4])], weights)
    opened, change = thinned(tmp_path, proto, normal(64, 6, 4), sparsity=0.25)
    plain = load(proto)
    Channels(sparsity=0.25).run(plain)
    assert serialise(opened) == serialise(plain)
    assert any("chosen by norm" in note and "those of a" in note for note in change.notes)


def test_channels_of_a_branch_go_by_norm_and_it_is_said(tmp_path):
    proto = if_branches()
    np.savez(tmp_path / "data.npz", x=correlated(40, 64), c=np.ones(40, bool))
    opened, plain = load(proto), load(proto)
    change = Channels(sparsity=0.25, data=str(tmp_path / "data.npz")).run(opened)
    assert Channels(sparsity=0.25).run(plain).modified
    assert serialise(opened) == serialise(plain)
    assert any("chosen by norm" in note and "outer" in note for note in change.notes)


@pytest.mark.parametrize("score", ["l1", "l2"])
def test_norms_are_what_they_were_with_data_too(tmp_path, score):
    proto, shape = NETWORKS["convolutions"]
    opened, _ = thinned(tmp_path, proto, correlated(*shape), sparsity=0.3, score=score)
    plain = load(proto)
    Channels(sparsity=0.3, score=score).run(plain)
    assert serialise(opened) == serialise(plain)


def test_two_runs_give_the_same_bytes(tmp_path):
    proto, shape = NETWORKS["convolutions"]
    files = [serialise(thinned(tmp_path, proto, correlated(*shape), sparsity=0.3)[0]) for _ in range(2)]
    assert files[0] == files[1]


def test_compress_calibrates_channels_on_the_half_that_does_not_judge(tmp_path):
    proto, shape = NETWORKS["mlp"]
    source = put(tmp_path / "model.onnx", proto)
    result = onnxprune.compress(source, tmp_path / "out.onnx", channels=0.25, data={"x": correlated(*shape)})
    (step,) = [text for text in result.passes if text.startswith("channels")]
    assert "half=true" in step.lower()
    assert result.promise is not None


def test_lenet_keeps_its_answers(tmp_path):
    held = np.load(MODELS / "mnist-sample.npz")["image"]
    proto, found = onnx.load(MODELS / "lenet-5.onnx"), {}
    np.savez(tmp_path / "data.npz", image=held[:64])
    images = {"image": held[64:192]}
    for score in ("l1", "obs"):
        opened = load(proto)
        Channels(sparsity=0.3, score=score, data=str(tmp_path / "data.npz"), only=("0.weight", "2.weight")).run(opened)
        found[score] = float(np.square(run(serialise(opened), images)[0] - run(proto, images)[0]).sum())
    assert found["obs"] < 0.3 * found["l1"]
