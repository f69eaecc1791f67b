"""Curves of weights whose inputs are known: honest about the outputs, and better than a threshold on each entry."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.allocation import noise_gain
from onnxprune.encodings.candidates import Candidates
from onnxprune.model.discovery import find
from onnxprune.quantization.error_feedback import output_loss
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load

INPUTS, OUTPUTS = 96, 64


def correlated(count: int, seed: int) -> np.ndarray:
    """Inputs of a few directions and some noise, not centred."""
    common = normal(count, 8, seed=seed) @ normal(8, INPUTS, seed=7)
    return np.maximum(common + 0.5 * normal(count, INPUTS, seed=seed + 1), 0).astype(np.float32)


def layer(weight: np.ndarray) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    shapes = [info("x", ["N", weight.shape[0]])], [info("y", ["N", weight.shape[1]])]
    return model(nodes, *shapes, {"w": weight})


def lost(weight: np.ndarray, after: np.ndarray, x: np.ndarray) -> float:
    """The error of the products over their energy, if the inputs were independent and alike."""
    return float(np.square(x @ (after - weight)).sum() / len(x) / np.square(x).mean() / np.square(weight).sum())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, x=correlated(600, 0))
    return str(path)


def encoded(weight: np.ndarray, **options) -> np.ndarray:
    """What the weight becomes."""
    opened = load(layer(weight))
    Encode(values="auto", **options).run(opened)
    Decode().run(opened)
    return next(w for w in find(opened) if w.name == "w").array(opened)


def test_a_loss_is_that_of_the_outputs():
    rows, x = normal(5, INPUTS, seed=3), correlated(50, 5)
    rounded = rows + 0.1 * normal(5, INPUTS, seed=4)
    found = output_loss((x.T @ x / len(x))[None], rows, rounded)
    for row, after, one in zip(rows, rounded, found, strict=True):
        assert lost(row[:, None], after[:, None], x) == pytest.approx(one, rel=1e-4)


def test_a_loss_of_independent_inputs_is_that_of_the_weight():
    rows, wrong = normal(4, INPUTS, seed=3), 0.1 * normal(4, INPUTS, seed=4)
    found = output_loss(3 * np.eye(INPUTS, dtype=np.float32)[None], rows, rows + wrong)
    np.testing.assert_allclose(found, np.square(wrong).sum(1) / np.square(rows).sum(1), rtol=1e-4)


@pytest.mark.parametrize("loss", [0.02, 0.1, 0.4])
def test_inputs_not_seen_before_lose_what_was_planned(loss, data, monkeypatch):
    """Planned on half of the samples for the other half: all of them lose less on inputs of the same kind."""
    monkeypatch.setattr(noise_gain, "gains_on", lambda _, weights, *rest: [1.0] * len(weights))
    weight = normal(INPUTS, OUTPUTS, seed=1)
    after = encoded(weight, loss=loss, data=data, samples=600)
    assert 0.05 * loss < lost(weight, after, correlated(4000, 100)) < 1.5 * loss


def test_outputs_choose_fewer_entries_than_thresholds(data, monkeypatch):
    """At no more loss of the outputs, a third fewer entries than rounding with feedback to a codebook with a 0."""
    weight = normal(INPUTS, OUTPUTS, seed=1)
    unseen = correlated(4000, 100)
    pruned = encoded(weight, loss=0.2, data=data, samples=600)
    monkeypatch.setattr("onnxprune.allocation.output_curve.KEPT", ())
    kept, least = np.count_nonzero(pruned), lost(weight, pruned, unseen)
    others = [encoded(weight, loss=at, data=data, samples=600) for at in (0.05, 0.1, 0.2, 0.4, 0.8)]
    fewer = [np.count_nonzero(other) for other in others if lost(weight, other, unseen) <= 1.2 * least]
    assert fewer
    assert kept < min(fewer) / 1.5


def test_zeros_stay_where_nothing_else_may_become_zero(data):
    weight = normal(INPUTS, OUTPUTS, seed=1) * (np.random.default_rng(0).random((INPUTS, OUTPUTS)) < 0.3)
    after = encoded(weight.astype(np.float32), loss=0.3, data=data, samples=600, keep_zeros=True)
    np.testing.assert_array_equal(after == 0, weight == 0)


def test_no_weight_loses_more_than_twice_the_plan(data):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        chosen = Candidates.chosen

        def spied(self, choice):
            form = chosen(self, choice)
            seen.append((form is None, choice.planned, form and form.coded.lost))
            return form

        patch.setattr(Candidates, "chosen", spied)
        for loss in (0.01, 0.1, 1.0):
            encoded(normal(INPUTS, OUTPUTS, seed=1), loss=loss, data=data, samples=600)
    assert len(seen) == 3
    assert not any(refused or after > 2 * planned + 1e-6 for refused, planned, after in seen)
