"""How far the noise of weights reaches: seen on synthesised inputs as on data, at small sides, with few runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.allocation import noise_gain, synthetic_runs
from onnxprune.allocation.noise_gain import gains_on, synthetic_gains
from onnxprune.model.discovery import find
from onnxprune_passes import Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load

BRANCHES, CHANNELS = 18, 16


def branches(strong: dict[int, float], side: int | str = 64, flat: bool = False) -> onnx.ModelProto:
    """Convolutions side by side: what the output is, is their sum, in which some count more than others."""
    nodes, weights, terms = [], {}, []
    for place in range(BRANCHES):
        weights[f"w{place}"] = normal(CHANNELS, 3, 3, 3, seed=place)
        weights[f"s{place}"] = np.float32(strong.get(place, 1.0)).reshape(1, 1, 1, 1)
        nodes += [
            node("Conv", ["x", f"w{place}"], [f"c{place}"], pads=[1, 1, 1, 1]),
            node("Mul", [f"c{place}", f"s{place}"], [f"t{place}"]),
        ]
        terms.append(f"t{place}")
    nodes.append(node("Sum", terms, ["sum" if flat else "y"]))
    size = ["N", CHANNELS, side, side]
    if flat:
        weights["shape"] = np.array([-1, CHANNELS * int(side) ** 2], np.int64)
        nodes.append(node("Reshape", ["sum", "shape"], ["y"]))
        size = ["N", CHANNELS * int(side) ** 2]
    return model(nodes, [info("x", ["N", 3, side, side])], [info("y", size)], weights)


def gains(proto: onnx.ModelProto) -> np.ndarray:
    opened = load(proto)
    return np.array(synthetic_gains(opened, find(opened)), float)


def test_a_weight_that_reaches_the_output_more_stands_out_by_as_much():
    """The noise of a branch counts by the square of its factor, also beside weights that share its run."""
    found = gains(branches({5: 30.0, 6: 0.1}))
    usual = np.delete(found, (5, 6))
    assert usual.max() < 2 * usual.min()
    assert found[5] / usual.mean() == pytest.approx(900, rel=0.3)
    assert found[6] / usual.mean() == pytest.approx(0.01, rel=0.3)
    assert np.exp(np.log(found).mean()) == pytest.approx(1)
    assert gains(branches({5: 30.0, 6: 0.1})).tolist() == found.tolist()


def test_integers_are_told_apart_too():
    proto = branches({5: 30.0})
    for place in range(BRANCHES):
        held = next(each for each in proto.graph.initializer if each.name == f"w{place}")
        values = np.rint(numpy_helper.to_array(held) * 40 + 128).clip(0, 255).astype(np.uint8)
        held.CopyFrom(numpy_helper.from_array(values, f"q{place}"))
        for name, value in ((f"n{place}", np.float32(1 / 40)), (f"z{place}", np.uint8(128))):
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        proto.graph.node.insert(0, node("DequantizeLinear", [f"q{place}", f"n{place}", f"z{place}"], [f"w{place}"]))
    found = gains(proto)
    assert found[5] / np.delete(found, 5).mean() == pytest.approx(900, rel=0.3)


def test_data_says_the_same(tmp_path):
    proto = branches({5: 30.0})
    np.savez(tmp_path / "d.npz", x=normal(8, 3, 64, 64, seed=1))
    opened = load(proto)
    found = np.array(gains_on(opened, find(opened), tmp_path / "d.npz", 2, None), float)
    assert found[5] / np.delete(found, 5).mean() == pytest.approx(900, rel=0.3)


def test_few_runs_are_enough(monkeypatch):
    ran = []
    runs = noise_gain.each_run
    monkeypatch.setattr(noise_gain, "each_run", lambda session, feeds: ran.extend(feeds) or runs(session, feeds))
    gains(branches({5: 30.0}))
    groups, kinds = -(-BRANCHES // 4), 2
    assert len(ran) == kinds * (1 + groups + 4)
    assert {feed["x"].shape[2:] for feed in ran} == {(64, 64)}


def test_images_are_made_small_where_the_model_takes_such():
    assert gains(branches({5: 30.0}, side=512))[5] > 100
    assert np.isnan(gains(branches({5: 30.0}, side=512, flat=True))).all()


def test_of_models_that_draw_numbers_nothing_is_known(tmp_path):
    """Their outputs differ from run to run: the same model would come out as other bytes."""
    proto = branches({5: 30.0})
    proto.graph.node.insert(0, node("RandomNormalLike", ["x"], ["noise"]))
    proto.graph.node.insert(1, node("Add", ["x", "noise"], ["noisy"]))
    for conv in proto.graph.node[2:]:
        conv.input[:] = ["noisy" if name == "x" else name for name in conv.input]
    assert np.isnan(gains(proto)).all()
    np.savez(tmp_path / "d.npz", x=normal(8, 3, 64, 64, seed=1))
    opened = load(proto)
    assert gains_on(opened, find(opened), tmp_path / "d.npz", 2, None) == [None] * BRANCHES


def test_large_models_are_not_run(monkeypatch):
    monkeypatch.setattr(synthetic_runs, "_IN_MEMORY", -1)
    assert np.isnan(gains(branches({5: 30.0}))).all()


def test_a_weight_that_stands_out_loses_less():
    measured = Encode(values="auto").measure(load(branches({5: 30.0, 6: 0.1})))
    counts = [measured.weights[f"w{place}"].noise for place in range(BRANCHES)]
    assert counts[5] == 8
    assert counts[6] == 0.5
    assert 0.5 < min(counts[:5]) <= max(counts[:5]) < 1.1


def test_a_model_that_does_not_run_is_measured_without():
    proto = branches({5: 30.0})
    proto.graph.node[0].domain = "nobody"
    proto.opset_import.add(domain="nobody", version=1)
    measured = Encode(values="auto").measure(load(proto))
    assert {held.noise for held in measured.weights.values() if held.curve} == {1.0}
