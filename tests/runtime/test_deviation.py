"""How outputs of two models are compared."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import OptionError, ToleranceMissed
from onnxprune.report.deviations import remarks, verdict
from onnxprune.runtime.deviation import OutputDeviation, compare
from onnxprune.runtime.metrics import of_deviations
from tests.helpers.arrays import samples
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import put

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


CLASSES = [
    np.array(["cat", "dog", "cat", "owl"], object), np.array([True, False, True, True]),
    np.array([3, 1, 4, 1], np.int64), np.array([3, 1, 4, 1], np.int32), np.array([3, 1, 4, 1], np.uint64),
]  # fmt: skip


@pytest.mark.parametrize("labels", CLASSES, ids=lambda a: str(a.dtype))
def test_classes_agree_or_not(labels):
    other = labels[[0, 1, 2, 1]]
    facts = deviation(labels, other).facts()
    assert (facts["classes"], facts["differs"], facts["says_nothing"]) == (4, "", "")
    assert facts["top1_agreement"] == np.mean(labels == other)
    assert [facts[name] for name in ("sqnr_db", "cosine", "relative_l2")] == [None] * 3
    assert deviation(labels, labels).facts()["max_abs"] == 0
    assert of_deviations("agreement", [deviation(labels, other)]) == 100 * np.mean(labels == other)
    for metric in ("sqnr", "cosine", "mse"):
        with pytest.raises(OptionError, match="no output has numbers"):
            of_deviations(metric, [deviation(labels, other)])


def test_classes_do_not_count_where_numbers_are_compared():
    scores, labels = deviation(samples(4, 4), samples(4, 4)), deviation(CLASSES[2], CLASSES[2][::-1])
    assert (of_deviations("sqnr", [scores, labels]), of_deviations("mse", [scores, labels])) == (1000, 0)
    assert of_deviations("agreement", [scores, labels]) < 100


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_quantised_values_are_numbers(dtype):
    a = np.arange(12, dtype=dtype).reshape(3, 4)
    found = deviation(a, a + np.ones((), dtype))
    assert (found.max_abs, found.classes, found.top1_agreement) == (1, 0, None)


@given(rows, st.lists(st.tuples(st.integers(0, 29), st.sampled_from([np.nan, np.inf, -np.inf])), max_size=30))
@settings(deadline=None)
def test_entries_that_are_not_finite_in_both_are_told_and_left_out(a, places):
    """The numbers are those of the other entries; nothing is called equal where nothing was compared."""
    a, b = a.astype(np.float64), a.astype(np.float64) + 0.25
    for place, value in places:
        a.flat[place] = b.flat[place] = value
    finite = np.isfinite(a)
    found = deviation(a, b)
    assert (found.non_finite, found.differs) == (a.size - finite.sum(), "")
    kept = deviation(a[finite], b[finite])
    assert found.max_abs == kept.max_abs
    assert found.facts()["sqnr_db"] == kept.facts()["sqnr_db"]
    assert found.facts()["cosine"] == kept.facts()["cosine"]
    assert (found.says_nothing == "NaN or Inf throughout") == (not finite.any())
    known = ~np.isnan(a).any(1)
    same = a.argmax(1) == b.argmax(1)
    assert found.top1_agreement == (np.mean(same[known]) if known.any() else None)


@pytest.mark.parametrize(
    ("a", "nothing"),
    [
        (np.zeros((0, 4), np.float32), "empty"), ([], "empty"), (None, "empty"),
        (np.full((2, 3), np.nan), "NaN or Inf throughout"), (np.array([np.inf, -np.inf]), "NaN or Inf throughout"),
        (np.full((2, 3), 0.5, np.float32), "0.5 throughout"), (np.array(["cat", "cat"], object), "cat throughout"),
        (np.array([True, True]), "True throughout"), ([np.ones(2), np.ones(3)], "1 throughout"),
        ([{"a": 0.5}, {"a": 0.5}], "0.5 throughout"), (np.array([0.5]), ""), (np.array([[0.5, 1]]), ""),
        (np.array([np.nan, 1.0]), ""),
    ],
)  # fmt: skip
def test_outputs_that_say_nothing_are_not_called_equal(a, nothing):
    facts = deviation(a, a).facts()
    assert (facts["max_abs"], facts["says_nothing"]) == (0, nothing)
    assert verdict(facts, "data") == (f"says nothing: {nothing} in both" if nothing else "equal")


def test_verdicts():
    a = samples(4, 4)
    assert verdict(deviation(a, a[:, :2]).facts(), "data") == "its shape differs"
    assert verdict(deviation(a, np.full((4, 4), "cat", object)).facts(), "data") == "its type differs"
    assert verdict(deviation([a], [a, a]).facts(), "data") == "its length differs"
    assert verdict(deviation({"cat": 0.5}, {"dog": 0.5}).facts(), "data") == "its keys differ"
    assert verdict(deviation(CLASSES[2], CLASSES[2][::-1]).facts(), "data") == "agreement 0.00 %"
    assert verdict(deviation(CLASSES[2], CLASSES[2][::-1]).facts(), "synthetic") == "100.00 % differ"
    assert verdict(deviation(a, a + 1).facts(), "data") is None
    away = deviation(np.zeros((2, 2)), np.ones((2, 2))).facts()
    assert (verdict(away, "data"), remarks(away)) == (None, ", the original is 0 throughout")


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
    assert (labels.max_abs, labels.top1_agreement, labels.differs) == (math.inf, 0.5, "")
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
    with pytest.raises(OptionError, match="choose metric"):
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


def saturated(tmp_path, value: float) -> Path:
    """x -> y, which is the value whatever x is."""
    proto = mlp(sizes=(32, 64, 8))
    proto.graph.node.add(op_type="Clip", input=["y", "v", "v"], output=["z"])
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), "v"))
    proto.graph.output[0].name = "z"
    return put(tmp_path / "m.onnx", proto)


def test_a_tolerance_of_outputs_that_say_nothing_cannot_be_checked(tmp_path):
    path, out = saturated(tmp_path, 0.5), tmp_path / "o.onnx"
    with pytest.raises(ToleranceMissed, match=r"cannot be checked on these inputs: 'z' is 0\.5 throughout"):
        onnxprune.compress(path, out, sparsity=0.9, tolerance=1)
    assert not out.exists()
    shown = call("compress", path, "-o", out, "--sparsity", "0.9").stdout
    assert "z: says nothing: 0.5 throughout in both" in shown
    with pytest.raises(ToleranceMissed, match="cannot be checked on these inputs"):
        onnxprune.verify(path, out, tolerance=1)


def test_labels_in_the_reports(tmp_path):
    """A string and an integer output: how many of them differ, in every report."""
    proto = mlp(sizes=(32, 64, 8))
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    proto.graph.node.add(op_type="ArgMax", input=["y"], output=["class"], name="top")
    proto.graph.node[-1].attribute.add(name="axis", type=2, i=1)
    proto.graph.node.append(
        onnx.helper.make_node(
            "LabelEncoder", ["class"], ["label"], domain="ai.onnx.ml", keys_int64s=list(range(8)),
            values_strings=[f"c{i}" for i in range(8)],
        )
    )  # fmt: skip
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, ["N", 1])
        for name, kind in (("class", onnx.TensorProto.INT64), ("label", onnx.TensorProto.STRING))
    )
    path, out = put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx"
    words = ("--sparsity", "0.9", "--samples", "64", "--report", tmp_path / "r.html")
    shown = call("compress", path, "-o", out, *words).stdout
    deviation_ = onnxprune.verify(path, out, samples=64)
    classes, labels = deviation_.outputs
    assert 0 < classes["top1_agreement"] == labels["top1_agreement"] < 1
    text = f"{100 * (1 - classes['top1_agreement']):.2f} % differ"
    assert f"class: {text}" in shown
    assert f"label: {text}" in shown
    assert text in (tmp_path / "r.html").read_text()
    with pytest.raises(ToleranceMissed, match=f"agreement is {100 * classes['top1_agreement']:.6g}"):
        onnxprune.verify(path, out, samples=64, tolerance=0.5)


def test_pieces_add_up_to_the_whole(monkeypatch):
    a = samples(7, 3, 5)
    b = a + samples(7, 3, 5) % 3  # whose sums are exact in any order
    a[1, 2, 3] = b[1, 2, 3] = np.nan
    a[4, 0, 0] = np.inf
    for shape in ((7, 3, 5), (105,), (105, 1)):
        found = []
        for entries in (1 << 20, 12):
            monkeypatch.setattr("onnxprune.runtime.deviation._PIECE", entries)
            (deviation,) = compare([{"y": a.reshape(shape)}], [{"y": b.reshape(shape)}])
            found.append((deviation.facts(), deviation.rows, deviation.agreed, deviation.mean_squared))
        assert found[0] == found[1]


@pytest.mark.parametrize(("data", "count"), [(normal(320, 4), 320), (None, 10)])
def test_outputs_that_are_large_are_not_held(tmp_path, monkeypatch, data, count):
    """Ten runs, whose outputs are 4 MB each."""
    monkeypatch.setattr("onnxprune.api.verify._HELD", 1 << 20)
    monkeypatch.setattr("onnxprune.runtime.deviation._PIECE", 1 << 16)
    held = {"w": normal(4, 1 << 15)}
    proto = model([node("MatMul", ["x", "w"], ["y"])], [info("x", [32, 4])], [info("y", [32, 1 << 15])], held)
    path = put(tmp_path / "m.onnx", proto)
    tracemalloc.start()
    try:
        found = onnxprune.verify(path, path, data=data, samples=count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.samples == count
    assert peak < 20 << 20


@pytest.mark.parametrize(("size", "rows"), [("N", False), (8, True)])
def test_a_number_for_each_sample_is_no_row(size, rows, tmp_path):
    """Of speech in each of some frames, say; a model of one sample may have a size for each of its classes."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Squeeze", ["h", "one"], ["y"])]
    for name, weight in (("a", normal(4, 1)), ("b", -normal(4, 1))):
        weights = {"w": weight, "one": np.array([1])}
        put(tmp_path / f"{name}.onnx", model(nodes, [info("x", [size, 4])], [info("y", [size])], weights))
    np.savez(tmp_path / "d.npz", x=samples(16, 4))
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    (output,) = onnxprune.verify(a, b, data=tmp_path / "d.npz").outputs
    assert (output["top1_agreement"] is not None) == rows
    for metric in ("agreement", "expected_agreement"):
        if rows:
            assert onnxprune.verify(a, b, data=tmp_path / "d.npz", metric=metric).metric.result < 100
        else:
            with pytest.raises(OptionError, match="no output has"):
                onnxprune.verify(a, b, data=tmp_path / "d.npz", metric=metric)
