"""Graphs that the specification does not know and runtimes take: out of order, one name twice, `ai.onnx`."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.model.order import sort_nodes, unsort_nodes
from tests.helpers import builders
from tests.helpers.running import feeds_of, put, run

NETWORKS = ["mlp", "conv", "constant", "if", "loop", "scan", "function", "lstm", "behind", "qdq"]


def shuffled(proto: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Every body's nodes in another order."""
    draw = random.Random(seed)
    bodies = [proto.graph, *proto.functions]
    while bodies:
        body = bodies.pop()
        nodes = list(body.node)
        draw.shuffle(nodes)
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del body.node[:]
        body.node.extend(copies)
        bodies += [a.g for n in body.node for a in n.attribute if a.HasField("g")]
    return proto


def same(result: onnx.ModelProto, proto: onnx.ModelProto, tolerance: float = 1e-4) -> None:
    feeds = feeds_of(proto)
    for found, expected in zip(run(result, feeds), run(proto, feeds), strict=True):
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NETWORKS), st.integers(0, 1000))
def test_sorting_and_back_changes_nothing(name, seed):
    proto = shuffled(builders.MODELS[name][0](), seed)
    given_, held = onnx.ModelProto(), proto.SerializeToString(deterministic=True)
    given_.CopyFrom(proto)
    order = sort_nodes(given_)
    onnx.checker.check_model(given_)
    assert not sort_nodes(given_)
    unsort_nodes(given_, order)
    assert given_.SerializeToString(deterministic=True) == held


@pytest.mark.parametrize("name", NETWORKS)
def test_an_unsorted_model_is_compressed_like_the_sorted_one(name, tmp_path):
    proto = builders.MODELS[name][0]()
    mixed = shuffled(builders.MODELS[name][0](), 3)
    one = onnxprune.compress(put(tmp_path / "a.onnx", proto), tmp_path / "ao.onnx", sparsity=0.8)
    runs = name not in ("if", "scan", "function")  # ONNX Runtime sorts the main graph only
    two = onnxprune.compress(put(tmp_path / "b.onnx", mixed), tmp_path / "bo.onnx", sparsity=0.8, verify=runs)
    assert {w.name: (w.zeros, w.encoding) for w in one.weights} == {w.name: (w.zeros, w.encoding) for w in two.weights}
    onnxprune.decode(tmp_path / "bo.onnx", tmp_path / "d.onnx", verify=runs)
    kept = {n.output[0] for n in mixed.graph.node}
    after, decoded = (onnx.load(tmp_path / file) for file in ("bo.onnx", "d.onnx"))
    assert [n.output[0] for n in decoded.graph.node if n.output[0] in kept] == [n.output[0] for n in mixed.graph.node]
    if runs:
        same(after, onnx.load(tmp_path / "ao.onnx"))
    sort_nodes(after)
    same(after, onnx.load(tmp_path / "ao.onnx"))


@pytest.mark.parametrize("seed", range(4))
def test_no_live_channel_is_taken_for_dead(seed, tmp_path):
    proto = shuffled(builders.mlp((32, 48, 40, 16)), seed)
    result = onnxprune.strip(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx")
    assert not result.removed
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_a_circle_is_left_to_the_runtime(tmp_path):
    nodes = [builders.node("Add", ["x", "b"], ["a"]), builders.node("Add", ["a", "a"], ["b"])]
    proto = builders.model(nodes, [builders.info("x", [4])], [builders.info("b", [4])])
    assert not sort_nodes(proto)
    assert [n.output[0] for n in proto.graph.node] == ["a", "b"]


@pytest.mark.parametrize("name", ["mlp", "constant", "function"])
def test_the_default_domain_has_two_names(name, tmp_path):
    def spelt(domain: str) -> onnx.ModelProto:
        proto = builders.MODELS[name][0]()
        for body in (proto.graph, *proto.functions):
            for node in body.node:
                node.domain = node.domain or domain
        for entry in (*proto.opset_import, *(o for f in proto.functions for o in f.opset_import)):
            entry.domain = entry.domain or domain
        return proto

    found = []
    for domain in ("", "ai.onnx"):
        path = put(tmp_path / "m.onnx", spelt(domain))
        runs = name != "function" or not domain  # ONNX Runtime wants functions to use the short name
        result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.8, verify=runs)
        found.append([(w.name, w.zeros, w.encoding) for w in result.weights])
    assert found[0] == found[1]
    assert any(encoding != "dense" for *_, encoding in found[0])


def test_bodies_of_nodes_with_one_name_are_told_apart(tmp_path):
    first, second = builders.if_branches(), builders.if_branches()
    second.graph.node[0].output[0] = "z"
    first.graph.node.append(second.graph.node[0])
    first.graph.output.append(builders.info("z", ["N", 32]))
    names = [w["name"] for w in onnxprune.inspect(put(tmp_path / "m.onnx", first))]
    assert len(names) == len(set(names)) == 5
    onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx", sparsity=0.8, verify=False)
    onnxprune.decode(tmp_path / "o.onnx", tmp_path / "d.onnx", verify=False)
    assert [w["name"] for w in onnxprune.inspect(tmp_path / "d.onnx")] == names


def test_of_two_initializers_with_one_name_the_last_counts(tmp_path):
    proto = builders.matmul()
    proto.graph.initializer.insert(0, builders.tensor("w", builders.normal(64, 32, seed=9)))
    path = put(tmp_path / "m.onnx", proto)
    onnxprune.compress(path, tmp_path / "o.onnx", values="exact", sparsity=0.9)
    expected = builders.matmul(builders.smallest(builders.normal(64, 32), round(0.9 * 64 * 32)))
    same(onnx.load(tmp_path / "o.onnx"), expected)
