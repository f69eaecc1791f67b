"""Kinds of models from public issue trackers, as small as can be; docs/field-log.md says where they are from."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import ModelError
from onnxprune.model.discovery import find
from tests.helpers.builders import info, matmul, mlp, model, node, normal, tensor
from tests.helpers.repository import tool
from tests.helpers.running import load, put, run

F16, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
KINDS = {}


def kind(build):
    """A builder of (model, inputs)."""
    KINDS[build.__name__] = build
    return build


def product(nodes, weights, shape=(3, 64), **kw):
    """A model on one input x of float32."""
    return model(nodes, [info("x", list(shape))], [info("y", None)], weights, **kw), {"x": normal(*shape, seed=9)}


@kind
def ends_without_a_shape():
    proto, feeds = product([node("MatMul", ["x", "w"], ["y"])], {"w": normal(64, 32)})
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
    return proto, feeds


@kind
def initializers_missing_among_the_inputs_at_ir_3():
    proto = mlp((64, 32, 8), opset=9)
    proto.ir_version = 3
    return proto, {"x": normal(3, 64)}


@kind
def an_input_that_lies_about_its_initializer():
    proto, feeds = product([node("MatMul", ["x", "w"], ["y"])], {"w": normal(64, 32)}, ir_version=3, opset=9)
    proto.graph.input[1].type.tensor_type.shape.ClearField("dim")
    proto.graph.input[1].type.tensor_type.shape.dim.add(dim_param="a")
    proto.graph.input[1].type.tensor_type.shape.dim.add(dim_param="b")
    return proto, feeds


@kind
def every_initializer_an_input_of_a_newer_model():
    proto = mlp((64, 32, 8))
    proto.graph.input.extend(info(t.name, list(t.dims)) for t in proto.graph.initializer)
    return proto, {"x": normal(3, 64)}


@kind
def an_initializer_that_only_branches_read():
    def branch(name, twice):
        nodes = [node("MatMul", ["x", "w"], [f"{name}h"]), node("Mul" if twice else "Add", [f"{name}h", "b"], [name])]
        return helper.make_graph(nodes, name, [], [info(name, None)])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("t", True), else_branch=branch("e", False))]
    inputs = [info("x", [3, 64]), info("c", [], TensorProto.BOOL)]
    weights = {"w": normal(64, 32), "b": normal(32, seed=1)}
    return model(nodes, inputs, [info("y", None)], weights), {"x": normal(3, 64), "c": np.array(True)}


@kind
def a_decoder_that_was_merged_from_two():
    """With and without a cache: the branches share the weights, and give outputs of other shapes."""

    def branch(name, cached):
        inner = [node("MatMul", ["x", "q"], [f"{name}q"]), node("MatMul", ["x", "k"], [f"{name}n"])]
        inner += [node("Concat", ["past", f"{name}n"], [f"{name}k"], axis=0)] if cached else []
        inner += [] if cached else [node("Identity", [f"{name}n"], [f"{name}k"])]
        inner += [node("MatMul", [f"{name}q", "head"], [f"{name}o"])]
        return helper.make_graph(inner, name, [], [info(f"{name}o", None), info(f"{name}k", None)])

    nodes = [
        helper.make_node("If", ["use"], ["y", "present"], then_branch=branch("a", True), else_branch=branch("b", False))
    ]
    inputs = [info("x", [3, 64]), info("past", ["P", 32]), info("use", [1], TensorProto.BOOL)]
    weights = {"q": normal(64, 32), "k": normal(64, 32, seed=1), "head": normal(32, 50, seed=2)}
    feeds = {"x": normal(3, 64), "past": normal(2, 32), "use": np.array([True])}
    return model(nodes, inputs, [info("y", None), info("present", None)], weights), feeds


@kind
def a_table_that_is_the_head_too():
    nodes = [
        node("Gather", ["w", "ids"], ["e"]), node("Relu", ["e"], ["h"]),
        node("Transpose", ["w"], ["v"], perm=[1, 0]), node("MatMul", ["h", "v"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("ids", [5], TensorProto.INT64)], [info("y", None)], {"w": normal(40, 64)})
    return proto, {"ids": np.arange(5) * 7}


@kind
def floats_that_were_halved_with_casts_around():
    """What a converter to float16 leaves: inputs and outputs of float32, a bias and a kernel behind Casts."""
    nodes = [
        node("Cast", ["x"], ["x16"], to=F16), node("Cast", ["x16"], ["xf"], to=FLOAT),
        node("Cast", ["w"], ["InsertedCast_w"], to=FLOAT), node("Cast", ["b"], ["InsertedCast_b"], to=FLOAT),
        node("Conv", ["xf", "InsertedCast_w", "InsertedCast_b"], ["h"]), node("Cast", ["h"], ["h16"], to=F16),
        node("Cast", ["h16"], ["same16"], to=F16), node("Cast", ["same16"], ["y"], to=FLOAT),
    ]  # fmt: skip
    weights = {"w": normal(16, 8, 3, 3, dtype=np.float16), "b": normal(16, dtype=np.float16)}
    return product(nodes, weights, (1, 8, 6, 6))


@kind
def halves_in_a_list_of_integers():
    weight = normal(64, 32, dtype=np.float16)
    proto, feeds = product([node("Cast", ["w"], ["v"], to=FLOAT), node("MatMul", ["x", "v"], ["y"])], {"w": weight})
    held = proto.graph.initializer[0]
    held.ClearField("raw_data")
    held.int32_data.extend(weight.view(np.uint16).reshape(-1).tolist())
    return proto, feeds


@kind
def bfloat16_in_a_list_of_integers():
    weight = normal(64, 32, dtype=ml_dtypes.bfloat16)
    proto, feeds = product([node("Cast", ["w"], ["v"], to=FLOAT), node("MatMul", ["x", "v"], ["y"])], {"w": weight})
    held = proto.graph.initializer[0]
    held.ClearField("raw_data")
    held.int32_data.extend(weight.view(np.uint16).reshape(-1).tolist())
    return proto, feeds


@kind
def a_constant_that_is_a_list_of_floats():
    nodes = [
        helper.make_node("Constant", [], ["flat"], value_floats=normal(64 * 32).tolist()),
        helper.make_node("Constant", [], ["shape"], value_ints=[64, 32]),
        node("Reshape", ["flat", "shape"], ["w"]), node("MatMul", ["x", "w"], ["y"]),
    ]  # fmt: skip
    return product(nodes, {})


@kind
def a_constant_that_is_sparse():
    values = numpy_helper.from_array(normal(100), "values")
    indices = numpy_helper.from_array(np.sort(np.random.default_rng(0).choice(2048, 100, False)), "indices")
    sparse = helper.make_sparse_tensor(values, indices, [64, 32])
    nodes = [helper.make_node("Constant", [], ["w"], sparse_value=sparse), node("MatMul", ["x", "w"], ["y"])]
    return product(nodes, {})


@kind
def a_resize_with_empty_operands():
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        node("Resize", ["h", "roi", "scales", "sizes"], ["y"], mode="nearest"),
    ]
    nothing = np.zeros(0, np.float32)
    weights = {"w": normal(16, 8, 3, 3), "roi": nothing, "scales": nothing, "sizes": np.array([1, 16, 8, 8])}
    return product(nodes, weights, (1, 8, 6, 6), opset=11)


@kind
def a_transposed_convolution_quantised_by_output():
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-127, 128, (8, 16, 3, 3), np.int8), "s": rng.uniform(0.01, 0.1, 16).astype(np.float32)}
    nodes = [node("DequantizeLinear", ["w", "s"], ["v"], axis=1), node("ConvTranspose", ["x", "v"], ["y"])]
    return product(nodes, weights, (1, 8, 6, 6))


@kind
def a_quantised_weight_that_is_transposed_behind():
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-127, 128, (8, 16, 3, 3), np.int8), "s": rng.uniform(0.01, 0.1, 16).astype(np.float32)}
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"], axis=1), node("Transpose", ["d"], ["v"], perm=[1, 0, 2, 3]),
        node("Conv", ["x", "v"], ["y"]),
    ]  # fmt: skip
    return product(nodes, weights, (1, 8, 6, 6))


@kind
def a_weight_that_is_dequantised_twice():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-127, 128, (64, 32), np.int8), "s": rng.uniform(0.01, 0.1, 32).astype(np.float32),
        "z": np.zeros(32, np.int8),
    }  # fmt: skip
    chain = [
        node("DequantizeLinear", ["w", "s", "z"], ["a"], axis=1),
        node("QuantizeLinear", ["a", "s", "z"], ["b"], axis=1),
        node("DequantizeLinear", ["b", "s", "z"], ["v"], axis=1),
    ]  # fmt: skip
    return product([*chain, node("Gemm", ["x", "v"], ["y"])], weights)


@kind
def initializers_that_nothing_reads():
    proto, feeds = product([node("MatMul", ["x", "w"], ["y"])], {"w": normal(64, 32)})
    proto.graph.initializer.extend(tensor(f"left{n}", normal(50, 50, seed=n)) for n in range(3))
    return proto, feeds


@kind
def a_batch_that_was_baked_in():
    """The batch is free, but a Reshape and a Split want the one of the export."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Reshape", ["h", "baked"], ["r"]),
        helper.make_node("Split", ["r", "sizes"], ["a"], axis=0), node("Relu", ["a"], ["y"]),
    ]  # fmt: skip
    weights = {"w": normal(64, 32), "baked": np.array([1, 4, 8]), "sizes": np.array([1])}
    proto = model(nodes, [info("x", ["batch", 64])], [info("y", None)], weights)
    return proto, {"x": normal(1, 64)}


@kind
def a_batch_norm_of_an_old_exporter():
    """`spatial` and `momentum` of opset 7, a scale that is 1 throughout, and averages that are outputs by name."""
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["n"], epsilon=2e-5, momentum=0.9, spatial=1),
        node("LeakyRelu", ["n"], ["y"], alpha=0.0),
    ]
    weights = {
        "w": normal(16, 8, 3, 3), "g": np.ones(16, np.float32), "b": normal(16), "m": normal(16, seed=1),
        "v": np.abs(normal(16, seed=2)) + 1,
    }  # fmt: skip
    return product(nodes, weights, (1, 8, 6, 6), opset=8, ir_version=3)


@kind
def a_batch_norm_in_training_mode():
    """Its statistics are those of the batch, so that no channel is constant by itself."""
    weight = normal(16, 8, 3, 3)
    weight[3] = 0
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["n", "mean", "var"], training_mode=1),
        node("Relu", ["n"], ["y"]),
    ]
    weights = {
        "w": weight, "g": np.ones(16, np.float32), "b": normal(16), "m": normal(16, seed=1),
        "v": np.abs(normal(16, seed=2)) + 1,
    }  # fmt: skip
    return product(nodes, weights, (2, 8, 6, 6), opset=15)


@kind
def an_opset_before_7():
    nodes = [
        node("Conv", ["x", "w"], ["h"], kernel_shape=[3, 3]), node("Relu", ["h"], ["r"]),
        node("Reshape", ["r"], ["f"], shape=[1, 256]), node("Gemm", ["f", "fc", "b"], ["y"], broadcast=1, transB=1),
    ]  # fmt: skip
    weights = {"w": normal(16, 8, 3, 3), "fc": normal(10, 256, seed=1), "b": normal(10)}
    return product(nodes, weights, (1, 8, 6, 6), opset=3, ir_version=3)


@kind
def an_output_that_is_a_weight_and_one_that_is_an_input():
    proto, feeds = product([node("MatMul", ["x", "w"], ["y"])], {"w": normal(64, 32)})
    proto.graph.output.extend([info("w", [64, 32]), info("x", [3, 64])])
    return proto, feeds


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_goes_through_every_command(name):
    proto, feeds = KINDS[name]()
    tests = tool("backend_tests")
    try:
        sets = [(list(feeds.values()), run(proto, feeds))]
    except Exception:  # onnxruntime's exceptions share no base class
        sets = []
    found = tests.checked(tests.Case(name, proto, sets, 1e-4, 1e-4))
    if name == "an_opset_before_7":  # onnxruntime has no kernels for it; the commands do their work
        assert (found.word, found.reason, sets) == ("refused", "nothing is expected of it", [])
    else:
        assert (found.word, found.reason, len(sets)) == ("passed", "", 1)


@pytest.fixture
def cached(tmp_path):
    """A model in a cache as hubs lay it out: model and data are links to blobs of other names."""
    for folder in ("blobs", "snapshots/a/onnx", "made"):
        (tmp_path / folder).mkdir(parents=True)
    onnx.save(mlp((64, 96, 8)), tmp_path / "made" / "m.onnx", save_as_external_data=True, location="m.onnx_data",
              size_threshold=0)  # fmt: skip
    for number, name in enumerate(("m.onnx", "m.onnx_data")):
        (tmp_path / "made" / name).rename(tmp_path / "blobs" / f"blob{number}")
        (tmp_path / "snapshots/a/onnx" / name).symlink_to(f"../../../blobs/blob{number}")
    return tmp_path / "snapshots/a/onnx/m.onnx"


def test_a_model_of_links_into_a_cache(cached, tmp_path):
    blobs = {path: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    result = onnxprune.compress(cached, tmp_path / "small.onnx", sparsity=0.5)
    assert result.deviation.source == "synthetic"
    assert len(onnxprune.inspect(cached)) == 4
    onnxprune.pack(cached, tmp_path / "p.onnxz")
    assert {path: path.read_bytes() for path in (tmp_path / "blobs").iterdir()} == blobs


def test_shards_of_external_data(tmp_path):
    proto = mlp((64, 96, 8))
    for number, held in enumerate(proto.graph.initializer):
        location = f"m-{number + 1:05d}-of-00004.data"
        (tmp_path / location).write_bytes(bytes(64 * number) + held.raw_data)
        size = len(held.raw_data)
        held.ClearField("raw_data")
        held.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(64 * number)), ("length", str(size))):
            held.external_data.add(key=key, value=value)
    source = put(tmp_path / "m.onnx", proto)
    onnxprune.compress(source, tmp_path / "o.onnx", sparsity=0.0, values="exact")
    onnxprune.pack(source, tmp_path / "p.onnxz")
    assert onnxprune.verify(source, tmp_path / "p.onnxz").outputs[0]["max_abs"] == 0


@pytest.mark.parametrize(("offset", "length"), [(10**15, 8192), (-4096, 8192), (0, 10**15), (4096, 8192)])
def test_external_data_beyond_its_file_is_refused(tmp_path, offset, length):
    proto = matmul()
    held = proto.graph.initializer[0]
    (tmp_path / "w.data").write_bytes(held.raw_data)
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.data"), ("offset", str(offset)), ("length", str(length))):
        held.external_data.add(key=key, value=value)
    with pytest.raises(ModelError, match=r"w\.data|'w'"):
        onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx")


def test_a_folder_with_the_name_of_a_model(tmp_path):
    (tmp_path / "quantized.onnx" / "model").mkdir(parents=True)
    put(tmp_path / "quantized.onnx" / "model" / "m.onnx", matmul())
    from onnxprune.batch.compress_many import compress_many

    batch = compress_many([tmp_path / "quantized.onnx"], tmp_path / "out")
    assert [model.error for model in batch.models] == [None] or not any(model.error for model in batch.models)
    assert (tmp_path / "out" / "model" / "m.onnx").is_file()


def test_the_metadata_that_a_detector_is_used_with_stays(tmp_path):
    proto = mlp((64, 96, 8))
    wanted = {"names": "{0: 'person'}", "stride": "32", "task": "detect", "imgsz": "[640, 640]"}
    helper.set_model_props(proto, wanted)
    onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", strip_metadata=True)
    kept = {entry.key: entry.value for entry in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert wanted.items() <= kept.items()


def test_weights_of_these_kinds_are_found():
    for name, weight in (
        ("a_constant_that_is_sparse", None), ("bfloat16_in_a_list_of_integers", "w"), ("an_opset_before_7", "fc"),
        ("a_weight_that_is_dequantised_twice", "w"), ("a_transposed_convolution_quantised_by_output", "w"),
    ):  # fmt: skip
        found = {w.name: w.reason for w in find(load(KINDS[name]()[0]))}
        assert weight is None or found[weight] is None
