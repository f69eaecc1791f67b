"""A file comes out as it went in, and every array of it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.model import protobuf as wire
from onnxprune.model.model import Model
from onnxprune.model.scopes import tensors_of
from tests.helpers.builders import mlp
from tests.helpers.repository import LENETS, LENETS_PRUNED
from tests.helpers.running import put

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
BIG = np.arange(600, dtype=np.float32)  # 2400 bytes: above wire.INLINE


def big(name: str, add: float = 0) -> TensorProto:
    return numpy_helper.from_array(BIG + np.float32(add), name)


def constant(name: str, add: float) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=big("", add))


def sparse(name: str) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(600, dtype=np.int64), f"{name}.indices")
    return helper.make_sparse_tensor(big(name), indices, [1000])


def attribute(name: str, kind: int, **fields) -> AttributeProto:
    made = AttributeProto(name=name, type=kind)
    for key, value in fields.items():
        target = getattr(made, key)
        target.extend(value) if isinstance(value, list) else target.CopyFrom(value)
    return made


def rich() -> onnx.ModelProto:
    """Everything that DESIGN section 4 says must survive."""
    model = mlp(sizes=(8, 300, 4))
    model.doc_string, model.producer_name, model.model_version = "doc", "somebody", 7
    graph = model.graph
    graph.doc_string, graph.node[0].doc_string = "graph doc", "onnxprune:payload:0"
    for holder in (model, graph, graph.node[0]):
        holder.metadata_props.add(key="k", value="v")
    annotation = graph.quantization_annotation.add(tensor_name="fc0.weight")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="fc0.bias")
    graph.initializer[0].doc_string = "tensor doc"
    graph.sparse_initializer.append(sparse("sparse"))
    typed = TensorProto(name="typed", data_type=TensorProto.FLOAT, dims=[600], float_data=BIG.tolist())
    graph.initializer.extend([typed, helper.make_tensor("text", TensorProto.STRING, [1], [b"x" * 2000])])
    graph.initializer.append(helper.make_tensor("int4", TensorProto.INT4, [4000], bytes(range(200)) * 10, raw=True))

    branch = helper.make_graph([constant("b", 1)], "branch", [], [helper.make_tensor_value_info("b", 1, [600])])
    branch.initializer.append(big("inner", 2))
    graph.node.append(helper.make_node("If", ["c"], ["i"], name="if", then_branch=branch, else_branch=branch))
    custom = helper.make_node("Odd", ["y"], ["z"], domain="custom")
    custom.attribute.append(attribute("many", AttributeProto.TENSORS, tensors=[big("m0", 3), big("m1", 4)]))
    custom.attribute.append(attribute("graphs", AttributeProto.GRAPHS, graphs=[branch, branch]))
    custom.attribute.append(attribute("sparse", AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse("a")))
    custom.attribute.append(attribute("sparses", AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse("p")]))
    custom.attribute.append(attribute("untyped", AttributeProto.UNDEFINED, g=branch))
    graph.node.extend([constant("k", 5), custom])
    model.opset_import.append(helper.make_opsetid("custom", 1))

    function = helper.make_function("custom", "F", ["a"], ["b"], [constant("b", 6)], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    training = model.training_info.add()
    training.initialization.CopyFrom(branch)
    training.algorithm.initializer.append(big("t", 7))
    unknown = wire.varint(500 << 3 | 2) + wire.varint(3) + b"abc"
    for holder in (model, graph, graph.node[0], graph.initializer[0]):
        holder.MergeFromString(unknown)
    return model


@pytest.mark.parametrize("path", [*LENETS.values(), *LENETS_PRUNED.values(), *sorted(LIGHT.glob("*.onnx"))], ids=str)
def test_a_file_comes_out_as_it_went_in(tmp_path, path):
    Model.load(path).save(tmp_path / "o.onnx")
    assert onnx.load(tmp_path / "o.onnx") == onnx.load(path)


def test_nothing_is_lost(tmp_path):
    model = rich()
    loaded = Model.load(put(tmp_path / "m.onnx", model))
    assert loaded.proto.ByteSize() < model.ByteSize() / 3, "the big tensors are not in the graph"
    loaded.save(tmp_path / "o.onnx")
    result = onnx.load(tmp_path / "o.onnx")
    assert result == model
    assert b"abc" in result.graph.node[0].SerializeToString()
    assert wire.TOKEN.encode() not in (tmp_path / "o.onnx").read_bytes()


def test_nothing_is_lost_with_external_data(tmp_path):
    model = rich()
    loaded = Model.load(put(tmp_path / "m.onnx", model))
    loaded.external = True
    loaded.save(tmp_path / "o.onnx")
    (companion,) = tmp_path.glob("o.????????.data")
    assert (tmp_path / "o.onnx").stat().st_size < companion.stat().st_size
    back = Model.load(tmp_path / "o.onnx")
    back.external = False
    back.save(tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx") == model


def test_every_array_is_read(tmp_path):
    loaded = Model.load(put(tmp_path / "m.onnx", rich()))
    for mine, theirs in zip(tensors_of(loaded.proto), tensors_of(rich()), strict=True):
        np.testing.assert_array_equal(loaded.array(mine), numpy_helper.to_array(theirs))


def test_big_arrays_are_views_of_the_file(tmp_path):
    loaded = Model.load(put(tmp_path / "m.onnx", mlp(sizes=(8, 300, 4))))
    assert not loaded.array(loaded.proto.graph.initializer[0]).flags.owndata


def test_replace_then_save(tmp_path):
    model = Model.load(put(tmp_path / "m.onnx", mlp(sizes=(8, 300, 4))))
    weight, bias = model.proto.graph.initializer[:2]
    model.replace(weight, np.ones((300, 8), np.float32))
    model.replace(bias, np.zeros(0, np.float32))
    np.testing.assert_array_equal(model.array(weight), np.ones((300, 8)))
    model.save(tmp_path / "o.onnx")
    after = onnx.load(tmp_path / "o.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(after[0]), np.ones((300, 8)))
    assert numpy_helper.to_array(after[1]).shape == (0,)
    assert len(after[0].raw_data) == 9600


def test_a_replaced_transposed_array_keeps_its_values(tmp_path):
    model = Model.load(put(tmp_path / "m.onnx", mlp(sizes=(8, 300, 4))))
    array = np.arange(2400, dtype=np.float32).reshape(8, 300).T
    model.replace(model.proto.graph.initializer[0], array)
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), array)


names = st.text(max_size=8) | st.just("onnxprune:payload:0")
tensors = st.builds(
    lambda size, name: TensorProto(name=name, data_type=2, dims=[size], raw_data=bytes([size % 251]) * size),
    st.sampled_from([0, 5, wire.INLINE - 1, wire.INLINE, wire.INLINE + 1, 5000]), names,
)  # fmt: skip


def graph_of(children):
    def build(weights, constants, bodies, doc):
        graph = onnx.GraphProto(doc_string=doc, initializer=weights)
        for tensor in constants:
            graph.node.add(op_type="Constant").attribute.add(name="value", type=4).t.CopyFrom(tensor)
        for body in bodies:
            graph.node.add(op_type="If").attribute.add(name="then_branch", type=5).g.CopyFrom(body)
        return graph

    few = st.lists(tensors, max_size=2)
    return st.builds(build, few, few, children, names | st.just("d" * 3000))


@given(st.recursive(graph_of(st.just([])), lambda inner: graph_of(st.lists(inner, max_size=2)), max_leaves=6))
@settings(max_examples=60, deadline=None)
def test_put_back_is_the_inverse_of_take_out(graph):
    kept: dict[str, memoryview] = {}

    def keep(at, size):
        token = f"{wire.TOKEN}{len(kept)}"
        kept[token] = data[at : at + size]
        return token

    model = onnx.ModelProto(ir_version=8, graph=graph)
    data = memoryview(model.SerializeToString())
    thin = b"".join(wire.take_out(data, keep))
    assert len(kept) == sum(len(t.raw_data) > wire.INLINE for t in tensors_of(model))
    whole = b"".join(wire.put_back(memoryview(thin), kept.__getitem__))
    assert onnx.ModelProto.FromString(whole) == model


@pytest.mark.parametrize("tensor", [False, True])
def test_attributes_of_many_numbers_are_parsed_and_their_tensors_found(tensor):
    """Numbers of the trees of a forest are fields of their own, which Python walks slowly."""
    attribute = onnx.AttributeProto(name="values", type=onnx.AttributeProto.FLOATS, floats=[0.5] * 100_000)
    if tensor:  # no attribute has both; its bytes are not lost all the same
        attribute.t.CopyFrom(onnx.helper.make_tensor("t", 1, [wire.INLINE], bytes(4 * wire.INLINE), raw=True))
    model = onnx.ModelProto(ir_version=8)
    model.graph.node.add(op_type="TreeEnsembleClassifier").attribute.add().CopyFrom(attribute)
    data, kept = memoryview(model.SerializeToString()), []
    thin = b"".join(wire.take_out(data, lambda at, size: f"{wire.TOKEN}{kept.append(data[at : at + size])}"))
    assert [len(part) for part in kept] == [4 * wire.INLINE] * tensor
    whole = b"".join(wire.put_back(memoryview(thin), lambda location: kept[0]))
    assert onnx.ModelProto.FromString(whole) == model
