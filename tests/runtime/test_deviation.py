"""How outputs of two models are compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import onnxprune
from onnxprune.errors import OptionError, ToleranceMissed
from onnxprune.runtime.deviation import OutputDeviation, compare
from onnxprune.runtime.metrics import of_deviations
from tests.helpers.arrays import samples
from tests.helpers.builders import mlp

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
