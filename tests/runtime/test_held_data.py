"""Samples that a caller holds in memory, inputs that all samples share, and metrics that are functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import DataError, MetricError, OnnxPruneError, OptionError
from onnxprune.runtime import held_data
from onnxprune.runtime.samples import BATCH, cut
from onnxprune.runtime.session import Input
from tests.helpers.arrays import samples
from tests.helpers.builders import mlp
from tests.helpers.running import put

SIZES = (32, 64, 8)
X = samples(70, 32)


@pytest.fixture
def model(tmp_path):
    return put(tmp_path / "m.onnx", mlp(sizes=SIZES))


def item(*shape, name: str = "x", dtype=np.float32) -> Input:
    return Input(name, shape, dtype, f"tensor({np.dtype(dtype)})")


class Tensor:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return X


WAYS = {
    "dict": lambda: {"x": X},
    "array": lambda: X,
    "tensor": Tensor,
    "batches": lambda: [{"x": X[:32]}, {"x": X[32:64]}, {"x": X[64:]}],
    "samples": lambda: ({"x": row} for row in X),
    "lists": lambda: [{"x": Tensor()}],
}


@pytest.mark.parametrize("way", WAYS)
def test_data_in_memory_does_what_a_file_does(model, tmp_path, way):
    np.savez(tmp_path / "x.npz", x=X)
    out = tmp_path / "o.onnx"
    expected = onnxprune.compress(model, tmp_path / "p.onnx", data=tmp_path / "x.npz").facts()
    found = onnxprune.compress(model, out, data=WAYS[way]()).facts()
    assert found["deviation"] == expected["deviation"]
    assert found["weights"] == expected["weights"]
    assert (found["deviation"]["source"], found["deviation"]["samples"]) == ("data", 70)
    first = out.read_bytes()
    onnxprune.compress(model, out, data=WAYS[way]())
    assert out.read_bytes() == first, "the same data gives the same bytes"
    assert not held_data._held


def test_every_function_takes_arrays(model, tmp_path):
    data, out = {"x": X, "targets": np.zeros(70, np.int64)}, tmp_path / "o.onnx"
    for function, options in (
        (onnxprune.compress, {}), (onnxprune.compress, {"max_drop": 50}), (onnxprune.prune, {"sparsity": 0.5}),
        (onnxprune.strip, {}), (onnxprune.encode, {}), (onnxprune.decode, {}),
    ):  # fmt: skip
        assert function(model, out, data=data, **options).deviation.metric.metric == "top1"
    assert onnxprune.transform(model, out, ["magnitude{sparsity=0.5}"], data=data).deviation.samples == 70
    assert onnxprune.verify(model, out, data=data).samples == 70
    assert onnxprune.costs(model, data={"x": X}).source == "data"
    batch = onnxprune.compress_many([model], tmp_path / "many", data=data, sparsity=0.9)
    assert batch.models[0].result["deviation"]["samples"] == 70
    again = onnxprune.compress_many([model], tmp_path / "many", data=data, sparsity=0.9)
    other = onnxprune.compress_many([model], tmp_path / "many", data=data | {"x": X + 1}, sparsity=0.9)
    assert [again.models[0].status, other.models[0].status] == ["skipped", "done"]


def test_a_single_array_in_a_file(model, tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert onnxprune.verify(model, model, data=tmp_path / "x.npy").samples == 70


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"z": X}, "holds no array named 'x'"), ({"x": X, "z": X}, "'z' is not an input"), ({3: X}, "3 is not the"),
        ({"x": [[1.0], [1.0, 2.0]]}, "'x' is no array"), (42, "not int"), ([X], "not list"), ([], "holds no"),
        ([{"x": X[0]}, {"z": X[0]}], "same names"), ([{"x": X[0]}, {"x": X[0, :3]}], "cannot be joined"),
        (X.astype(np.float64), "float64, the model wants"), (X[0], "shape"), (X[:0], "no samples"),
        ({"x": X.tolist()}, "float64"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_one_line(model, tmp_path, data, message):
    with pytest.raises(DataError, match=message) as caught:
        onnxprune.compress(model, tmp_path / "o.onnx", data=data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not held_data._held


def test_one_array_for_several_inputs():
    with pytest.raises(DataError, match="the inputs x, z"):
        cut({held_data.UNNAMED: X}, "data", [item("N", 32), item("N", 32, name="z")])


@pytest.mark.parametrize("number", [np.float32(0.9), np.float64(0.9), np.array(0.9)])
def test_numpy_scalars_are_numbers(model, tmp_path, number):
    onnxprune.compress(model, tmp_path / "p.onnx", sparsity=float(number))
    result = onnxprune.compress(model, tmp_path / "o.onnx", sparsity=number, samples=np.int64(4), jobs=np.int32(1))
    assert result.deviation.samples == 4
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()
    assert onnxprune.verify(model, model, tolerance=np.float32(1), samples=np.uint8(3)).samples == 3


# metrics that are functions -----------------------------------------------------------------------------


def share(outputs, data):
    return np.float64(100 * np.mean(outputs["y"].argmax(1) == data["targets"]))


class Counted:
    """A metric that is an object."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, session, data):
        self.calls += 1
        return len(session.run(None, {"x": data["x"]})[0])


def test_a_function_as_metric(model, tmp_path):
    data = {"x": X, "targets": np.arange(70) % 8}
    deviation = onnxprune.verify(model, model, data=data, metric=share)
    assert deviation.metric.metric == "share"
    assert deviation.metric.result == pytest.approx(onnxprune.verify(model, model, data=data).metric.result)
    counted = Counted()
    result = onnxprune.compress(model, tmp_path / "o.onnx", data=data, metric=counted, max_drop=1)
    assert (result.search.metric, counted.calls > 2) == ("Counted", True)
    found = onnxprune.compress_many([model], tmp_path / "many", data=data, metric=share)
    assert found.models[0].result["deviation"]["metric"]["metric"] == "share"


def test_a_function_that_fails_is_one_line(model, tmp_path):
    def fails(outputs, data):
        raise ValueError("two\nlines")

    for metric, data, kind, message in (
        (fails, X, MetricError, "fails raised ValueError: two lines"),
        (lambda outputs, data: "good", X, MetricError, "gave 'good'"),
        (fails, None, OptionError, "needs data"),
        (7, X, OptionError, "metric cannot be 7"),
    ):
        with pytest.raises(kind, match=message) as caught:
            onnxprune.compress(model, tmp_path / "o.onnx", data=data, metric=metric)
        assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="a function of a module"):
        onnxprune.compress_many([model], tmp_path / "many", data=X, metric=fails)


# inputs that all samples share --------------------------------------------------------------------------


def test_a_scalar_and_a_state_take_one_value_for_all(tmp_path):
    """x [N, 4], rate [], state [2, N, 3]: y = x * rate + sum(state)."""
    nodes = [
        helper.make_node("ReduceSum", ["state", "axes"], ["s"], keepdims=0),
        helper.make_node("Unsqueeze", ["s", "last"], ["sN"]),
        helper.make_node("Mul", ["x", "rate"], ["xr"]),
        helper.make_node("Add", ["xr", "sN"], ["xs"]),
        helper.make_node("MatMul", ["xs", "w"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 32]), ("rate", []), ("state", [2, "N", 3]))
    ]
    weights = [
        onnx.numpy_helper.from_array(np.array([0, 2], np.int64), "axes"),
        onnx.numpy_helper.from_array(np.array([1], np.int64), "last"),
        onnx.numpy_helper.from_array(samples(32, 64), "w"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    path = put(tmp_path / "m.onnx", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    data = {"x": X, "rate": np.float32(2), "state": samples(2, 1, 3)}
    result = onnxprune.compress(path, tmp_path / "o.onnx", data=data, max_drop=50, metric="cosine")
    assert (result.deviation.samples, result.search.held_out.samples) == (70, 35)
    np.savez(tmp_path / "x.npz", **data)
    assert onnxprune.verify(path, tmp_path / "o.onnx", data=tmp_path / "x.npz").samples == 70


@pytest.mark.parametrize(
    ("shapes", "given_", "expected"),
    [
        ([("N", 3), ()], [(70, 3), ()], [((32, 3), ()), ((32, 3), ()), ((6, 3), ())]),
        ([("N", 3), (2, 5)], [(40, 3), (2, 5)], [((32, 3), (2, 5)), ((8, 3), (2, 5))]),
        ([("N", 3), (2, "N")], [(4, 3), (2, 1)], [((1, 3), (2, 1))] * 4),
        ([("N", 3), (2, "N")], [(7, 3), (2, 3)], [((3, 3), (2, 3))] * 2),
        ([("N", 3), (1, "K")], [(4, 3), (1, 9)], [((4, 3), (1, 9))]),
        ([("N", 3), (1, None)], [(2, 3), (1, 9)], [((1, 3), (1, 9))] * 2),
        ([(1, 3), ()], [(3, 3), ()], [((1, 3), ())] * 3),
        ([(1, 3), (2, 5), ()], [(1, 3), (2, 5), ()], [((1, 3), (2, 5), ())]),
        ([("N", 3), (2, 5)], [(4, 3), (4, 2, 5)], [((1, 3), (2, 5))] * 4),
    ],
)
def test_inputs_without_an_axis_for_samples(shapes, given_, expected):
    names = "xyz"[: len(shapes)]
    inputs = [item(*shape, name=name) for shape, name in zip(shapes, names, strict=True)]
    arrays = {name: samples(*shape) if shape else np.float32(1) for name, shape in zip(names, given_, strict=True)}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    found = cut(arrays, "data", inputs)
    assert [tuple(feed[name].shape for name in names) for feed in found.feeds] == expected


@given(st.integers(1, 100), st.integers(1, 40), st.sampled_from([None, 0, 1]), st.integers(1, 4))
@settings(deadline=None)
def test_folds_of_halves_part_the_samples(count, state, half, parts):
    """Each sample is in one half and in one fold of it, and the state is the same in all of them."""
    inputs = [item("N"), item(state, name="state")]
    arrays = {"x": np.arange(count, dtype=np.float32), "state": np.ones(state, np.float32)}
    seen = []
    for part in range(parts):
        try:
            found = cut(arrays, "data", inputs, half=half, fold=(part, parts))
        except DataError:
            continue
        assert all(len(feed["x"]) <= BATCH and feed["state"].shape == (state,) for feed in found.feeds)
        seen += [value for feed in found.feeds for value in feed["x"]]
    whole = [v for h in ([half] if half is not None else [0, 1]) for v in halves(count)[h]]
    assert sorted(seen) == sorted(whole)


def halves(count: int) -> list[list[float]]:
    drawn = np.random.default_rng(0).permutation(count)
    return [drawn[: -(-count // 2)].astype(float).tolist(), drawn[-(-count // 2) :].astype(float).tolist()]


WRONG = [
    {"data": object()}, {"data": {"x": object()}}, {"data": b"x"}, {"metric": 3}, {"sparsity": "0.9"},
    {"samples": "3"}, {"samples": 2.5}, {"tolerance": "1"}, {"max_drop": "1", "data": X}, {"loss": "1"},
    {"max_drop": 1, "time_limit": "1", "data": X}, {"masks": 3, "sparsity": 0.5}, {"jobs": "2"}, {"values": 3},
    {"values": ["int8", 3]}, {"scan": 3}, {"evaluate": 3}, {"verify": "no"}, {"progress": 3}, {"set": "w=0.5"},
    {"sparsity": np.array([0.5, 0.6])}, {"lower_is_better": "yes"}, {"multiple": 2.5}, {"channels": "half"},
]  # fmt: skip


def test_errors_of_python_are_the_projects_own(model, tmp_path):
    for options in WRONG:
        with pytest.raises(OnnxPruneError) as caught:
            onnxprune.compress(model, tmp_path / "o.onnx", **options)
        assert "\n" not in str(caught.value), options
    for paths in ((3, "o.onnx"), (model, 3), (None, "o.onnx"), ([model], "o.onnx"), (onnxprune.load(model), "o")):
        with pytest.raises(OptionError, match="must be a path, not"):
            onnxprune.compress(*paths)
