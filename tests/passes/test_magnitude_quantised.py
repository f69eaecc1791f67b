"""magnitude on weights that are stored as integers or as their nonzero entries."""

import numpy as np
from onnx import TensorProto

from onnxprune_passes import Magnitude
from tests.helpers import builders
from tests.helpers.builders import matmul, node, normal, smallest, tensor
from tests.helpers.running import load, prune
from tests.passes.pruned import values


def test_quantised_weights_are_pruned_to_their_zero_point():
    proto = builders.qdq((-5, 5))
    before = load(proto)
    array, scale, zero = (values(before, n) for n in ("w", "scale", "zero"))
    score = np.abs(array.astype(np.float32) - zero.astype(np.float32)) * scale
    mask = np.zeros(2048, bool)
    mask[np.argsort(score.reshape(-1), kind="stable")[:1024]] = True
    expected = np.where(mask.reshape(64, 32), zero, array)
    got = values(prune(proto, sparsity=0.5))
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, expected)


def test_an_unsigned_weight_with_zero_point_128():
    array = values(load(builders.qlinear()))
    got = values(prune(builders.qlinear(), sparsity=0.5))
    assert set(got[got != array]) == {128}
    assert np.count_nonzero(got == 128) == 1024
    assert np.abs(got[got != 128].astype(int) - 128).min() >= np.abs(array[got == 128].astype(int) - 128).max()


def test_quality_of_a_quantised_weight_uses_dequantised_values():
    array = values(load(builders.qlinear())).astype(np.float32)
    real = (array - 128) * np.float32(0.05)
    got = values(prune(builders.qlinear(), quality=0.7))
    np.testing.assert_array_equal(got == 128, (np.abs(real) < 0.7 * real.std()) | (array == 128))


def test_a_quantised_weight_without_a_known_zero_point_is_left_alone():
    proto = matmul(np.ones((64, 32), np.int8), [node("Cast", ["w"], ["v"], to=TensorProto.FLOAT)])
    opened = load(proto)
    assert "without a known zero point" in Magnitude(sparsity=0.5).run(opened).skipped["w"].text


def test_a_sparse_initializer_is_pruned_as_its_dense_tensor():
    array = smallest(normal(64, 32), 1500)
    proto = matmul(array)
    kept = np.flatnonzero(array)
    del proto.graph.initializer[:]
    sparse = proto.graph.sparse_initializer.add(dims=[64, 32])
    sparse.values.CopyFrom(tensor("w", array.reshape(-1)[kept]))
    sparse.indices.CopyFrom(tensor("w_at", kept))
    np.testing.assert_array_equal(values(prune(proto, sparsity=0.8)), smallest(array, round(0.8 * 2048)))
