"""What models are run on, and how their outputs are compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

import onnxprune
from onnxprune.errors import DataError, OptionError, ToleranceMissed
from onnxprune.model.model import Model
from onnxprune.runtime import samples as data
from onnxprune.runtime.deviation import OutputDeviation, compare
from onnxprune.runtime.metrics import of_deviations
from onnxprune.runtime.session import Input, inputs_of, open_session, run
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise
from tests.helpers.builders import info, mlp, model


def item(*shape, name: str = "x") -> Input:
    return Input(name, shape, np.float32, "tensor(float)")


def samples(*shape) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def saved(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


# data -------------------------------------------------------------------------------------------------


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
    feeds, count = data.load(saved(tmp_path, x=array), [item(*shape)], limit)
    assert [np.shape(feed["x"]) for feed in feeds] == expected
    assert count == (len(feeds) if len(given) == len(shape) + 1 else sum(len(feed["x"]) for feed in feeds))
    flat = np.concatenate([np.ravel(feed["x"]) for feed in feeds])
    np.testing.assert_array_equal(flat, array.reshape(-1)[: flat.size])


def test_a_folder_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", samples(5, 3))
    np.save(tmp_path / "z.npy", samples(5, 2))
    (feed,), count = data.load(tmp_path, [item("N", 3), item("N", 2, name="z")])
    assert (feed["x"].shape, feed["z"].shape, count) == ((5, 3), (5, 2), 5)


def test_a_folder_of_bundles(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=np.full((2, 3), number, np.float32))
    (feed,), count = data.load(tmp_path, [item("N", 3)])
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


# synthesis --------------------------------------------------------------------------------------------

I64, BOOL = TensorProto.INT64, TensorProto.BOOL
Y = [info("y", None)]


def gather():
    nodes = [helper.make_node("Cast", ["ids"], ["i"], to=I64), helper.make_node("Gather", ["t", "i"], ["y"])]
    return model(nodes, [info("ids", ["batch", "seq"], TensorProto.INT32)], Y, {"t": samples(3, 4)})


def masked():
    nodes = [helper.make_node("Cast", ["attention_mask"], ["m"], to=1), helper.make_node("Div", ["x", "m"], ["y"])]
    return model(nodes, [info("x", ["N", 4]), info("attention_mask", ["N", 4], I64)], Y)


def equal():
    """The run fails unless some entry equals 7: the index is the number of such entries minus 1."""
    nodes = [
        helper.make_node("Equal", ["x", "seven"], ["e"]),
        helper.make_node("Cast", ["e"], ["n"], to=I64),
        helper.make_node("ReduceMax", ["n"], ["one"], keepdims=0),
        helper.make_node("Sub", ["one", "ones"], ["index"]),
        helper.make_node("Gather", ["t", "index"], ["y"]),
    ]
    weights = {"seven": np.array([7]), "ones": np.array(1), "t": samples(1, 4)}
    return model(nodes, [info("x", [3], I64)], Y, weights)


def switch():
    nodes = [helper.make_node("Where", ["c", "a", "b"], ["y"])]
    return model(nodes, [info("c", ["n"], BOOL), info("a", ["n"]), info("b", ["n"])], Y)


def windows():
    """Only lengths divisible by 320 can be reshaped."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return model(nodes, [info("x", ["batch", "length"])], Y, {"shape": np.array([-1, 320])})


@pytest.mark.parametrize("build", [gather, masked, equal, switch, windows, mlp])
def test_inputs_are_found(tmp_path, build):
    (tmp_path / "m.onnx").write_bytes(build().SerializeToString())
    session = open_session(tmp_path / "m.onnx")
    made, again = (synthesise(Model.load(tmp_path / "m.onnx"), session, 3) for _ in range(2))
    assert len(made) == 3
    for one, other in zip(made, again, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
        assert np.isfinite(run(session, one)["y"]).all()
    assert {name: a.dtype for name, a in made[0].items()} == {i.name: np.dtype(i.dtype) for i in inputs_of(session)}


def impossible_file(folder):
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("Add", ["r", "w"], ["y"])]
    proto = model(nodes, [info("x", [1, "odd"])], Y, {"s": np.array([11, 13]), "w": samples(11, 13)})
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_inputs_that_are_not_found(tmp_path):
    path = impossible_file(tmp_path)
    with pytest.raises(CannotSynthesise):
        synthesise(Model.load(path), open_session(path), 1)
    found = onnxprune.verify(path, path)
    assert found.source == "none"
    assert "--data" in found.reason
    with pytest.raises(ToleranceMissed, match="cannot be checked") as caught:
        onnxprune.transform(path, tmp_path / "o.onnx", ["encode"], tolerance=0.5)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "o.onnx").exists()


def test_an_input_without_a_numpy_type(tmp_path):
    proto = model([helper.make_node("Identity", ["x"], ["y"])], [info("x", [1], TensorProto.STRING)], Y)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert "string" in onnxprune.verify(tmp_path / "m.onnx", tmp_path / "m.onnx").reason


# deviation --------------------------------------------------------------------------------------------

rows = hnp.arrays(np.float32, (6, 5), elements=st.floats(-1e3, 1e3, width=32))


@given(rows, rows)
@settings(deadline=None)
def test_numbers_against_their_formulas(a, b):
    batches = zip(np.split(a, 3), np.split(b, 3), strict=True)
    found = OutputDeviation("y")
    for x, y in batches:
        found.add(x, y)
    x, y = a.astype(float).ravel(), b.astype(float).ravel()
    assert found.max_abs == np.abs(x - y).max()
    assert found.top1_agreement == np.mean(a.argmax(1) == b.argmax(1))
    error, norms = np.linalg.norm(x - y), np.linalg.norm(x) * np.linalg.norm(y)
    if error and np.linalg.norm(x):
        assert found.sqnr_db == pytest.approx(20 * math.log10(np.linalg.norm(x) / error), abs=1e-6)
        assert found.relative_l2 == pytest.approx(error / np.linalg.norm(x))
    if norms:
        assert found.cosine == pytest.approx(x @ y / norms, abs=1e-6)


def deviation(a, b) -> OutputDeviation:
    (found,) = compare([{"y": a}], [{"y": b}])
    return found


def test_equal_outputs():
    found = deviation(samples(2, 3), samples(2, 3))
    assert (found.max_abs, found.sqnr_db, found.cosine, found.top1_agreement) == (0, math.inf, 1, 1)
    nan = np.array([[np.nan, np.inf, 1]])
    assert deviation(nan, nan).max_abs == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_lost_finiteness_misses_every_tolerance(bad):
    good = np.eye(4) + samples(4, 4) / 100
    broken = good + 1e-6
    broken[2, 0] = bad
    found = deviation(good, broken)
    assert found.max_abs == math.inf
    assert found.facts()["max_abs"] is None
    assert found.top1_agreement == 0.75
    assert of_deviations("agreement", [found]) == 75
    assert (of_deviations("sqnr", [found]), of_deviations("cosine", [found])) == (-1000, 0)
    assert of_deviations("mse", [found]) == math.inf


def test_another_shape_misses_every_tolerance():
    found = OutputDeviation("y")
    found.add(samples(2, 3), samples(2, 3))
    found.add(samples(2, 3), samples(2, 4))
    assert (of_deviations("sqnr", [found]), of_deviations("cosine", [found])) == (-1000, 0)
    assert of_deviations("mse", [found]) == math.inf


def test_labels_sequences_and_maps():
    labels = deviation(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert (labels.max_abs, labels.top1_agreement) == (math.inf, 0.5)
    ragged = deviation([samples(2), samples(3)], [samples(2), samples(3) + 0.5])
    assert ragged.max_abs == 0.5
    assert deviation([{"a": 0.25}], [{"a": 1.0}]).max_abs == 0.75
    assert deviation([{"a": 0.25}], [{"b": 0.25}]).max_abs == math.inf
    assert deviation([samples(2)], []).max_abs == math.inf


def test_the_worst_output_counts():
    a = np.zeros((4, 2))
    a[:, 0] = 10
    b = a.copy()
    b[3] = a[3] + np.array([-1, 1]) * math.sqrt(2)  # error power 4 of 400: 20 dB
    good, bad = deviation(a, a), deviation(a, b)
    for pair in ([good, bad], [bad, good]):
        assert of_deviations("sqnr", pair) == pytest.approx(20)
        assert of_deviations("mse", pair) == pytest.approx(0.5)
        assert of_deviations("cosine", pair) == bad.cosine
    assert of_deviations("sqnr", [good]) == 1000


def test_agreement_needs_classes():
    with pytest.raises(OptionError, match="--metric"):
        of_deviations("agreement", [deviation(samples(4, 1), samples(4, 1))])


def test_outputs_with_other_names():
    with pytest.raises(OptionError, match="z"):
        compare([{"y": samples(1)}], [{"z": samples(1)}])


def test_custom_operators_go_on_unverified(tmp_path):
    proto = mlp(sizes=(8, 64, 4))
    proto.opset_import.add(domain="acme", version=1)
    proto.graph.node.add(op_type="Sparkle", domain="acme", input=["y"], output=["z"])
    proto.graph.output[0].name = "z"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx", sparsity=0.5)
    assert (result.deviation.source, "acme" in result.deviation.reason) == ("none", True)
    assert result.weights[0].zeros == 256
    with pytest.raises(ToleranceMissed, match="cannot be checked"):
        onnxprune.compress(tmp_path / "m.onnx", tmp_path / "p.onnx", tolerance=0.1)
    assert not (tmp_path / "p.onnx").exists()
