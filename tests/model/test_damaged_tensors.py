"""Tensors that are not what they say are errors that name them."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from onnxprune.errors import ModelError
from onnxprune.model import protobuf as wire
from onnxprune.model.model import Model
from tests.helpers.builders import mlp
from tests.helpers.running import put


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
