"""Model in, model out: nothing is lost, nothing is half written, hostile references are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.core.files import staged
from onnxprune.errors import ModelError, OutputError
from onnxprune.model import protobuf as wire
from onnxprune.model.model import Model
from onnxprune.model.scopes import tensors_of
from tests.helpers.builders import mlp
from tests.helpers.repository import LENETS, LENETS_PRUNED, ROOT
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


def external(folder: Path, **kw) -> Path:
    """mlp(8, 300, 4) with its tensors in m.data."""
    onnx.save(
        mlp(sizes=(8, 300, 4)), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0, **kw
    )
    return folder / "m.onnx"


def refer(path: Path, **fields: str | None) -> None:
    """Change the first external reference of the file at `path`."""
    model = onnx.load(path, load_external_data=False)
    where = {e.key: e.value for e in model.graph.initializer[0].external_data} | fields
    del model.graph.initializer[0].external_data[:]
    for key, value in where.items():
        if value is not None:
            model.graph.initializer[0].external_data.add(key=key, value=value)
    put(path, model)


# round trips ------------------------------------------------------------------------------------------


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


# tensors that are not what they say -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "raw"),
    [([300, 9], None), ([300, -8], None), ([2**62, 2**62, 0], b""), ([3], b"12345"), ([2**40, 2**40], None)],
)
def test_bytes_that_do_not_fit_the_shape_name_the_tensor(tmp_path, dims, raw):
    proto = mlp(sizes=(8, 300, 4))
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    if raw is not None:
        proto.graph.initializer[0].raw_data = raw
    model = Model.load(put(tmp_path / "m.onnx", proto))
    with pytest.raises(ModelError, match=r"fc0\.weight"):
        model.array(model.proto.graph.initializer[0])


@pytest.mark.parametrize("element", [0, 99])
def test_an_unknown_element_type_names_the_tensor(tmp_path, element):
    proto = mlp(sizes=(8, 300, 4))
    proto.graph.initializer[0].data_type = element
    with pytest.raises(ModelError, match=r"fc0\.weight"):  # noqa: PT012 - refused when opened, or when read
        model = Model.load(put(tmp_path / "m.onnx", proto))
        model.array(model.proto.graph.initializer[0])


def test_names_that_are_no_text(tmp_path):
    data = mlp().SerializeToString().replace(b"fc0.bias", b"fc0.b\xffas")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="UTF-8"):
        Model.load(tmp_path / "m.onnx")


def test_a_forged_token_reaches_no_bytes(tmp_path):
    proto = mlp(sizes=(8, 300, 4))
    proto.graph.initializer[1].ClearField("raw_data")
    proto.graph.initializer[1].data_location = TensorProto.EXTERNAL
    proto.graph.initializer[1].external_data.add(key="location", value="onnxprune:payload:0")
    with pytest.raises(ModelError, match=r"fc0\.bias"):
        Model.load(put(tmp_path / "m.onnx", proto))


def test_nesting_without_end_is_refused(tmp_path):
    tail = b"\x5a" + wire.varint(2000) + bytes(2000)
    data = tail
    for _ in range(1500):
        for number in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            data = wire.varint(number << 3 | 2) + wire.varint(len(data)) + data
    data = b"\x3a" + wire.varint(len(data)) + data
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        Model.load(tmp_path / "m.onnx")


# external data ----------------------------------------------------------------------------------------


def test_external_data_in_and_out(tmp_path):
    path = external(tmp_path)
    model = Model.load(path)
    assert model.companions() == [tmp_path / "m.data"]
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "o.onnx")
    out = tmp_path / "out"
    companions = [p.name for p in out.iterdir() if p.name != "o.onnx"]
    assert len(companions) == 1
    for mine, theirs in zip(tensors_of(onnx.load(out / "o.onnx")), tensors_of(mlp(sizes=(8, 300, 4))), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(theirs))
    raw = onnx.load(out / "o.onnx", load_external_data=False)
    assert {e.value for t in raw.graph.initializer for e in t.external_data if e.key == "location"} == set(companions)


def test_no_empty_companion(tmp_path):
    """Tensors that became small lie in the model itself."""
    model = Model.load(external(tmp_path))
    for tensor in model.proto.graph.initializer:
        model.replace(tensor, np.zeros(3, np.float32))
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "o.onnx")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["o.onnx"]
    assert not any(t.external_data for t in onnx.load(tmp_path / "out" / "o.onnx").graph.initializer)


def test_external_data_without_length(tmp_path):
    path = external(tmp_path)
    refer(path, length=None)
    model = Model.load(path)
    expected = mlp(sizes=(8, 300, 4)).graph.initializer[0]
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), numpy_helper.to_array(expected))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"location": "gone.data"}, "missing"),
        ({"location": ""}, "missing"),
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "../m.data"}, "outside"),
        ({"location": "..\\m.data"}, "outside"),
        ({"location": "sub/../../m.data"}, "outside"),
        ({"location": "x" * 5000}, "damaged"),
        ({"location": "a\0b"}, "damaged"),
        ({"location": "circle"}, "damaged|missing"),
        ({"location": "escape"}, "outside"),
        ({"offset": "abc"}, "damaged"),
        ({"offset": "-64"}, "short"),
        ({"offset": "99999999999999999999"}, "short"),
        ({"length": "4"}, "needs 9,600"),
        ({"length": "-1"}, "needs 9,600"),
    ],
)
def test_a_hostile_reference_is_refused(tmp_path, fields, message):
    (tmp_path / "home").mkdir()
    (tmp_path / "m.data").write_bytes(bytes(99999))
    (tmp_path / "home" / "escape").symlink_to(tmp_path / "m.data")
    (tmp_path / "home" / "circle").symlink_to("circle")
    path = external(tmp_path / "home")
    refer(path, **fields)
    with pytest.raises(ModelError, match=message) as caught:
        Model.load(path)
    assert "fc0.weight" in str(caught.value)


def test_short_external_data_is_refused(tmp_path):
    path = external(tmp_path)
    os.truncate(tmp_path / "m.data", 5000)
    with pytest.raises(ModelError, match="short"):
        Model.load(path)


def test_a_cache_of_symlinks_is_read(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "snap").mkdir()
    external(tmp_path / "store")
    for name in ("m.onnx", "m.data"):
        (tmp_path / "snap" / name).symlink_to(tmp_path / "store" / name)
    assert Model.load(tmp_path / "snap" / "m.onnx").external


# writing ----------------------------------------------------------------------------------------------


def test_in_place_on_external_data(tmp_path):
    path = external(tmp_path)
    for value in (1, 2):
        model = Model.load(path)
        model.replace(model.proto.graph.initializer[0], np.full((300, 8), value, np.float32))
        model.save(path)
    assert (numpy_helper.to_array(onnx.load(path).graph.initializer[0]) == 2).all()
    own = [p.name for p in tmp_path.glob("m.????????.data")]
    assert len(own) == 1, "the data of the first overwrite went with it"
    assert (tmp_path / "m.data").exists(), "what somebody else wrote stays"


def test_a_second_output_does_not_break_the_first(tmp_path):
    model = Model.load(external(tmp_path))
    model.save(tmp_path / "o.onnx")
    old = Model.load(tmp_path / "o.onnx")
    model.replace(model.proto.graph.initializer[0], np.ones((300, 8), np.float32))
    model.save(tmp_path / "o.onnx")
    np.testing.assert_array_equal(
        old.array(old.proto.graph.initializer[0]), numpy_helper.to_array(mlp(sizes=(8, 300, 4)).graph.initializer[0])
    )
    assert (numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[0]) == 1).all()


def test_an_exception_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "o.onnx").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "o.onnx") as place:  # noqa: PT012
        place.write_bytes(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "o.onnx").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["o.onnx"]


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    model = Model(mlp())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        model.save(tmp_path / "o.onnx")
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "o.onnx"
    target.write_bytes(b"old")
    code = f"""
import time
from pathlib import Path
from onnxprune.core.files import staged
with staged(Path({str(target)!r})) as place:
    place.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
    assert target.read_bytes() == b"old"


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    """While another process overwrites the model, every load works and gives one of the two."""
    put(tmp_path / "o.onnx", mlp(seed=0))
    code = f"""
from onnxprune.model.model import Model
from tests.helpers.builders import mlp
for number in range(200):
    Model(mlp(seed=number % 2)).save({str(tmp_path / "o.onnx")!r})
"""
    allowed = [mlp(seed=0), mlp(seed=1)]
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as child:
        while child.poll() is None:
            assert onnx.load(tmp_path / "o.onnx") in allowed
            time.sleep(0.001)
    assert child.returncode == 0


def test_a_model_over_the_protobuf_limit_gets_external_data(tmp_path, monkeypatch):
    proto = mlp(sizes=(64, 64, 64))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    opened = Model.load(tmp_path / "m.onnx")
    monkeypatch.setattr("onnxprune.model.model.PROTOBUF_LIMIT", 2**20 + 20_000)  # 1 MB of slack is kept
    opened.save(tmp_path / "o.onnx")
    (companion,) = tmp_path.glob("o.*.data")
    assert companion.stat().st_size >= 2 * 64 * 64 * 4
    onnx.checker.check_model(tmp_path / "o.onnx", full_check=True)
    assert onnx.load(tmp_path / "o.onnx").graph.node == proto.graph.node
    again = Model.load(tmp_path / "o.onnx")
    for before, after in zip(proto.graph.initializer, again.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(again.array(after), numpy_helper.to_array(before))


def test_new_tensors_beyond_the_budget_go_to_a_scratch_file(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(mlp(sizes=(64, 64, 64)).SerializeToString())
    opened = Model.load(tmp_path / "m.onnx")
    opened.payloads.scratch = tmp_path
    monkeypatch.setattr("onnxprune.model.storage.RESIDENT", 20_000)
    weights = [t for t in opened.proto.graph.initializer if t.name.endswith("weight")]
    for number, tensor in enumerate(weights):
        opened.replace(tensor, np.full((64, 64), number, np.float32))
    assert len(opened.payloads._resident) == 1
    opened.payloads.forget_pages()
    opened.save(tmp_path / "o.onnx")
    assert [numpy_helper.to_array(t).max() for t in onnx.load(tmp_path / "o.onnx").graph.initializer[::2]] == [0, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "o.onnx"]
