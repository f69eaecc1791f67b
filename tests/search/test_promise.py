"""What data without a word on what may be lost promises, and that it is kept, or said not to be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxprune
from onnxprune.allocation.rate_distortion import LOSS, LOSS_ON_DATA
from onnxprune.api import compress as compressing
from onnxprune.runtime.judge import Question
from onnxprune.search.halves import halves
from onnxprune.search.promise import ANSWERS, ATTEMPTS, DEFAULT, Attempt, Promise
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.repository import DIGITS, LENETS
from tests.helpers.running import put

ATTEMPT = Attempt(LOSS, True)


def samples(count: int = 64, width: int = 64) -> np.ndarray:
    return normal(count, width, seed=5)


def promise(proto: onnx.ModelProto, folder, arrays: dict[str, np.ndarray]) -> Promise:
    np.savez(folder / "data.npz", **arrays)
    source = put(folder / "m.onnx", proto)
    return Promise(source, Question(), halves(source, folder / "data.npz", None)[1])


def head(weight: np.ndarray, **more: np.ndarray) -> onnx.ModelProto:
    """x @ w, the classes of x."""
    shapes = [info("x", ["N", weight.shape[0]])], [info("y", ["N", weight.shape[1]])]
    return model([node("MatMul", ["x", "w"], ["y"])], *shapes, {"w": weight, **more})


def test_the_same_model_keeps_everything(tmp_path):
    held = promise(head(normal(64, 10)), tmp_path, {"x": samples()})
    found = held.of(tmp_path / "m.onnx", ATTEMPT)
    assert found.kept
    assert (found.metric, found.original, found.result) == (ANSWERS, 100.0, 100.0)
    assert found.samples == 32
    assert 0 < found.answers <= 32
    assert found.sqnr == 1000


@pytest.mark.parametrize("flips", [0, 1, 5])
def test_answers_are_counted_beside_the_commonest(flips, tmp_path):
    """200 samples that say their class, the half of them 0, and who they are."""
    classes = np.random.default_rng(0).permutation([0] * 100 + [1 + i % 9 for i in range(100)])
    x = np.concatenate([50 * np.eye(10)[classes], np.eye(200)], axis=1).astype(np.float32)
    weight = np.zeros((210, 10), np.float32)
    weight[:10] = np.eye(10)
    held = promise(head(weight), tmp_path, {"x": x})
    half = halves(tmp_path / "m.onnx", tmp_path / "data.npz", None)[1].arrays["x"]
    others = [row for row in half if not row[0]]
    changed = weight.copy()
    for row in others[:flips]:  # this very sample goes to another class that is not 0
        changed[10 + row[10:].argmax(), 1 + (row[1:10].argmax() + 1) % 9] += 100
    found = held.of(put(tmp_path / "o.onnx", head(changed)), ATTEMPT)
    assert found.answers == len(others)
    assert found.result == pytest.approx(100 * (1 - flips / len(others)))
    assert (found.original - found.result <= found.allowed + 1e-9) == (flips <= 1)
    assert found.kept == (flips <= 1 and found.sqnr >= found.least_sqnr)


def test_a_state_and_an_image_name_no_classes(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 64])], {"w": normal(64, 64)})
    found = promise(proto, tmp_path, {"x": samples()}).of(tmp_path / "m.onnx", ATTEMPT)
    assert found.metric is None
    assert found.kept


def test_outputs_that_are_far_off_break_the_promise_without_classes(tmp_path):
    weight = normal(64, 64)
    proto = head(weight)
    held = promise(proto, tmp_path, {"x": samples()})
    for error, kept in ((0.1, True), (0.5, False)):
        found = held.of(put(tmp_path / "o.onnx", head(weight + error * normal(64, 64, seed=9))), ATTEMPT)
        assert found.sqnr == pytest.approx(-20 * math.log10(error), abs=1.0)
        assert found.kept == kept


def test_labels_are_answers(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("ArgMax", ["h"], ["y"], axis=1, keepdims=0)]
    shapes = [info("x", ["N", 64])], [info("y", ["N"], TensorProto.INT64)]
    weight = normal(64, 10)
    held = promise(model(nodes, *shapes, {"w": weight}), tmp_path, {"x": samples()})
    assert held.of(tmp_path / "m.onnx", ATTEMPT).sqnr is None
    turned = model(nodes, *shapes, {"w": np.roll(weight, 1, axis=1)})
    found = held.of(put(tmp_path / "o.onnx", turned), ATTEMPT)
    assert found.result == 0
    assert not found.kept


def test_targets_judge_where_there_are_some(tmp_path):
    weight, x = normal(64, 10), samples(256)
    targets = (x @ weight).argmax(1)
    held = promise(head(weight), tmp_path, {"x": x, "targets": targets})
    found = held.of(put(tmp_path / "o.onnx", head(np.roll(weight, 1, axis=1))), ATTEMPT)
    assert found.metric == "top1"
    assert (found.original, found.answers) == (100.0, 128)
    assert found.result < 50
    assert not found.kept


def test_outputs_that_are_empty_or_say_nothing_promise_nothing(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["y"]), node("Sub", ["y", "y"], ["zero"]), node("NonZero", ["zero"], ["found"])
    ]  # fmt: skip
    outputs = [info("zero", ["N", 10]), info("found", [2, "M"], TensorProto.INT64)]
    proto = model(nodes, [info("x", ["N", 64])], outputs, {"w": normal(64, 10)})
    found = promise(proto, tmp_path, {"x": samples()}).of(tmp_path / "m.onnx", ATTEMPT)
    assert (found.metric, found.sqnr) == (None, None)
    assert found.kept


@pytest.mark.parametrize("count", [1, 4, 15])
def test_too_few_samples_promise_nothing_and_are_no_fault(count, tmp_path):
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    np.savez(tmp_path / "d.npz", x=samples(count))
    assert onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz").promise is None


@pytest.mark.parametrize("targets", [False, True])
def test_the_loss_becomes_smaller_until_the_promise_is_kept(targets, tmp_path, monkeypatch):
    """Without targets no further than without data."""
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    arrays = {"x": samples()} | ({"targets": np.arange(64) % 10} if targets else {})
    np.savez(tmp_path / "d.npz", **arrays)
    tried = []
    of = Promise.of

    def counted(self, place, attempt):
        tried.append(attempt)
        return replace(of(self, place, attempt), kept=len(tried) > 4)

    monkeypatch.setattr(compressing.Promise, "of", counted)
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz")
    last = 4 if targets else 3
    assert tuple(tried) == ATTEMPTS[: last + 1]
    assert result.promise.attempt == ATTEMPTS[last]
    assert result.promise.kept == targets
    plain = onnxprune.compress(source, tmp_path / "p.onnx", loss=ATTEMPTS[last].loss)
    assert result.output.bytes == plain.output.bytes


def test_outputs_that_are_far_off_go_on(tmp_path, monkeypatch):
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    np.savez(tmp_path / "d.npz", x=samples())
    of = Promise.of
    monkeypatch.setattr(compressing.Promise, "of", lambda *given: replace(of(*given), kept=False, sqnr=3.0))
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz")
    assert result.promise.attempt == ATTEMPTS[-1]


def test_a_promise_that_nothing_keeps_is_said_to_be_broken(tmp_path, monkeypatch):
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    np.savez(tmp_path / "d.npz", x=samples())
    of = Promise.of
    monkeypatch.setattr(compressing.Promise, "of", lambda *given: replace(of(*given), kept=False))
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz")
    assert not result.promise.kept
    assert result.promise.attempt == DEFAULT
    assert (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("options", "loss"),
    [({"verify": False}, LOSS), ({"loss": 0.01}, 0.01), ({"tolerance": 50.0}, LOSS_ON_DATA), ({"samples": 12}, LOSS)],
)
def test_nothing_is_promised_where_the_loss_is_given_or_nobody_judges(options, loss, tmp_path):
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    np.savez(tmp_path / "d.npz", x=samples())
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz", **options)
    assert result.promise is None
    assert f"loss={loss:g}" in result.passes[-1] or loss == LOSS


def test_the_promise_is_on_samples_that_calibrated_nothing(tmp_path):
    result = onnxprune.compress(LENETS["lenet-300-100"], tmp_path / "o.onnx", data=DIGITS)
    assert result.promise.attempt == ATTEMPTS[0]
    assert result.promise.kept is True
    assert "half=true" in result.passes[-1]
    assert result.promise.samples == 128
