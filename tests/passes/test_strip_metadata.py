"""strip_metadata: what no runtime reads goes, and the report says what a file holds."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune_passes import StripMetadata
from tests.helpers.builders import MODELS, if_branches, info, mlp, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import load, outputs, put, serialise

TRACE = "File model.py, line 1, in forward\n" * 100


def traced(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model as an exporter with a long memory writes it."""
    proto.doc_string, proto.graph.doc_string = "a model", "a graph"
    proto.metadata_props.add(key="names", value="cat, dog")
    waiting = [proto.graph]
    while waiting:
        graph = waiting.pop()
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.node):
            value.doc_string = "noted"
            value.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=TRACE)
        waiting += [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return proto


@pytest.mark.parametrize("name", ["mlp", "if", "function", "conv"])
def test_notes_go_wherever_they_are_and_outputs_stay(name):
    proto = traced(MODELS[name][0]())
    opened = load(proto)
    change = StripMetadata().run(opened)
    small = serialise(opened)
    assert change.modified
    told = int(change.notes[0].split()[0].replace(",", ""))
    assert 0 <= len(proto.SerializeToString()) - len(small) - told < 100  # lengths of what is around them
    assert small.count(b"stack_trace") == len(proto.graph.input) + len(proto.graph.output)
    assert outputs(small) == outputs(proto)
    meta = ort.InferenceSession(small, providers=["CPUExecutionProvider"]).get_modelmeta()
    assert (meta.description, meta.graph_description) == ("a model", "a graph")
    assert meta.custom_metadata_map == {"names": "cat, dog"}
    again = load(onnx.load_from_string(small))
    assert not StripMetadata().run(again).modified


def test_what_places_a_node_on_a_device_stays():
    proto = traced(mlp())
    proto.graph.node[0].metadata_props.add(key="layer_ann", value="gpu")
    opened = load(proto)
    StripMetadata().run(opened)
    assert [(e.key, e.value) for n in opened.proto.graph.node for e in n.metadata_props] == [("layer_ann", "gpu")]


def test_a_dense_model_is_counted_to_the_byte(tmp_path):
    table = normal(40, 64)
    nodes = [node("Gather", ["table", "x"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    ends = [info("x", ["N"], onnx.TensorProto.INT64)], [info("y", ["N", 32])]
    source = put(tmp_path / "m.onnx", traced(model(nodes, *ends, {"table": table, "w": normal(64, 32)})))
    result = onnxprune.transform(source, tmp_path / "o.onnx", ["decode"], verify=False)
    held = result.contents
    assert sum(held.values()) == source.stat().st_size
    assert table.nbytes < held["embeddings"] < table.nbytes + 50
    assert 4 * len(TRACE) < held["metadata"] < 4 * len(TRACE) + 250
    assert 2 * len(TRACE) < held["interface"] < 2 * len(TRACE) + 200
    assert 0 < held["names"] < 100
    onnxprune.transform(source, tmp_path / "o.onnx", ["strip_metadata"], verify=False)
    again = onnxprune.transform(tmp_path / "o.onnx", tmp_path / "p.onnx", ["decode"], verify=False).contents
    assert again["metadata"] == 0
    assert held["nodes"] - 20 <= again["nodes"] <= held["nodes"] + 40  # lengths, and the name of the pass


@pytest.mark.parametrize("command", [["compress"], ["strip"]])
def test_the_report_says_what_drops_notes_where_they_are_much(tmp_path, command):
    source = put(tmp_path / "m.onnx", traced(mlp((32, 64, 16))))
    printed = call(*command, source, "-o", tmp_path / "o.onnx").output
    assert "metadata" in printed
    assert "--strip-metadata" in printed
    printed = call(*command, source, "-o", tmp_path / "s.onnx", "--strip-metadata").output
    assert "(--strip-metadata" not in printed
    assert (tmp_path / "s.onnx").stat().st_size < (tmp_path / "o.onnx").stat().st_size - 2 * len(TRACE)
    plain = put(tmp_path / "plain.onnx", mlp((64, 256, 64)))
    assert "metadata" not in call(*command, plain, "-o", tmp_path / "q.onnx").output


def test_encoded_weights_decode_without_their_notes(tmp_path):
    source = put(tmp_path / "m.onnx", traced(if_branches()))
    onnxprune.compress(source, tmp_path / "c.onnx", sparsity=0.5, values="exact", strip_metadata=True)
    onnxprune.decode(tmp_path / "c.onnx", tmp_path / "d.onnx")
    kept = onnx.load(tmp_path / "d.onnx")
    assert not any(n.metadata_props or n.doc_string for n in kept.graph.node)
    expected = onnxprune.prune(source, tmp_path / "p.onnx", sparsity=0.5)
    assert expected.contents["metadata"] > 0
    for flag in (True, False):
        feeds = {"x": normal(3, 64, seed=5), "c": np.array(flag)}
        found = [
            ort.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
            for name in ("d.onnx", "p.onnx")
        ]
        np.testing.assert_array_equal(*found)
