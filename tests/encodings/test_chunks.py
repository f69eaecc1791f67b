"""Large weights whose rows are decoded in chunks: every reader takes them for one weight.

The limit above which ONNX Runtime folds nothing is lowered, so that small weights are large ones.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import compose

import onnxprune
from onnxprune.encodings import smallest
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import arrays, feeds_of, load, run, serialise

LIMIT = 1 << 14
FORMS = [("flat", "int8:3"), ("bitmask", "int8"), ("dense", "int8:3")]


def product(size: int = 1 << 14, left: bool = False):
    """A pruned matrix [rows, 64] in a MatMul; no kernel reads integers of the left one."""
    rows = size // 64
    weight = normal(rows, 64)
    weight[np.random.default_rng(0).random(weight.shape) < 0.7] = 0
    x, y = ([64, "N"], [rows, "N"]) if left else (["N", rows], ["N", 64])
    nodes = [node("MatMul", ["w", "x"] if left else ["x", "w"], ["y"])]
    return model(nodes, [info("x", x)], [info("y", y)], {"w": weight}, 21)


def encoded(encoding: str, values: str):
    opened = load(product())
    Encode(values=values, encoding=encoding).run(opened)
    return opened


def test_what_would_take_more_than_twice_the_memory_at_load_is_left_out(monkeypatch):
    """A bitmask makes three bytes an entry and sixteen for each that is kept."""
    monkeypatch.setattr(smallest, "FOLDED", LIMIT)
    for zeros, held in ((0.7, "bitmask"), (0.3, "dense")):
        weight = normal(256, 64)
        weight[np.random.default_rng(0).random(weight.shape) < zeros] = 0
        x, y = info("x", ["N", 256]), info("y", ["N", 64])
        opened = load(model([node("MatMul", ["x", "w"], ["y"])], [x], [y], {"w": weight}, 21))
        Encode(values="int8").run(opened)
        assert [each.encoding for each in encoded_weights(opened)] == [held]


@pytest.mark.parametrize(("encoding", "values"), FORMS)
def test_chunks_decode_to_what_the_whole_does(monkeypatch, encoding, values):
    whole = encoded(encoding, values)
    monkeypatch.setattr(smallest, "FOLDED", LIMIT)
    chunked = encoded(encoding, values)
    assert "Concat" in {each.op_type for each in chunked.proto.graph.node}
    assert "Concat" not in {each.op_type for each in whole.proto.graph.node}
    (found,), (expected,) = encoded_weights(chunked), encoded_weights(whole)
    assert (found.encoding, found.stored_as, found.intact) == (expected.encoding, expected.stored_as, True)
    np.testing.assert_array_equal(found.array(chunked), expected.array(whole))
    np.testing.assert_array_equal(found.parts.array(chunked), expected.parts.array(whole))
    feeds = feeds_of(chunked.proto)
    np.testing.assert_array_equal(run(serialise(chunked), feeds)[0], run(serialise(whole), feeds)[0])


@pytest.mark.parametrize(("encoding", "values"), [("bitmask", "int8"), ("flat", "int8:3"), ("dense", "int8:3")])
def test_a_second_encode_gives_the_same_file(monkeypatch, encoding, values):
    monkeypatch.setattr(smallest, "FOLDED", LIMIT)
    opened = encoded(encoding, values)
    first = serialise(opened)
    Decode().run(opened)
    Encode(encoding=encoding).run(opened)
    assert serialise(opened) == first


def test_every_command_reads_chunks_as_one_weight(tmp_path, monkeypatch):
    monkeypatch.setattr(smallest, "FOLDED", LIMIT)
    opened = encoded("bitmask", "int8")
    (tmp_path / "e.onnx").write_bytes(serialise(opened))
    (facts,) = onnxprune.inspect(tmp_path / "e.onnx")
    zeros = int((arrays_of(tmp_path) == 0).sum())
    assert (facts["name"], facts["shape"], facts["zeros"]) == ("w", [256, 64], zeros)
    (form,) = onnxprune.compat(tmp_path / "e.onnx").forms
    assert (form.form, form.weights) == ("bitmask int8 for MatMul", 1)
    onnxprune.pack(tmp_path / "e.onnx", tmp_path / "e.onnxz")
    onnxprune.unpack(tmp_path / "e.onnxz", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (tmp_path / "e.onnx").read_bytes()
    prefixed = load(compose.add_prefix(onnx.load(tmp_path / "e.onnx"), "net/"))
    Decode().run(prefixed)
    assert list(arrays(prefixed)) == ["net/w"]


def arrays_of(folder) -> np.ndarray:
    """The weight of the file e.onnx, decoded."""
    onnxprune.decode(folder / "e.onnx", folder / "d.onnx")
    return onnx.numpy_helper.to_array(onnx.load(folder / "d.onnx").graph.initializer[0])


def test_rows_that_do_not_fit_leave_the_encoding_out(monkeypatch):
    monkeypatch.setattr(smallest, "FOLDED", 1 << 15)
    for rows, held in ((2, True), (1, False)):
        weight = np.where(np.arange(1 << 14) % 3, np.float32(0), normal(1 << 14)).reshape(rows, -1)
        x, y = info("x", ["N", rows]), info("y", ["N", (1 << 14) // rows])
        opened = load(model([node("MatMul", ["x", "w"], ["y"])], [x], [y], {"w": weight}, 21))
        Encode(values="int8", encoding="bitmask").run(opened)
        assert bool(encoded_weights(opened)) == held


@pytest.mark.parametrize("values", ["shared:4", "shared:8"])
def test_a_codebook_of_floats_becomes_one_of_integers_where_a_kernel_reads_it(monkeypatch, values):
    monkeypatch.setattr(smallest, "FOLDED", LIMIT)
    opened = load(product())
    change = Encode(values=values).run(opened)
    (weight,) = encoded_weights(opened)
    asked = values.replace("shared", "int8").removesuffix(":8")
    assert (weight.values, weight.fused) == ("int8", True)
    assert any(f"'w' is {asked} in place of {values}: onnxruntime would decode it" in n for n in change.notes)
    opened = load(product(left=True))
    change = Encode(values=values).run(opened)
    assert not encoded_weights(opened)
    assert any("'w' keeps exact values: onnxruntime would decode it at every run" in n for n in change.notes)
