"""Words where they are needed: what a file is, which node it is, what to do instead."""

from __future__ import annotations

import gzip
import pickle

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import DataError, ModelError, NotLoaded, OutputError, one_line
from tests.helpers.builders import info, matmul, model, normal
from tests.helpers.commands import call
from tests.helpers.running import put

CONTENT = matmul().SerializeToString()
FOREIGN = {
    "m.ort": (b"\x18\0\0\0ORTM" + bytes(100), ".ort format"),
    "m.onnx.gz": (gzip.compress(CONTENT), "gunzip"),
    "m.onnx.zst": (b"\x28\xb5\x2f\xfd" + CONTENT, "unzstd"),
    "m.pt": (b"PK\x03\x04" + CONTENT, "zip archive"),
    "m.tflite": (b"\x1c\0\0\0TFL3" + CONTENT, "TFLite"),
    "m.onnx": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


def unnamed(operator: str, nodes: int = 1, opset: int = 17, dtype=np.float32, **kw) -> onnx.ModelProto:
    """x [1, 64, 9, 9] -> one operator after the other, each with a weight."""
    names = ["x", *(f"h{n}" for n in range(1, nodes)), "y"]
    made = [helper.make_node(operator, [names[n], "w"], [names[n + 1]], **kw) for n in range(nodes)]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [info("x", [1, 64, 9, 9], element)], [info("y", None, element)]
    return model(made, *ends, {"w": normal(64, 64, 1, 1, dtype=dtype)}, opset=opset, ir_version=10)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", ["compress", "inspect", "verify"])
def test_a_file_that_is_no_model_is_called_what_it_is(refused, tmp_path, name, command):
    content, said = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    more = [tmp_path / name] if command == "verify" else []
    line = refused(1, command, tmp_path / name, *more)
    assert said in line
    assert name in line


@pytest.mark.parametrize("name", ["d.csv", "d.pkl", "d.parquet", "d.bin", "d.npz"])
def test_data_of_another_kind_get_a_sentence_of_ours(refused, tmp_path, name):
    files = {"d.csv": b"1,2,3\n", "d.pkl": pickle.dumps({"x": 1}), "d.parquet": b"PAR1\0", "d.bin": b"\xff\0\1"}
    (tmp_path / name).write_bytes(files.get(name, CONTENT))
    line = refused(1, "compress", put(tmp_path / "m.onnx", matmul()), "--data", tmp_path / name)
    assert name in line
    assert "numpy.savez" in line
    assert "allow_pickle" not in line


def test_a_model_that_the_runtime_cannot_load_names_the_node_and_the_way_on(refused, tmp_path):
    bfloat16 = put(tmp_path / "b.onnx", unnamed("Conv", opset=22, dtype=ml_dtypes.bfloat16))
    plugin = put(tmp_path / "p.onnx", unnamed("BatchedNMSDynamic_TRT", nodes=3))
    assert "Conv(y)" in (line := refused(1, "compress", bfloat16))
    assert "--no-verify" in line
    assert "one of 3 such nodes, the first is BatchedNMSDynamic_TRT(h1)" in refused(1, "compress", plugin)
    np.savez(tmp_path / "d.npz", x=normal(1, 64, 9, 9))
    assert "without --data, --no-verify" in refused(1, "compress", plugin, "--data", tmp_path / "d.npz")
    for source in (bfloat16, plugin):
        call("compress", source, "-o", tmp_path / "o.onnx", "--no-verify")
        with pytest.raises(NotLoaded, match=r"\(.*y.*\); verify=False goes on|such nodes.*; verify=False"):
            onnxprune.compress(source, tmp_path / "o2.onnx")


def test_an_operator_of_no_such_opset_says_so_in_words(refused, tmp_path):
    line = refused(1, "compress", put(tmp_path / "m.onnx", matmul(opset=99)))
    assert "under development" in line
    assert "/onnxruntime/core/" not in line


def test_what_takes_sequences_and_optional_values_says_what_can_be_given(tmp_path):
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 64])
    for kind, operator in (("sequence", "SequenceAt"), ("optional", "OptionalGetElement")):
        given = helper.make_value_info("s", getattr(helper, f"make_{kind}_type_proto")(tensor))
        nodes = [
            helper.make_node(operator, ["s", "first"] if kind == "sequence" else ["s"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ]
        weights = {"w": normal(64, 32), "first": np.array(0)}
        path = put(tmp_path / "m.onnx", model(nodes, [given], [info("y", None)], weights, opset=18))
        printed = call("compress", path, "-o", tmp_path / "o.onnx").output
        assert "which --data cannot hold either" in printed
        with pytest.raises(DataError, match="data can hold tensors only"):
            onnxprune.compress(path, tmp_path / "o.onnx", data={"s": normal(4, 1, 64)})


def test_texts_are_data_too(tmp_path):
    nodes = [helper.make_node("Equal", ["s", "yes"], ["e"]), helper.make_node("Cast", ["e"], ["h"], to=1)]
    nodes.append(helper.make_node("MatMul", ["h", "w"], ["y"]))
    weights = {"w": normal(64, 32), "yes": np.array("yes", object)}
    proto = model(nodes, [info("s", ["N", 64], TensorProto.STRING)], [info("y", ["N", 32])], weights, opset=19)
    path = put(tmp_path / "m.onnx", proto)
    texts = np.where(normal(20, 64) > 0, "yes", "no")
    np.savez(tmp_path / "d.npz", s=texts)
    for data in (tmp_path / "d.npz", {"s": texts.astype(object)}):
        assert onnxprune.compress(path, tmp_path / "o.onnx", data=data).deviation.source == "data"
    with pytest.raises(DataError, match=r"tensor\(string\)"):
        onnxprune.compress(path, tmp_path / "o.onnx", data={"s": normal(20, 64)})


@pytest.fixture
def packed(tmp_path):
    """A model with external data, and its packed form, far from each other."""
    (tmp_path / "far").mkdir()
    onnx.save(matmul(), tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    onnxprune.pack(tmp_path / "m.onnx", tmp_path / "far" / "m.onnxz")
    return tmp_path / "far" / "m.onnxz"


def test_commands_that_write_no_model_read_packed_ones(tmp_path, packed):
    plain = tmp_path / "m.onnx"
    assert call("inspect", packed).output == call("inspect", plain).output
    assert call("compat", packed).output == call("compat", plain).output
    assert "onnxruntime" in call("compat", packed, "--run").output
    assert "shares measured" in call("inspect", packed, "--cost").output
    assert "y: equal" in call("verify", plain, packed).output
    pytest.importorskip("jinja2", reason="needs the report extra")
    pytest.importorskip("matplotlib", reason="needs the report extra")
    call("report", packed, plain, "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert f"<h1>{packed}</h1>" in page
    assert "/onnxprune-" not in page


def test_a_damaged_packed_model_is_named_as_it_was_given(refused, packed):
    packed.write_bytes(packed.read_bytes()[:-9])
    assert str(packed) in refused(1, "inspect", packed)


def test_a_folder_as_output_takes_the_name_of_the_model(refused, tmp_path):
    source = put(tmp_path / "m.onnx", matmul())
    (tmp_path / "out").mkdir()
    call("compress", source, "-o", tmp_path / "out")
    call("decode", tmp_path / "out" / "m.onnx", "-o", tmp_path / "out", "--in-place")
    call("pack", source, "-o", tmp_path / "out")
    (tmp_path / "out" / "m.onnx").unlink()
    call("unpack", tmp_path / "out" / "m.onnxz", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "m.onnx").read_bytes() == source.read_bytes()
    assert "--in-place" in refused(1, "compress", source, "-o", tmp_path)


def test_python_reads_keywords_and_the_command_line_options(tmp_path):
    source = put(tmp_path / "m.onnx", matmul())
    with pytest.raises(OutputError) as caught:
        onnxprune.decode(source, source)
    assert str(caught.value) == f"{source} is the input; give in_place=True to overwrite it"
    assert one_line(caught.value) == f"{source} is the input; give --in-place to overwrite it"
    named = ModelError("weight '--data' stays, and a--b: give --names-from (--metric sqnr)")
    assert str(named) == "weight '--data' stays, and a--b: give names_from (metric sqnr)"
