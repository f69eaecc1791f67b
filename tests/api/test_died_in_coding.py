"""Neurons that die when weights are stored go, and nothing else changes by it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.core.chunked import ChunkedArray
from onnxprune.encodings.sparse import Sparse
from tests.helpers.builders import mlp, normal
from tests.helpers.running import put, run


def weak(sizes=(128, 200, 64)) -> onnx.ModelProto:
    """A network whose neurons 40 to 79 hardly reach the outputs."""
    proto = mlp(sizes)
    last = next(t for t in proto.graph.initializer if t.name == "fc1.weight")
    array = onnx.numpy_helper.to_array(last).copy()
    array[:, 40:80] *= 1e-4
    last.CopyFrom(onnx.numpy_helper.from_array(array, last.name))
    return proto


def test_neurons_that_nothing_reads_any_more_go(tmp_path):
    source = put(tmp_path / "m.onnx", weak())
    result = onnxprune.compress(source, tmp_path / "o.onnx", loss=0.1)
    removed = {cut.name: cut.indices for cut in result.removed}
    assert removed == {name: list(range(40, 80)) for name in ("fc0.weight", "fc0.bias", "fc1.weight")}
    kept = onnxprune.compress(source, tmp_path / "k.onnx", loss=0.1, strip=False)
    assert result.output.bytes < kept.output.bytes
    x = normal(20, 128)
    for name in "ok":  # kernels round activations in blocks, which lie elsewhere then
        onnxprune.decode(tmp_path / f"{name}.onnx", tmp_path / f"{name}.decoded.onnx")
    outputs = [run(onnx.load(tmp_path / f"{name}.decoded.onnx"), {"x": x})[0] for name in "ok"]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)
    again = onnxprune.compress(tmp_path / "o.onnx", tmp_path / "a.onnx", loss=0.1)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()
    assert again.ratio >= 1


@pytest.mark.parametrize(("options", "same"), [({"strip": False}, True), ({"values": "shared:4"}, False)], ids=str)
def test_nothing_follows_where_shapes_stay_or_forms_are_given(options, same, tmp_path):
    source = put(tmp_path / "m.onnx", weak())
    result = onnxprune.compress(source, tmp_path / "o.onnx", loss=0.1, **options)
    assert [step for step in result.passes if step.startswith("encode")] == result.passes[-1:]
    assert bool(result.removed) == ("strip" not in options)  # given forms: magnitude pruned, and then they went
    again = onnxprune.compress(tmp_path / "o.onnx", tmp_path / "a.onnx", loss=0.1, **options)
    assert again.ratio >= 1
    assert not same or (tmp_path / "a.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_empty_slices_are_seen(data, rows, columns, depth):
    array = np.array(
        data.draw(st.lists(st.integers(0, 1), min_size=rows * columns * depth, max_size=rows * columns * depth)),
        np.float32,
    ).reshape(rows, columns, depth)  # fmt: skip
    chunked = ChunkedArray.rowwise(array.shape, array.dtype, lambda start, stop: array[start:stop])
    for source in (array, chunked):
        sparse = Sparse.of(source, np.zeros((), np.float32))
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            assert sparse.keeps_nothing_of([axis]) == (not array.any(axis=others).all())
