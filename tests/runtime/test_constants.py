"""A node by itself: computed by onnxruntime, or by onnx where that has no kernel."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.errors import RuntimeFailure
from onnxprune.runtime.session import evaluate
from tests.helpers.builders import matmul, normal


@pytest.mark.parametrize(
    ("opset", "dtype"), [(13, np.int8), (21, np.int8), (28, np.int8), (21, ml_dtypes.int4), (28, ml_dtypes.int4)]
)
def test_a_node_is_computed_at_every_opset_and_type(opset, dtype):
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1)
    weight, scale = normal(4, 6).round().astype(dtype), np.abs(normal(6)) + 1
    [found] = evaluate(node, [weight, scale], matmul(opset=opset))
    np.testing.assert_allclose(found, weight.astype(np.float32) * scale, rtol=1e-6)


def test_what_onnx_computes_otherwise_is_not_taken_from_it():
    """onnxruntime has no kernel for bfloat16, and the reference implementation passes over the lengths."""
    node = helper.make_node("RNN", ["x", "w", "r", "", "n"], ["y"], hidden_size=3)
    arrays = [normal(5, 1, 2), normal(1, 3, 2), normal(1, 3, 3), None, np.array([2], np.int32)]
    assert not evaluate(node, arrays, matmul())[0][2:].any()
    arrays[:3] = [array.astype(ml_dtypes.bfloat16) for array in arrays[:3]]
    with pytest.raises(RuntimeFailure, match="RNN"):
        evaluate(node, arrays, matmul())


def test_a_norm_of_numbers_below_zero():
    """The reference implementation leaves the signs in the sum, and ONNX Runtime has no kernel for bfloat16."""
    node = helper.make_node("LpNormalization", ["w"], ["y"], p=1, axis=-1)
    [found] = evaluate(node, [np.array([[3.0, -1.0]], np.float32)], matmul())
    np.testing.assert_allclose(found, [[0.75, -0.25]])
    with pytest.raises(RuntimeFailure, match="LpNormalization"):
        evaluate(node, [np.array([[3.0, -1.0]], ml_dtypes.bfloat16)], matmul())


def test_what_nothing_computes_is_told():
    node = helper.make_node("Nonsense", ["w"], ["y"])
    with pytest.raises(RuntimeFailure, match="Nonsense"):
        evaluate(node, [np.zeros(3, np.float32)], matmul())
    wrong = helper.make_node("Cast", ["w"], ["y"], to=TensorProto.STRING + 90)
    with pytest.raises(RuntimeFailure):
        evaluate(wrong, [np.zeros(3, np.float32)], matmul())
