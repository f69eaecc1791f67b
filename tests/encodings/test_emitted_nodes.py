"""The nodes that decode weights, by the rules of those who read them besides ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

import onnxprune
from onnxprune.encodings import GRAPH
from onnxprune.model.scopes import scopes_of
from tests.helpers.builders import MODELS, info, model, node, normal
from tests.helpers.running import feeds_of, run

CODED = ["shared:2", "shared:4", "int8:3", "int4"]
FORMS = ["exact", "half", "int8", *CODED]
PAIRS = [(e, v) for e in GRAPH for v in FORMS if (GRAPH[e].fits(None) or v in CODED) and (e, v) != ("dense", "exact")]


def embedded() -> onnx.ModelProto:
    """A matrix product and a convolution, both large enough for codebooks of float16."""
    nodes = [
        node("MatMul", ["x", "first"], ["h"]), node("Reshape", ["h", "sizes"], ["image"]),
        node("Conv", ["image", "kernel"], ["y"]),
    ]  # fmt: skip
    weights = {"first": normal(144, 576), "kernel": normal(64, 16, 6, 6, seed=1), "sizes": np.array([-1, 16, 6, 6])}
    return model(nodes, [info("x", ["N", 144])], [info("y", ["N", 64, 1, 1])], weights, opset=21, ir_version=10)


def encoded(tmp_path, proto: onnx.ModelProto, encoding: str, values: str) -> onnx.ModelProto:
    onnx.save(proto, tmp_path / "m.onnx")
    onnxprune.prune(tmp_path / "m.onnx", tmp_path / "p.onnx", sparsity=0.8, include=("*",), verify=False)
    onnxprune.encode(tmp_path / "p.onnx", tmp_path / "e.onnx", encoding=encoding, values=values, verify=False)
    return onnx.load(tmp_path / "e.onnx")


@pytest.mark.parametrize("name", ["embedded", "opset9", "ir3", "function", "if", "qdq"])
@pytest.mark.parametrize("encoding", GRAPH)
@pytest.mark.parametrize("values", ["exact", "half", "shared:4", "int8:3", "int4"])
def test_nodes_say_what_others_would_have_to_guess(tmp_path, name, encoding, values):
    """tract and OpenCV refuse a ConstantOfShape without its value, MNN computes with memory that nothing wrote."""
    proto = embedded() if name == "embedded" else MODELS[name][0]()
    made = encoded(tmp_path, proto, encoding, values)
    for scope in (inner for top in scopes_of(made) for inner in top.inner()):
        for each in scope.body.node:
            if each.op_type == "ConstantOfShape":
                assert [a.name for a in each.attribute] == ["value"]
            if each.op_type == "Gather" and each.output[0].startswith("~"):
                codebook = scope.constant(each.input[0])
                assert codebook is None or codebook.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16)


@pytest.mark.parametrize(("encoding", "values"), PAIRS)
def test_quantize_dynamic_leaves_what_decodes_weights_alone(tmp_path, encoding, values):
    made = encoded(tmp_path, embedded(), encoding, values)
    left = {(n.op_type, *n.input) for n in made.graph.node if n.output[0].startswith("~")}
    source, target = tmp_path / "e.onnx", tmp_path / "q.onnx"
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gather", "Gemm"])
    quantised = onnx.load(target)
    assert left <= {(n.op_type, *n.input) for n in quantised.graph.node}
    feeds = feeds_of(made)
    before, after = (run(proto.SerializeToString(), feeds)[0] for proto in (made, quantised))
    np.testing.assert_array_equal(after, before)
