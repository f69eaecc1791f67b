"""Samples from files and folders, cut and held against the inputs of a model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import DataError
from onnxprune.runtime import samples as data
from onnxprune.runtime.session import Input
from tests.helpers.arrays import samples
from tests.helpers.builders import info, mlp, model, node


def item(*shape, name: str = "x") -> Input:
    return Input(name, shape, np.float32, "tensor(float)")


def saved(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


@pytest.mark.parametrize(
    ("shape", "given", "limit", "expected"),
    [
        (("N", 3), (70, 3), None, [(32, 3), (32, 3), (6, 3)]),  # free: batches of 32
        ((None, 3), (5, 3), 2, [(2, 3)]),
        ((4, 3), (10, 3), None, [(4, 3), (4, 3)]),  # fixed: whole batches only
        ((4, 3), (10, 3), 5, [(4, 3)]),
        ((1, 3), (3, 3), None, [(1, 3)] * 3),
        ((4, 3), (2, 4, 3), None, [(4, 3), (4, 3)]),  # one axis more: whole inputs
        (("N", 3), (2, 7, 3), 1, [(7, 3)]),
        ((), (3,), None, [()] * 3),
    ],
)
def test_arrays_are_cut(tmp_path, shape, given, limit, expected):
    array = samples(*given)
    found = data.load(saved(tmp_path, x=array), [item(*shape)], limit)
    feeds, count = found.feeds, found.count
    assert [np.shape(feed["x"]) for feed in feeds] == expected
    assert count == (len(feeds) if len(given) == len(shape) + 1 else sum(len(feed["x"]) for feed in feeds))
    flat = np.concatenate([np.ravel(feed["x"]) for feed in feeds])
    np.testing.assert_array_equal(flat, array.reshape(-1)[: flat.size])


def test_a_folder_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", samples(5, 3))
    np.save(tmp_path / "z.npy", samples(5, 2))
    found = data.load(tmp_path, [item("N", 3), item("N", 2, name="z")])
    (feed,), count = found.feeds, found.count
    assert (feed["x"].shape, feed["z"].shape, count) == ((5, 3), (5, 2), 5)


def test_a_folder_of_bundles(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=np.full((2, 3), number, np.float32))
    found = data.load(tmp_path, [item("N", 3)])
    (feed,), count = found.feeds, found.count
    np.testing.assert_array_equal(feed["x"][:, 0], [0, 0, 1, 1, 2, 2])
    assert count == 6


@pytest.mark.parametrize(
    ("shapes", "given", "message"),
    [
        ([(4, 3)], [(3, 3)], "fixed batch"),
        ([("N", 3), ("N", 2)], [(5, 3), (4, 2)], "number of samples"),
        ([(4, 3), (2, 3)], [(8, 3), (8, 3)], "fixed batch"),
    ],
)
def test_counts_that_do_not_fit(tmp_path, shapes, given, message):
    names = "xz"[: len(shapes)]
    path = saved(tmp_path, **{n: samples(*g) for n, g in zip(names, given, strict=True)})
    with pytest.raises(DataError, match=message):
        data.load(path, [item(*s, name=n) for n, s in zip(names, shapes, strict=True)])


def test_data_reaches_the_model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mlp().SerializeToString())
    found = onnxprune.verify(tmp_path / "m.onnx", tmp_path / "m.onnx", data=saved(tmp_path, x=samples(70, 8)))
    assert (found.source, found.samples) == ("data", 70)


@pytest.mark.parametrize(
    ("shape", "given", "size", "expected"),
    [
        (("N", 3), (5, 3), 2, [(2, 3), (2, 3), (1, 3)]),
        (("T", 3), (2, 40, 3), 2, [(40, 3), (40, 3)]),  # whole inputs: the first axis is not that of samples
        ((4, 3), (8, 3), 1, [(4, 3), (4, 3)]),
    ],
)
def test_feeds_are_cut_where_samples_can_be_told_apart(tmp_path, shape, given, size, expected):
    inputs, array = [item(*shape)], samples(*given)
    found = data.load(saved(tmp_path, x=array), inputs)
    pieces = found.pieces(inputs, size)
    assert [piece["x"].shape for piece in pieces] == expected
    assert np.array_equal(np.concatenate([piece["x"] for piece in pieces]), array.reshape(-1, *array.shape[-1:]))
    assert found.single(inputs)["x"].shape == found.pieces(inputs, 1)[0]["x"].shape


def test_sequences_without_an_axis_of_samples_reach_the_model_whole(tmp_path):
    """A convolution of five steps along the first axis of the input."""
    nodes = [
        node("Transpose", ["x"], ["t"]), node("Unsqueeze", ["t", "zero"], ["u"]), node("Conv", ["u", "w"], ["c"]),
        node("Squeeze", ["c", "zero"], ["s"]), node("Transpose", ["s"], ["y"]),
    ]  # fmt: skip
    weights = {"w": samples(64, 24, 5), "zero": np.zeros(1, np.int64)}
    proto = model(nodes, [info("x", ["T", 24])], [info("y", ["steps", 64])], weights)
    onnx.save(proto, tmp_path / "m.onnx")
    data_file = saved(tmp_path, x=samples(16, 40, 24))
    result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx", data=data_file)
    assert result.deviation.samples == 16
    assert onnxprune.costs(tmp_path / "m.onnx", data=data_file).inputs == {"x": [40, 24]}
