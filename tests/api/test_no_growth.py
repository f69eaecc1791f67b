"""Models that no form makes smaller: the file stays as it was, byte for byte."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxprune
from tests.helpers.builders import mlp
from tests.helpers.running import put

TYPES = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}
WAYS = {
    "encode": lambda model, out: onnxprune.encode(model, out, verify=False),
    "encode auto": lambda model, out: onnxprune.encode(model, out, values="auto", loss=0, verify=False),
    "encode of small weights": lambda model, out: onnxprune.encode(model, out, encoding="coo", verify=False),
    "compress without a loss": lambda model, out: onnxprune.compress(model, out, loss=0, verify=False),
    "decode": lambda model, out: onnxprune.decode(model, out, verify=False),
    "strip": lambda model, out: onnxprune.strip(model, out, verify=False),
}


def typed(proto: onnx.ModelProto, element: int) -> onnx.ModelProto:
    """The model in another type of floats."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    for tensor in proto.graph.initializer:
        values = np.random.default_rng(len(tensor.name)).standard_normal(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = element
    return proto


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("opset", [7, 9, 12, 21])
def test_a_model_that_nothing_makes_smaller_stays_as_it_was(tmp_path, opset, element, way):
    model, out = put(tmp_path / "m.onnx", typed(mlp((64, 96, 8), opset=opset), TYPES[element])), tmp_path / "o.onnx"
    WAYS[way](model, out)
    assert out.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("element", TYPES)
def test_values_that_no_coder_shrinks(tmp_path, element):
    """Random bits: what a packed file adds is less than what the graph gives back."""
    proto = typed(mlp((64, 96, 8)), TYPES[element])
    for tensor in proto.graph.initializer:
        tensor.raw_data = np.random.default_rng(0).bytes(len(tensor.raw_data))
    sizes = onnxprune.pack(put(tmp_path / "m.onnx", proto), tmp_path / "m.onnxz")
    assert sizes.after <= sizes.before
