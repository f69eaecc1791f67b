"""What encode takes out of a model comes back with decode: doc strings, metadata and the order of everything."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Decode, Encode
from tests.helpers import builders
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load


def noted(entry: onnx.TensorProto | onnx.NodeProto, text: str) -> None:
    entry.doc_string = text
    entry.metadata_props.add(key="source", value=f"{text}'s")


def annotated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with most entries of each float weight at zero, and notes on every tensor and node of every body."""
    proto.producer_name, proto.doc_string, proto.graph.doc_string = "here", "model", "graph"
    bodies = [proto.graph, *proto.functions]
    while bodies:
        body = bodies.pop()
        for tensor in getattr(body, "initializer", ()):
            noted(tensor, f"tensor {tensor.name}")
            thin(tensor)
        for each in body.node:
            noted(each, f"node {each.output[0]}")
            for attribute in each.attribute:
                if attribute.HasField("g"):
                    bodies.append(attribute.g)
                if attribute.HasField("t"):
                    noted(attribute.t, f"inside {each.output[0]}")
                    thin(attribute.t)
    return proto


def thin(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE) and len(tensor.dims) > 1:
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[np.arange(array.size) % 10 > 0] = 0
        tensor.raw_data = array.tobytes()


def returned(proto: onnx.ModelProto, **options) -> tuple[onnx.ModelProto, int]:
    opened = load(proto)
    Encode(**options).run(opened)
    count = len(encoded_weights(opened)) + len(opened.proto.graph.sparse_initializer)
    Decode().run(opened)
    return onnx.load_from_string(opened.to_bytes()), count


@pytest.mark.parametrize("encoding", ["auto", "flat", "rows", "bitmask"])
@pytest.mark.parametrize("name", [name for name in builders.MODELS if "q" not in name and name != "asymmetric"])
def test_a_model_comes_back_byte_for_byte(name, encoding):
    proto = annotated(builders.MODELS[name][0]())
    if name == "opset9" and encoding != "bitmask":
        pytest.skip("its opset may be raised")
    decoded, count = returned(proto, encoding="graph" if encoding == "auto" else encoding)
    wide = proto.opset_import[0].version == decoded.opset_import[0].version
    assert count or name == "bf16"
    assert not wide or decoded.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.sampled_from([3, 8, 10]), st.sets(st.integers(0, 4), max_size=3), st.booleans())
def test_the_order_stays_whichever_weights_are_encoded(order, ir_version, skipped, twice):
    proto = annotated(builders.mlp((32, 48, 32, 48, 32, 48), opset=11, ir_version=ir_version))
    tensors = list(proto.graph.initializer)
    tensors = [tensors[2 * place + part] for place in order for part in (0, 1)]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensors)
    skip = tuple(f"fc{number}.weight" for number in skipped)
    opened = load(proto)
    Encode(encoding="graph", skip=skip).run(opened)
    if twice:
        Encode(encoding="graph").run(opened)
    assert len(encoded_weights(opened)) >= 5 - len(skipped)
    Decode().run(opened)
    left = onnx.load_from_string(opened.to_bytes())
    assert left.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def test_notes_of_a_sparse_initializer_stay():
    proto = annotated(builders.mlp((64, 64, 64), opset=17))
    decoded, count = returned(proto, encoding="coo")
    assert count
    notes = {t.name: (t.doc_string, [(p.key, p.value) for p in t.metadata_props]) for t in decoded.graph.initializer}
    assert notes == {t.name: (f"tensor {t.name}", [("source", f"tensor {t.name}'s")]) for t in proto.graph.initializer}


def test_a_model_of_trees_or_support_vectors_says_what_it_is_made_of():
    attributes = {"coefficients": normal(4096).tolist(), "intercepts": [0.0], "targets": 1}
    layer = helper.make_node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    proto = model([layer], [info("x", ["N", 4096])], [info("y", ["N", 1])])
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    change = Encode().run(load(proto))
    (note,) = change.notes
    assert "no weights: 0.0206 MB of it are attributes of LinearRegressor" in note
    assert not Encode().run(load(model([node("Relu", ["x"], ["y"])], [info("x", [1])], [info("y", [1])]))).notes
