"""A weight that is coded, packed and unpacked slab by slab is the same as one that is held whole."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.core import chunked, filled, scattered
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.positions import base, bitmask, dense, escape, flat, gathered, rows
from onnxprune.errors import ModelError
from onnxprune.model.discovery import find
from onnxprune_passes.decode import Decode
from onnxprune_passes.encode import Encode
from onnxprune_passes.magnitude import Magnitude
from tests.helpers.builders import info, matmul, model, node, normal
from tests.helpers.running import load, serialise

FORMS = ["exact", "half", "shared:2", "shared:6", "int8", "int8:3", "int4"]


@pytest.fixture
def small(monkeypatch):
    """What makes slabs, pieces and arrays in memory small; units, over which floats are summed, are small before."""
    monkeypatch.setattr(chunked, "UNIT_ELEMENTS", 256)

    def shrink() -> None:
        monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 1024)
        monkeypatch.setattr(filled, "IN_MEMORY", 100)
        for module in (scattered, base, bitmask, dense, escape, flat, gathered, rows):
            monkeypatch.setattr(module, "PIECE", 97)

    return shrink


def made(values, encoding, proto):
    """The bytes of the encoded model, and those of what it is decoded to."""
    opened = load(proto)
    Magnitude(sparsity=0.8).run(opened)
    Encode(values=values, encoding=encoding).run(opened)
    coded = serialise(opened)
    Decode().run(opened)
    return coded, serialise(opened)


@pytest.mark.parametrize("encoding", ["flat", "rows", "bitmask", "escape", "dense", "coo"])
@pytest.mark.parametrize("values", FORMS)
def test_slabs_show_in_no_byte(values, encoding, small):
    proto = matmul(normal(96, 64))
    monolithic = made(values, encoding, proto)
    small()
    assert made(values, encoding, proto) == monolithic


@pytest.mark.parametrize("values", ["exact", "shared:3", "int8"])
def test_kernels_come_back_slab_by_slab(values, small):
    kernel = normal(24, 8, 3, 3)
    proto = model([node("Conv", ["x", "k"], ["y"])], [info("x", ["N", 8, 9, 9])], [info("y", ["N", 24, 7, 7])],
                  {"k": kernel})  # fmt: skip
    monolithic = made(values, "auto", proto)
    small()
    assert made(values, "auto", proto) == monolithic


@pytest.mark.parametrize("linear", [True, False])
def test_foreign_sparse_indices_in_any_order(linear, small):
    array = np.where(np.random.default_rng(0).random((40, 60)) < 0.2, normal(40, 60), 0).astype(np.float32)
    at = np.random.default_rng(1).permutation(np.flatnonzero(array))
    indices = at if linear else np.stack(np.unravel_index(at, array.shape), axis=1)
    proto = matmul(array)
    del proto.graph.initializer[:]
    values = numpy_helper.from_array(array.reshape(-1)[at], "w")
    held = numpy_helper.from_array(indices.astype(np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, held, array.shape))
    small()
    opened = load(proto)
    (weight,) = find(opened)
    np.testing.assert_array_equal(weight.array(opened), array)


def test_a_gap_that_leads_beyond_the_weight_is_damage():
    opened = load(matmul(normal(64, 48)))
    Magnitude(sparsity=0.9).run(opened)
    Encode(encoding="flat").run(opened)
    (group,) = encoded_weights(opened)
    gaps = next(tensor for name, tensor in group.constants.items() if name.endswith("gaps"))
    assert gaps.data_type == TensorProto.UINT8
    opened.replace(gaps, np.full(tuple(gaps.dims), 255, np.uint8))
    with pytest.raises(ModelError, match="is damaged: positions are beyond"):
        group.array(opened)
