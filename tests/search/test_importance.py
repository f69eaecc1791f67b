"""How much each layer is pruned from a scan."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.allocation.curves import Curve, CurvePoint, Curves
from onnxprune.encodings.inventory import inspect_model
from onnxprune.errors import CurvesError, OptionError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.retraining.iterate import iterate
from onnxprune.search import sensitivity
from onnxprune.search.importance import importance_of
from tests.helpers.builders import mlp

LEVELS = (0.3, 0.8, 0.95)


points = st.lists(st.floats(0, 100), min_size=1, max_size=6)


@st.composite
def scans(draw) -> Curves:
    layers = []
    for number in range(draw(st.integers(1, 4))):
        metrics = draw(points)
        levels = sorted(draw(st.sets(st.integers(1, 99), min_size=len(metrics), max_size=len(metrics))))
        layers.append(
            Curve(f"l{number}", "gemm", draw(st.integers(1, 1000)),
                  tuple(CurvePoint(s / 100, m) for s, m in zip(levels, metrics, strict=True)))
        )  # fmt: skip
    return Curves("", "m", draw(st.booleans()), draw(st.floats(0, 100)), 1, "weights", tuple(layers))


@given(scans(), st.floats(0, 100), st.floats(0, 100))
@settings(deadline=None)
def test_a_larger_drop_prunes_no_less(found, a, b):
    low, high = found.shares(min(a, b)), found.shares(max(a, b))
    for layer in found.layers:
        assert 0 <= low[layer.name] <= high[layer.name] <= layer.points[-1].sparsity


@given(scans(), st.floats(0, 1))
@settings(deadline=None)
def test_the_whole_reaches_what_is_asked(found, part):
    total = sum(c.size for c in found.layers)
    most = sum(c.size * c.points[-1].sparsity for c in found.layers) / total
    shares = found.reaching(part * most)
    assert sum(c.size * shares[c.name] for c in found.layers) / total == pytest.approx(part * most, abs=1e-9)
    with pytest.raises(OptionError, match="higher levels"):
        found.reaching(most + 0.01)


def test_a_straight_line_between_points():
    layer = Curve("a", "gemm", 10, (CurvePoint(0.5, 90), CurvePoint(0.8, 95), CurvePoint(0.9, 80)))
    found = Curves("", "m", False, 100, 1, "weights", (layer,))
    assert found.shares(5) == {"a": pytest.approx(0.25)}
    assert found.shares(10) == {"a": pytest.approx(0.8)}  # 95 after 90 is noise
    assert found.shares(15) == {"a": pytest.approx(0.85)}
    lower = dataclasses.replace(found, lower_is_better=True, baseline=70)
    assert lower.shares(10) == {"a": pytest.approx(0.25)}


def test_where_layers_drop_equally_far():
    """Half of what the layer that drops least reaches; one that never drops gives all that was tried."""
    layers = [("a", (100, 90)), ("b", (80, 60)), ("never", (100, 101))]
    curves = [Curve(name, "gemm", 10, (CurvePoint(0.5, one), CurvePoint(0.9, two))) for name, (one, two) in layers]
    found = Curves("", "m", False, 100, 1, "weights", tuple(curves))
    assert found.comparable() == {
        "a": pytest.approx(0.7), "b": pytest.approx(0.125), "never": pytest.approx(0.9)
    }  # fmt: skip
    worse = [
        dataclasses.replace(c, points=tuple(CurvePoint(p.sparsity, 200 - p.metric) for p in c.points)) for c in curves
    ]
    assert dataclasses.replace(found, lower_is_better=True, layers=tuple(worse)).comparable() == found.comparable()


@given(scans())
@settings(deadline=None)
def test_no_scan_makes_a_layer_count_nothing_or_all(found):
    layers = tuple(
        dataclasses.replace(layer, name=f"fc{number}.weight") for number, layer in enumerate(found.layers)
    )  # fmt: skip
    model = Model.of_bytes(mlp(sizes=(20, 24, 20, 12, 10)).SerializeToString())
    entries = importance_of(model, dataclasses.replace(found, layers=layers))
    numbers = [float(entry.rpartition("=")[2]) for entry in entries]
    assert [entry.rpartition("=")[0] for entry in entries] == [layer.name for layer in layers]
    assert all(0 < number < np.inf for number in numbers)
    assert np.log(numbers).sum() == pytest.approx(0, abs=1e-4)


def test_the_layer_that_costs_more_counts_more(model, data, tmp_path):
    found = sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    opened = Model.load(model)
    lost = {}
    for weight in find(opened):
        if weight.name in found.comparable():
            energy = np.sort(np.square(weight.array(opened).astype(np.float64)).ravel())
            count = round(found.comparable()[weight.name] * energy.size)
            lost[weight.name] = energy[:count].sum() / energy.sum()
    numbers = dict(entry.rsplit("=", 1) for entry in importance_of(opened, found))
    products = [float(numbers[name]) * loss for name, loss in lost.items()]
    assert products == pytest.approx([products[0]] * len(products), rel=1e-4)
    result = onnxprune.compress(model, tmp_path / "o.onnx", scan=tmp_path / "s.json")
    assert all(f"{name}={number}" in result.passes[-1] for name, number in numbers.items())
    onnxprune.encode(model, tmp_path / "e.onnx", encoding="flat")
    found = sensitivity.scan(tmp_path / "e.onnx", tmp_path / "e.json", data=data, levels=LEVELS, jobs=1)
    again = onnxprune.compress(tmp_path / "e.onnx", tmp_path / "p.onnx", scan=tmp_path / "e.json")
    assert again.passes == result.passes


def test_compress_and_iterate_take_it(model, data, tmp_path):
    found = sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    wanted = found.reaching(0.6)
    result = onnxprune.compress(model, tmp_path / "o.onnx", scan=tmp_path / "s.json", sparsity=0.6, values="exact")
    for weight in result.weights:
        if weight.name in wanted:
            assert weight.zeros == round(wanted[weight.name] * weight.total)
    train = tmp_path / "train.py"
    train.write_text(
        "import sys, onnxprune\nfrom onnxprune.model.discovery import find\nfrom safetensors.numpy import save_file\n"
        "model = onnxprune.load(sys.argv[1])\n"
        "save_file({w.name: w.array(model).copy() for w in find(model)}, sys.argv[2])\n"
        "open(sys.argv[2] + '.asked', 'w').write(sys.argv[3])\n"
    )
    rounds = iterate(
        model, tmp_path / "r.onnx", to=0.6, rounds=2, scan=tmp_path / "s.json",
        retrain=f"{sys.executable} {train} {{model}} {{out}} {{sparsity}}",
    )  # fmt: skip
    said = [float(file.read_text()) for file in sorted((tmp_path / "r.onnx.rounds").rglob("*.asked"))]
    assert said == [each.asked for each in rounds.rounds]
    assert said[-1] == 0.6
    assert rounds.rounds[-1].sparsity == pytest.approx(0.6, abs=0.001)
    weights = {w.name: w for w in inspect_model(Model.load(tmp_path / "r.onnx"))}
    for name, share in wanted.items():
        assert weights[name].zeros == round(share * weights[name].total)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"model": "00"}, {"sparsity": 0.5}, CurvesError, "another model"),
        ({"of": "channels"}, {"sparsity": 0.5}, OptionError, "channels"),
        ({"of": "channels"}, {}, OptionError, "channels"),
        ({}, {"quality": 0.5}, OptionError, "give the sparsity"),
        ({}, {"sparsity": 0.97}, OptionError, "higher levels"),
        ({}, {"sparsity": 0.5, "scope": "global"}, OptionError, "scope"),
    ],
)
def test_scans_that_do_not_serve(model, data, tmp_path, change, options, error, message):
    found = sensitivity.scan(model, tmp_path / "s.json", data=data, levels=LEVELS, jobs=1)
    dataclasses.replace(found, **change).save(tmp_path / "s.json")
    with pytest.raises(error, match=message):
        onnxprune.compress(model, tmp_path / "o.onnx", scan=tmp_path / "s.json", **options)
    assert not (tmp_path / "o.onnx").exists()
