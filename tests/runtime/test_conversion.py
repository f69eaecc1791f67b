"""Nodes of old opsets in the terms of newer ones: ONNX Runtime computes the same, and the rest of the model stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.runtime.conversion import convert
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import feeds_of, load, run, serialise

IMAGE = [info("x", ["N", 2, 6, 6])]
TARGETS = (11, 13, 17)

# Operators as opset 7 to 10 write them: (opset, node, weights).
OLD = {
    "clip": (7, node("Clip", ["x"], ["y"], min=-0.5, max=0.5), {}),
    "clip above": (9, node("Clip", ["x"], ["y"], max=0.5), {}),
    "clip nothing": (9, node("Clip", ["x"], ["y"]), {}),
    "unsqueeze": (8, node("Unsqueeze", ["x"], ["y"], axes=[0, 2]), {}),
    "squeeze": (8, node("Squeeze", ["x"], ["y"], axes=[0]), {}),
    "slice": (9, node("Slice", ["x"], ["y"], axes=[1, 2], starts=[0, -3], ends=[1, 1000]), {}),
    "slice without axes": (9, node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 2]), {}),
    "pad": (9, node("Pad", ["x"], ["y"], pads=[0, 0, 1, 0, 0, 0, 0, 2], value=1.5), {}),
    "pad by reflection": (9, node("Pad", ["x"], ["y"], pads=[0, 0, 1, 0, 0, 0, 0, 2], mode="reflect"), {}),
    "sum": (9, node("ReduceSum", ["x"], ["y"], axes=[1, 3], keepdims=0), {}),
    "sum of all": (9, node("ReduceSum", ["x"], ["y"]), {}),
    "mean": (9, node("ReduceMean", ["x"], ["y"], axes=[2], keepdims=1), {}),
    "split": (9, node("Split", ["x"], ["y", "z"], axis=2, split=[1, 5]), {}),
    "split evenly": (9, node("Split", ["x"], ["y", "z"], axis=2), {}),
    "dropout": (9, node("Dropout", ["x"], ["y"], ratio=0.3), {}),
    "top": (9, node("TopK", ["x"], ["y", "i"], axis=1, k=2), {}),
    "softmax": (9, node("Softmax", ["x"], ["y"], axis=1), {}),
    "softmax of the last axis": (9, node("Softmax", ["x"], ["y"], axis=3), {}),
    "log softmax": (9, node("LogSoftmax", ["x"], ["y"], axis=2), {}),
    "upsample": (9, node("Upsample", ["x", "s"], ["y"], mode="nearest"), {"s": np.array([1, 1, 2, 3], np.float32)}),
    "upsample linearly": (9, node("Upsample", ["x", "s"], ["y"], mode="linear"),
                          {"s": np.array([1, 1, 2, 2], np.float32)}),
    "upsample by attribute": (7, node("Upsample", ["x"], ["y"], mode="linear", scales=[1.0, 1.0, 1.5, 2.0]), {}),
    "resize": (10, node("Resize", ["x", "s"], ["y"], mode="linear"), {"s": np.array([1, 1, 2, 0.5], np.float32)}),
    "resize to nearest": (10, node("Resize", ["x", "s"], ["y"]), {"s": np.array([1, 1, 1.5, 0.5], np.float32)}),
    "scatter": (9, node("Scatter", ["x", "i", "u"], ["y"], axis=1),
                {"i": np.zeros((1, 1, 6, 6), np.int64), "u": normal(1, 1, 6, 6)}),
    "pool": (8, node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), {}),
    "flatten": (8, node("Flatten", ["x"], ["y"]), {}),
    "norm": (7, node("BatchNormalization", ["x", "a", "b", "c", "d"], ["y"]),
             {k: np.abs(normal(2, seed=i)) for i, k in enumerate("abcd")}),
}  # fmt: skip


def old_model(name: str) -> onnx.ModelProto:
    opset, made, weights = OLD[name]
    outputs = [info(end, None, TensorProto.INT64 if end == "i" else TensorProto.FLOAT) for end in made.output]
    return model([made], IMAGE, outputs, weights, opset=opset, ir_version=6)


@pytest.mark.parametrize("version", TARGETS)
@pytest.mark.parametrize("name", OLD)
def test_the_same_is_computed(name, version):
    proto = old_model(name)
    opened = load(proto)
    convert(opened, version)
    assert opened.opset == version
    feeds = feeds_of(proto, batch=1)
    for before, after in zip(run(proto, feeds), run(serialise(opened), feeds), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["clip", "slice", "upsample", "softmax"])
def test_a_node_keeps_its_name_doc_and_metadata(name):
    proto = old_model(name)
    made = proto.graph.node[0]
    made.name, made.doc_string = "mine", "what it is for"
    made.metadata_props.add(key="from", value="here")
    proto.graph.metadata_props.add(key="graph", value="kept")
    opened = load(proto)
    convert(opened, 13)
    kept = [each for each in opened.proto.graph.node if each.name == "mine"]
    assert len(kept) == 1
    assert kept[0].doc_string == "what it is for"
    assert [(p.key, p.value) for p in kept[0].metadata_props] == [("from", "here")]
    assert [(p.key, p.value) for p in opened.proto.graph.metadata_props] == [("graph", "kept")]
    assert list(opened.proto.graph.output) == list(proto.graph.output)


def test_bodies_are_converted_with_the_values_of_the_graph_around_them():
    then = helper.make_graph([node("Clip", ["x"], ["a"], min=0.0)], "then", [], [info("a", ["N", 4])])
    nested = helper.make_node("If", ["c"], ["b"], then_branch=then, else_branch=helper.make_graph(
        [node("Softmax", ["x"], ["s"], axis=0)], "inner", [], [info("s", ["N", 4])]))  # fmt: skip
    other = helper.make_graph([nested], "else", [], [info("b", ["N", 4])])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    inputs = [info("x", ["N", 4]), info("c", [], TensorProto.BOOL)]
    proto = model(nodes, inputs, [info("y", ["N", 4])], {}, opset=9, ir_version=6)
    opened = load(proto)
    convert(opened, 13)
    for flag in (True, False):
        feeds = feeds_of(proto, flag=flag)
        np.testing.assert_array_equal(run(proto, feeds)[0], run(serialise(opened), feeds)[0])


def test_nodes_of_other_domains_and_operators_that_nobody_knows_stay():
    nodes = [
        helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft"),
        helper.make_node("Nobody", ["h"], ["y"], old=1),
    ]
    proto = model(nodes, [info("x", ["N", 4])], [info("y", ["N", 4])], {}, opset=9)
    opened = load(proto)
    convert(opened, 13)
    assert list(opened.proto.graph.node) == nodes


@pytest.mark.parametrize("before", [11, 13])
def test_a_resize_of_opset_11_and_later_keeps_its_coordinates(before):
    made = node("Resize", ["x", "", "s"], ["y"], mode="linear")
    weights = {"s": np.array([1, 1, 2, 2], np.float32)}
    if before == 11:
        made.input[1] = "r"
        weights["r"] = np.zeros(0, np.float32)
    proto = model([made], IMAGE, [info("y", None)], weights, opset=before, ir_version=7)
    opened = load(proto)
    convert(opened, 17)
    feeds = feeds_of(proto, batch=1)
    np.testing.assert_array_equal(run(proto, feeds)[0], run(serialise(opened), feeds)[0])


def test_what_reads_otherwise_in_a_branch_is_named():
    then = helper.make_graph([node("Clip", ["x"], ["a"], min=0.0)], "then", [], [info("a", ["N", 4])])
    other = helper.make_graph([node("Relu", ["x"], ["b"])], "else", [], [info("b", ["N", 4])])
    nodes = [
        helper.make_node("If", ["c"], ["h"], then_branch=then, else_branch=other), node("Clip", ["h"], ["y"], max=1.0)
    ]  # fmt: skip
    inputs = [info("x", ["N", 4]), info("c", [], TensorProto.BOOL)]
    assert convert(load(model(nodes, inputs, [info("y", ["N", 4])], {}, opset=9, ir_version=6)), 13) == ["Clip"]
