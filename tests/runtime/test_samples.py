"""Samples from files and folders, cut and held against the inputs of a model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxprune
from onnxprune.errors import DataError
from onnxprune.runtime import samples as data
from onnxprune.runtime.session import Input, open_session
from onnxprune.search import sensitivity
from tests.helpers.arrays import samples
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.running import put


def item(*shape, name: str = "x") -> Input:
    return Input(name, shape, np.float32, "tensor(float)")


def saved(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def loaded(path, inputs: list[Input], limit: int | None = None) -> data.Samples:
    return data.cut(data.read(path), str(path), inputs, limit)


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
    found = loaded(saved(tmp_path, x=array), [item(*shape)], limit)
    feeds, count = found.feeds, found.count
    assert [np.shape(feed["x"]) for feed in feeds] == expected
    assert count == (len(feeds) if len(given) == len(shape) + 1 else sum(len(feed["x"]) for feed in feeds))
    flat = np.concatenate([np.ravel(feed["x"]) for feed in feeds])
    np.testing.assert_array_equal(flat, array.reshape(-1)[: flat.size])


def test_a_folder_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", samples(5, 3))
    np.save(tmp_path / "z.npy", samples(5, 2))
    found = loaded(tmp_path, [item("N", 3), item("N", 2, name="z")])
    (feed,), count = found.feeds, found.count
    assert (feed["x"].shape, feed["z"].shape, count) == ((5, 3), (5, 2), 5)


def test_a_folder_of_bundles(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=np.full((2, 3), number, np.float32))
    found = loaded(tmp_path, [item("N", 3)])
    (feed,), count = found.feeds, found.count
    np.testing.assert_array_equal(feed["x"][:, 0], [0, 0, 1, 1, 2, 2])
    assert count == 6


def bundles(folder, *parts):
    for number, arrays in enumerate(parts):
        np.savez(folder / f"{number:02}.npz", **arrays)
    return folder


def test_what_is_the_same_in_each_file_takes_one_value_for_all(tmp_path):
    inputs = [item("N", 3), item(name="rate"), item(2, 5, name="state")]
    state = samples(2, 5)
    bundles(tmp_path, *({"x": samples(n, 3), "rate": np.float32(7), "state": state} for n in (2, 3)))
    found = loaded(tmp_path, inputs)
    (feed,) = found.feeds
    assert (found.count, feed["x"].shape, float(feed["rate"])) == (5, (5, 3), 7)
    np.testing.assert_array_equal(feed["state"], state)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([{"x": samples(2, 3)}, {"z": samples(2, 3)}], ["same names", "'z'", "00.npz"]),
        ([{"x": samples(2, 3)}, {"x": samples(2, 4)}], ["'x'", "00.npz has shape (2, 3)", "01.npz (2, 4)"]),
        ([{"x": samples(3)}, {"x": samples(2, 3)}], ["'x'", "01.npz (2, 3)"]),
    ],
)
def test_files_that_do_not_go_together_are_named(tmp_path, parts, said):
    with pytest.raises(DataError) as caught:
        loaded(bundles(tmp_path, *parts), [item("N", 3)])
    assert all(part in str(caught.value) for part in said), caught.value


def test_large_samples_are_few_in_a_batch(monkeypatch):
    monkeypatch.setattr(data, "NUMBERS", 100)
    x, sizes = [item("N", 30)], [1, 7, 8]
    assert [len(feed["x"]) for feed in data.cut({"x": samples(7, 30)}, "", x).feeds] == [3, 3, 1]
    assert [len(feed["x"]) for feed in data.cut({"x": samples(2, 300)}, "", [item("N", 300)]).feeds] == [1, 1]
    assert [len(data.cut({"x": samples(n, 12)}, "", [item("N", 12)]).feeds[0]["x"]) for n in sizes] == sizes


@pytest.mark.parametrize("most", [1, 5, 8, 11])
def test_no_fewer_samples_than_a_fixed_batch_are_taken(most):
    assert data.cut({"x": samples(20, 3)}, "", [item(8, 3)], most).count == 8


def test_a_fixed_batch_is_calibrated_with(tmp_path):
    proto = mlp(sizes=(64, 128, 64))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    source = put(tmp_path / "m.onnx", proto)
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=saved(tmp_path, x=samples(64, 64)))
    assert result.promise.samples == 32


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
        loaded(path, [item(*s, name=n) for n, s in zip(names, shapes, strict=True)])


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
    found = loaded(saved(tmp_path, x=array), inputs)
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


def one_at_a_time(kind: str, batch: int | None = 1) -> onnx.ModelProto:
    """A model with a free first axis that runs a batch of 1 alone: its shape is in a Reshape, or in a state."""
    if kind == "reshape":
        held = {"shape": np.array([1, 96]), "w": normal(96, 48)}
        nodes = [node("Reshape", ["x", "shape"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
        return model(nodes, [info("x", ["N", 2, 48])], [info("y", ["N", 48])], held)
    held = {"w": normal(1, 96, 48), "r": normal(1, 96, 32, seed=1)}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "w", "r", "", "", "h0"], ["all", "y"], hidden_size=32),
    ]
    return model(nodes, [info("x", ["N", 5, 48]), info("h0", [1, batch, 32])], [info("y", [1, "N", 32])], held)


@pytest.mark.parametrize("kind", ["reshape", "state"])
def test_samples_are_given_one_by_one_where_the_model_runs_no_more(tmp_path, kind):
    proto = one_at_a_time(kind)
    arrays = {"x": normal(40, *(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]), seed=3)}
    arrays |= {"h0": normal(1, 1, 32)} if kind == "state" else {}
    source, given = put(tmp_path / "m.onnx", proto), saved(tmp_path, **arrays)
    found, inputs = data.load(given, open_session(source))
    assert found.count == len(found.feeds) == 40
    assert inputs[0].shape[0] == 1
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in found.feeds]), arrays["x"])
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=given)
    assert result.deviation is not None
    assert (result.deviation.source, result.deviation.samples) == ("data", 40)
    onnxprune.prune(source, tmp_path / "p.onnx", sparsity=0.5, data=given, samples=8)
    assert sensitivity.scan(source, tmp_path / "s.json", data=given, metric="sqnr").layers


def test_a_model_that_does_not_run_says_so_of_the_samples_as_they_are(tmp_path):
    held = {"shape": np.array([7, 96])}
    proto = model([node("Reshape", ["x", "shape"], ["y"])], [info("x", ["N", 96])], [info("y", [7, 96])], held)
    session = open_session(put(tmp_path / "m.onnx", proto))
    found, inputs = data.load(saved(tmp_path, x=normal(40, 96)), session)
    assert inputs[0].shape[0] == "N"
    assert [len(feed["x"]) for feed in found.feeds] == [32, 8]


@pytest.mark.parametrize("batch", [1, 4, 40])
def test_a_state_is_for_as_many_samples_as_it_has_along_an_unnamed_axis(tmp_path, batch):
    source = put(tmp_path / "m.onnx", one_at_a_time("state", batch=None))
    given = saved(tmp_path, x=normal(40, 5, 48, seed=3), h0=normal(1, batch, 32))
    found, _ = data.load(given, open_session(source))
    assert [len(feed["x"]) for feed in found.feeds] == [batch] * (40 // batch)
    assert onnxprune.verify(source, source, data=given).samples == 40
    assert onnxprune.compress(source, tmp_path / "o.onnx", data=given).deviation.samples == 40


def graph_network() -> onnx.ModelProto:
    """Nodes [nodes, 24] and edges between them [2, edges] with attributes: what each edge carries, scaled."""
    nodes = [
        node("Gather", ["edges", "zero"], ["start"], axis=0), node("MatMul", ["x", "w"], ["h"]),
        node("Gather", ["h", "start"], ["carried"]), node("Mul", ["carried", "attributes"], ["scaled"]),
        node("Mul", ["scaled", "rate"], ["y"]),
    ]  # fmt: skip
    inputs = [info("x", ["nodes", 24]), info("edges", [2, "edges"], TensorProto.INT64), info("rate", [])]
    inputs.append(info("attributes", ["edges", 1]))
    held = {"w": normal(24, 256), "zero": np.array(0)}
    return model(nodes, inputs, [info("y", ["edges", 256])], held)


def one_graph(seed: int) -> dict[str, np.ndarray]:
    count, edges = 5 + seed % 3, 9 + seed % 4
    return {
        "x": normal(count, 24, seed=seed), "rate": np.float32(2 + seed),
        "edges": np.random.default_rng(seed).integers(0, count, (2, edges)), "attributes": normal(edges, 1, seed=seed),
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 20])
def test_first_axes_that_count_different_things_are_a_run_each(tmp_path, number):
    source, graphs = put(tmp_path / "m.onnx", graph_network()), [one_graph(seed) for seed in range(number)]
    folder = bundles(tmp_path, *graphs) if number > 1 else saved(tmp_path, **graphs[0])
    found, _ = data.load(folder, open_session(source))
    assert (found.count, found.whole) == (number, True)
    for feed, graph in zip(found.feeds, graphs, strict=True):
        assert feed.keys() == graph.keys()
        assert all(np.array_equal(feed[name], graph[name]) for name in graph)
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=folder)
    assert result.deviation.samples == number
    assert result.promise is None if number == 1 else result.promise.samples == 10
    assert sensitivity.scan(source, tmp_path / "s.json", data=folder, metric="sqnr").layers


def test_sizes_that_contradict_the_models_are_no_run(tmp_path):
    source = put(tmp_path / "m.onnx", graph_network())
    for wrong in ({"attributes": normal(4, 1)}, {"x": normal(5, 23)}):
        with pytest.raises(DataError, match="number of samples"):
            onnxprune.verify(source, source, data=one_graph(0) | wrong)


@pytest.mark.parametrize("shape", [[1, "T", 24], ["N", "T", 24]])
def test_samples_of_unequal_sizes_are_a_run_each(tmp_path, shape):
    proto = model([node("MatMul", ["x", "w"], ["y"])], [info("x", shape)], [info("y", None)], {"w": normal(24, 256)})
    source, sounds = put(tmp_path / "m.onnx", proto), [{"x": samples(1, 5 + seed % 3, 24)} for seed in range(20)]
    folder = bundles(tmp_path, *sounds)
    found, _ = data.load(folder, open_session(source))
    assert [feed["x"].shape for feed in found.feeds] == [sound["x"].shape for sound in sounds]
    assert onnxprune.compress(source, tmp_path / "o.onnx", data=folder).promise.samples == 10


def test_nothing_is_no_run(tmp_path):
    source = put(tmp_path / "m.onnx", mlp())
    with pytest.raises(DataError, match="no samples"):
        onnxprune.verify(source, source, data=samples(0, 8))
