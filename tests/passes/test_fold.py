"""fold: weights that nodes compute from constants are held, and compressed like any other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from onnxprune.model.discovery import find
from onnxprune_passes import Fold
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, outputs, put, run

AXES = np.array([1, 2], np.int64)


def weight_norm(extra=(), outputs=(), **options) -> onnx.ModelProto:
    """Two convolutions whose weights are a direction by its length, as `weight_norm` leaves them."""
    nodes, held = [], {"axes": AXES}
    for at, (read, made) in enumerate((("x", "h"), ("h", "y"))):
        norm = node("ReduceL2", [f"v{at}", "axes"], [f"n{at}"])
        ratio = node("Div", [f"v{at}", f"n{at}"], [f"d{at}"])
        scaled = node("Mul", [f"d{at}", f"g{at}"], [f"w{at}"])
        nodes += [norm, ratio, scaled, node("Conv", [read, f"w{at}"], [made], pads=[1, 1])]
        held |= {f"v{at}": normal(32, 32, 3, seed=at), f"g{at}": normal(32, 1, 1, seed=9 + at) ** 2 + 0.5}
    results = [info("y", None), *(info(name, None) for name in outputs)]
    return model([*nodes, *extra], [info("x", ["N", 32, "T"])], results, held, 18, **options)


def matrix(nodes, held, reader: str = "w") -> onnx.ModelProto:
    """A product with what the nodes compute."""
    nodes = [*nodes, node("MatMul", ["x", reader], ["y"])]
    return model(nodes, [info("x", ["N", 32])], [info("y", None)], held, 18)


def standardised(constant: bool = False) -> onnx.ModelProto:
    """A weight less its mean, over its deviation."""
    nodes = [
        node("ReduceMean", ["c"], ["m"]), node("Sub", ["c", "m"], ["s"]), node("Mul", ["s", "s"], ["q"]),
        node("ReduceMean", ["q"], ["v"]), node("Sqrt", ["v"], ["d"]), node("Div", ["s", "d"], ["w"]),
    ]  # fmt: skip
    held = {"c": normal(32, 48)}
    if constant:
        nodes = [helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(held.pop("c"))), *nodes]
    return matrix(nodes, held)


def adapted() -> onnx.ModelProto:
    """A weight and the product of two narrow ones."""
    nodes = [node("MatMul", ["b", "a"], ["ba"]), node("Add", ["base", "ba"], ["w"])]
    return matrix(nodes, {"base": normal(32, 48), "b": normal(32, 4, seed=1), "a": normal(4, 48, seed=2)})


def listed() -> onnx.ModelProto:
    """Parts of a weight that a sequence hands out."""
    nodes = [
        helper.make_node("Constant", [], ["size"], value_int=32),
        node("SplitToSequence", ["c", "size"], ["all"], axis=1),
        node("SequenceAt", ["all", "0"], ["w"]), node("SequenceAt", ["all", "1"], ["w1"]),
        node("MatMul", ["x", "w1"], ["z"]), node("Add", ["y", "z"], ["sum"]),
    ]  # fmt: skip
    held = {"c": normal(32, 64), "0": np.array(0, np.int64), "1": np.array(1, np.int64)}
    nodes = [*nodes[:-1], node("MatMul", ["x", "w"], ["y"]), nodes[-1]]
    return model(nodes, [info("x", ["N", 32])], [info("sum", None)], held, 18)


def in_a_branch() -> onnx.ModelProto:
    """A weight that is computed outside of the branches which read it."""
    proto = standardised()
    reader = proto.graph.node.pop()
    given = helper.make_graph([reader], "then", [], [info("y", None)])
    other = helper.make_graph(
        [node("Identity", ["x"], ["e"]), node("MatMul", ["e", "w"], ["o"])], "else", [], [info("o", None)]
    )
    proto.graph.node.append(node("If", ["flag"], ["z"], then_branch=given, else_branch=other))
    proto.graph.input.append(info("flag", [], onnx.TensorProto.BOOL))
    proto.graph.output[0].name = "z"
    return proto


FOLDED = {
    "weight norm": (weight_norm(), {"v0", "v1"}), "standardised": (standardised(), {"c"}),
    "a constant node": (standardised(constant=True), {"c"}), "low rank": (adapted(), {"base"}),
    "a sequence": (listed(), {"w", "w1"}), "a branch": (in_a_branch(), {"c"}),
}  # fmt: skip


@pytest.mark.parametrize(("proto", "names"), FOLDED.values(), ids=FOLDED)
def test_what_is_computed_is_a_weight(tmp_path, proto, names):
    opened = load(proto)
    assert Fold().run(opened).modified
    assert {weight.name for weight in find(opened) if weight.reason is None} == names
    assert not Fold().run(opened).modified
    for before, after in zip(outputs(proto), outputs(opened.to_bytes()), strict=True):
        np.testing.assert_allclose(np.frombuffer(after, np.float32), np.frombuffer(before, np.float32), atol=1e-4)
    result = onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx")
    assert result.ratio > 2
    assert any("computed them from constants" in note for note in result.notes)


def untouched() -> dict[str, onnx.ModelProto]:
    """Models whose weights stay as they are, by the reason."""
    drawn = [node("RandomUniform", [], ["r"], shape=[32, 48]), node("Mul", ["c", "r"], ["w"])]
    grown = [node("Abs", ["c"], ["a"]), node("Concat", ["a", "c", "c"], ["w"], axis=1)]
    dequantised = [node("DequantizeLinear", ["q", "s"], ["d"]), node("Transpose", ["d"], ["w"])]
    scaled = [node("Sqrt", ["f"], ["a"]), node("Mul", ["c", "a"], ["w"])]
    given = standardised()
    given.graph.input.append(info("c", [32, 48]))
    kept = {"c": normal(32, 48)}
    return {
        "handed out": weight_norm(outputs=["w0", "w1"]),
        "of use by itself": weight_norm([node("Abs", ["v0"], ["a"]), node("Abs", ["v1"], ["b"])], ["a", "b"]),
        "inputs before IR version 4": weight_norm(ir_version=3),
        "overridable": given,
        "another at each run": matrix(drawn, kept),
        "larger": matrix(grown, kept),
        "seen through": matrix(dequantised, {"q": normal(48, 32).round().astype(np.int8), "s": np.float32(0.1)}),
        "scaled": matrix(scaled, kept | {"f": normal(32, 1) ** 2}),
    }


@pytest.mark.parametrize("proto", untouched().values(), ids=untouched())
def test_no_more_than_what_needs_it_is_folded(proto):
    opened = load(proto)
    before = opened.to_bytes()
    assert not Fold().run(opened).modified
    assert opened.to_bytes() == before


def test_channels_go_from_weights_that_were_computed(tmp_path):
    source = put(tmp_path / "m.onnx", weight_norm())
    result = onnxprune.strip(source, tmp_path / "o.onnx", channels=0.5)
    assert {(cut.name, cut.axis, cut.after) for cut in result.removed} == {("v0", 0, 16), ("v1", 1, 16)}
    assert run((tmp_path / "o.onnx").read_bytes(), {"x": normal(2, 32, 7)})[0].shape == (2, 32, 7)


def test_masks_and_patterns_know_the_weight_by_its_name(tmp_path):
    source, masks = put(tmp_path / "m.onnx", weight_norm()), tmp_path / "m.npz"
    result = onnxprune.compress(
        source, tmp_path / "o.onnx", sparsity=0.5, set=("v1=0.75",), values="exact", masks=masks
    )
    zeros = {fact.name: fact.zeros / fact.total for fact in result.weights}
    assert (zeros["v0"], zeros["v1"]) == (0.5, 0.75)
    assert {name: 1 - np.mean(mask) for name, mask in onnxprune.read_masks(masks).masks.items()} == {
        "v0": 0.5,
        "v1": 0.75,
    }
