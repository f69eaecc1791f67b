"""Error feedback by synthesised inputs: outputs come nearer for other inputs too, and no weight loses too much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxprune.allocation import measurement, synthetic_feedback, synthetic_runs
from onnxprune.allocation.choice import choose
from onnxprune.encodings.candidates import Candidates
from onnxprune.model.discovery import find
from onnxprune.quantization.error_feedback import Feedback
from onnxprune_passes import Encode
from tests.helpers.builders import info, lstm, mlp, model, node, normal
from tests.helpers.running import load, run, serialise


def mixing(width: int = 192, rank: int = 4) -> onnx.ModelProto:
    """A layer of which no two outputs are independent, and one that reads them behind a Relu."""
    weights = {
        "mix": normal(64, rank, seed=1) @ normal(rank, width, seed=2) / np.float32(8 * rank),
        "bias": 2 * np.abs(normal(width, seed=4)),
        "w": normal(width, 96, seed=3),
    }
    nodes = [
        node("MatMul", ["x", "mix"], ["m"]), node("Add", ["m", "bias"], ["a"]),
        node("Relu", ["a"], ["r"]), node("MatMul", ["r", "w"], ["y"]),
    ]  # fmt: skip
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 96])], weights)


def convolutions(kernel: int, side: int, whole: bool = False, channels: int = 48) -> onnx.ModelProto:
    """Two convolutions, the second one of a kernel; `whole` makes a vector of the image, so that its side is fixed."""
    weights = {"a": normal(channels, 3, 3, 3, seed=1), "b": normal(channels, channels, kernel, kernel, seed=2)}
    weights["bias"] = 8 * np.abs(normal(channels, seed=4))
    nodes = [node("Conv", ["x", "a", "bias"], ["h"]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "b"], ["c"])]
    size = side - 2 - (kernel - 1)
    if whole:
        weights["shape"] = np.array([-1, channels * size**2], np.int64)
        nodes.append(node("Reshape", ["c", "shape"], ["y"]))
    else:
        nodes[-1].output[0] = "y"
    shape = ["N", channels * size**2] if whole else ["N", channels, size, size]
    return model(nodes, [info("x", ["N", 3, side, side])], [info("y", shape)], weights)


def known(proto: onnx.ModelProto) -> dict[str, Feedback]:
    opened = load(proto)
    weights = [weight for weight in find(opened) if weight.linear]
    found = synthetic_feedback.synthetic_feedback(opened, weights)
    return {weight.name: each for weight, each in zip(weights, found, strict=True) if each is not None}


@pytest.mark.parametrize("together", [256, 50])
def test_outputs_come_nearer_for_inputs_that_nobody_made_up(together, monkeypatch):
    """At the same loss, and on inputs of another mean and spread than the synthesised ones; in blocks too."""
    monkeypatch.setattr(synthetic_feedback, "_TOGETHER", together)
    proto = mixing()
    feeds = {"x": 0.7 + 0.3 * np.random.default_rng(9).random((256, 64), np.float32)}
    (expected,) = run(proto, feeds)

    def error() -> tuple[int, float]:
        opened = load(proto)
        Encode(values="auto", loss=0.02).run(opened)
        (found,) = run(serialise(opened), feeds)
        return len(serialise(opened)), float(np.square(found - expected).sum())

    size, fed = error()
    monkeypatch.setattr(synthetic_feedback, "synthetic_feedback", lambda model, weights: [None] * len(weights))
    same, balanced = error()
    assert size == pytest.approx(same, rel=0.01)
    assert fed < 0.7 * balanced


def test_what_is_fed_back(monkeypatch):
    """Layers behind others that read one entry of each channel, and states; errors of a kernel are balanced."""
    assert set(known(convolutions(1, 40))) == {"b"}
    assert not known(convolutions(3, 40))
    assert set(known(mixing())) == {"w"}
    assert all(each.moments is None for each in known(mixing()).values())
    monkeypatch.setattr(synthetic_feedback, "_AGREED", 1.0)
    assert set(known(lstm())) == {"R"}


def test_layers_are_left_out_whose_inputs_differ_from_kind_to_kind(monkeypatch):
    monkeypatch.setattr(synthetic_feedback, "_AGREED", known(mixing())["w"].remaining - 0.01)
    assert not known(mixing())


def test_weights_that_are_listed_as_inputs_are_none():
    """As IR version 3 wants it: what reads them does not read the inputs for that."""
    proto = mixing()
    proto.graph.input.extend(info(each.name, each.dims) for each in proto.graph.initializer)
    assert set(known(proto)) == {"w"}


def test_wide_layers_are_in_blocks(monkeypatch):
    monkeypatch.setattr(synthetic_feedback, "_AGREED", 1.0)
    monkeypatch.setattr(synthetic_feedback, "_TOGETHER", 50)
    found = known(mlp((64, 95, 101, 40))).values()
    assert [(each.whole, each.order.shape) for each in found] == [(95, (2, 48)), (101, (3, 34))]


def test_images_are_made_small_where_the_model_takes_such(monkeypatch):
    sides = []
    pieces = synthetic_runs.Synthesised.pieces

    def seen(self, session):
        found = pieces(self, session)
        sides.append((found[0][0]["x"].shape[-1], len(found[0])))
        return found

    monkeypatch.setattr(synthetic_runs.Synthesised, "pieces", seen)
    assert set(known(convolutions(1, 200))) == {"b"}
    assert set(known(convolutions(1, 200, whole=True))) == {"b"}
    assert sides[0] == (64, 8)
    assert sides[-1] == (200, 2)
    monkeypatch.setattr(synthetic_feedback, "_NUMBERS", 3 * 200 * 200 - 1)
    assert not known(convolutions(1, 200, whole=True))


def test_models_that_draw_numbers_and_large_ones_are_not_run(monkeypatch):
    drawing = mixing()
    drawing.graph.node.insert(0, node("RandomNormalLike", ["x"], ["noise"]))
    drawing.graph.node.insert(1, node("Add", ["x", "noise"], ["noisy"]))
    drawing.graph.node[2].input[0] = "noisy"
    assert not known(drawing)
    assert known(mixing())
    monkeypatch.setattr(synthetic_runs, "_IN_MEMORY", -1)
    assert not known(mixing())


def test_a_model_that_does_not_run_is_stored_without():
    proto = mixing()
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Unheard", "nobody"
    proto.opset_import.add(domain="nobody", version=1)
    assert not known(proto)
    opened = load(proto)
    assert Encode(values="auto").run(opened).weights["w"].encoding != "dense"


def test_the_same_bytes_each_time():
    def stored() -> bytes:
        opened = load(mixing())
        Encode(values="auto").run(opened)
        return serialise(opened)

    assert stored() == stored()


@pytest.mark.parametrize("skew", [1.0, 30.0, 1000.0])
def test_no_weight_loses_more_than_twice_the_plan(skew, monkeypatch):
    """Inputs of very different energies, whose errors go to the small ones: then nothing is passed on."""
    proto, rng = mixing(), np.random.default_rng(0)
    vectors = rng.standard_normal((40, 192)).astype(np.float32) * np.geomspace(1, skew, 192, dtype=np.float32)
    assumed = Feedback.assumed(np.stack([(vectors.T @ vectors / 40)[None]] * 2), 0.01, 1.0, 192)
    monkeypatch.setattr(synthetic_feedback, "synthetic_feedback", lambda model, weights: [assumed] * len(weights))
    opened = load(proto)
    weights = [weight for weight in find(opened) if weight.name == "w"]
    asked = [measurement.Asked(None)]
    plan = measurement.MeasurementPlan(asked, Encode(values="auto")._encoder)
    choice = choose(measurement.measure(opened, weights, plan, Encode().measure(opened).change), 0.02)["w"]
    assert choice.feedback is assumed
    form = Candidates(opened, weights[0]).chosen(choice)
    assert form is not None
    assert form.coded.lost <= 2 * choice.planned + 1e-6
    plain = Candidates(opened, weights[0]).chosen(replace(choice, feedback=None, finer=None))
    assert form.coded.lost >= plain.coded.lost * 0.99  # what is passed on costs the weight itself
