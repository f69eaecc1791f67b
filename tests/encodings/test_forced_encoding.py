"""An encoding that was asked for by name is the one that is used, and the model is raised for it alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.positions.bitmask import Bitmask
from onnxprune_passes import Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import feeds_of, load, run, serialise

LARGE = (2048, 1024)  # as many entries as make rows worth their bytes


def product(shape, density: float, opset: int):
    keep = np.random.default_rng(0).random(shape) < density
    weight = np.where(keep, normal(*shape), np.float32(0))
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    ends = [info("x", ["N", shape[0]])], [info("y", ["N", shape[1]])]
    return model(nodes, *ends, {"w": weight}, opset, ir_version=5)


def encode(shape, density: float, opset: int, **options):
    """(the model encoded, what encode says, the encodings used)."""
    opened = load(product(shape, density, opset))
    change = Encode(**options).run(opened)
    return opened, change, [group.encoding for group in encoded_weights(opened)]


@pytest.mark.parametrize("encoding", GRAPH)
@pytest.mark.parametrize("opset", [10, 17])
def test_a_large_matrix_is_stored_as_asked(encoding, opset):
    opened, _, used = encode(LARGE, 0.1, opset, encoding=encoding, values="shared:4")
    assert used == [encoding]
    run(serialise(opened), feeds_of(opened.proto))


def test_rows_are_preferred_where_nothing_is_asked():
    assert encode(LARGE, 0.1, 17, values="shared:4")[2] == ["rows"]
    assert encode(LARGE, 0.1, 17, values="shared:4", prefer="size")[2] == ["flat"]


@pytest.mark.parametrize("values", ["exact", "half", "shared:4"])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("encoding", ["flat", "rows", "bitmask"])
def test_a_model_is_raised_as_far_as_the_encoding_wants(values, density, encoding):
    opened, change, used = encode((128, 96), density, 10, encoding=encoding, values=values)
    assert used == [encoding], change.notes
    assert opened.opset == max(10, GRAPH[encoding].opset)


class Copy(Bitmask):
    """An encoding that needs no newer opset."""

    name = "copy"


@pytest.mark.parametrize("encoding", ["bitmask", "copy"])
@pytest.mark.parametrize(("values", "opset"), [("exact", 9), ("half", 9), ("shared:4", 10)])
def test_an_encoding_of_a_low_opset_raises_nothing(encoding, values, opset, monkeypatch):
    monkeypatch.setitem(GRAPH, Copy.name, Copy())
    opened, _, used = encode((128, 96), 0.1, 9, encoding=encoding, values=values)
    assert (opened.opset, used) == (opset, [encoding])


def test_a_model_that_cannot_be_raised_says_which_encoding_lacks_what():
    proto = product((128, 96), 0.3, 10)
    proto.functions.add(name="unused", domain="other").opset_import.add(version=10)
    proto.opset_import.add(domain="other", version=1)
    opened = load(proto)
    change = Encode(encoding="flat", values="shared:4").run(opened)
    assert "'w' keeps exact values: flat cannot hold shared:4 where it stands" in change.notes


@pytest.mark.parametrize("encoding", ["auto", "graph", "coo"])
def test_scales_and_zero_points_stay_dense(encoding):
    rng = np.random.default_rng(0)
    held = {
        "q": rng.integers(-127, 128, (64, 2048)).astype(np.int8), "scale": np.ones(2048, np.float32),
        "zero": np.zeros(2048, np.int8),
    }  # fmt: skip
    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=1), node("MatMul", ["x", "w"], ["y"])]
    opened = load(model(nodes, [info("x", ["N", 64])], [info("y", ["N", 2048])], held))
    Encode(encoding=encoding).run(opened)
    assert {"scale", "zero"} <= {tensor.name for tensor in opened.proto.graph.initializer}
    assert not opened.proto.graph.sparse_initializer
