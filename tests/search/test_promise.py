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
from onnxprune.errors import OptionError
from onnxprune.search.halves import halves
from onnxprune.search.promise import ANSWERS, DEFAULT, LOSSES, Attempt, Promise
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.repository import DIGITS, LENETS
from tests.helpers.running import put
from tests.search.promises import ATTEMPT, head, promise, samples, told_apart


def test_the_same_model_keeps_everything(tmp_path):
    held = promise(head(normal(64, 10)), tmp_path, {"x": samples()})
    found = held.of(tmp_path / "m.onnx", ATTEMPT)
    assert found.kept
    assert (found.metric, found.original, found.result) == (ANSWERS, 100.0, 100.0)
    assert found.samples == 32
    assert 0 < found.answers <= 32
    assert found.sqnr == 1000


@pytest.mark.parametrize(("last", "kept"), [("Sigmoid", True), ("Tanh", False)])
def test_maps_of_probabilities_may_be_farther_off_than_features(last, kept, tmp_path):
    """A threshold makes answers of them; of features nobody knows."""

    def proto(weight: np.ndarray) -> onnx.ModelProto:
        nodes = [node("Conv", ["x", "w"], ["h"], pads=[1, 1]), node(last, ["h"], ["y"])]
        return model(nodes, [info("x", ["N", 1, "T"])], [info("y", ["N", 2, "T"])], {"w": weight})

    weight, noise = 2 * normal(2, 1, 3), normal(2, 1, 3, seed=3)
    held = promise(proto(weight), tmp_path, {"x": samples(64, 48).reshape(64, 1, 48)})
    for error in np.linspace(0.05, 3, 60, dtype=np.float32):  # up to one in between
        found = held.of(put(tmp_path / "o.onnx", proto(weight + error * noise)), ATTEMPT)
        if found.sqnr < 18:
            break
    assert 14.5 < found.sqnr < 18
    assert (found.metric, found.kept) == (None, kept)


@pytest.mark.parametrize(("names", "least"), [(("y", "h"), 11), (("y", "h", "f"), 20)])
def test_states_may_be_farther_off_than_features_since_their_loss_is_bounded(names, least, tmp_path):
    nodes = [
        node("LSTM", ["x", "W", "R"], ["f", "h", ""], hidden_size=4),
        node("MatMul", ["f", "w"], ["m"]),
        node("Sigmoid", ["m"], ["y"]),
    ]
    weights = {"W": normal(1, 16, 3), "R": normal(1, 16, 4), "w": normal(4, 1)}
    proto = model(nodes, [info("x", ["T", "N", 3])], [info(name, None) for name in names], weights)
    held = promise(proto, tmp_path, {"x": samples(64, 3 * 64).reshape(64, 64, 3)})
    found = held.of(tmp_path / "m.onnx", ATTEMPT)
    assert (found.metric, held.most(0.0)) == (None, 2 * LOSS)
    assert found.least_sqnr == pytest.approx(least, abs=0.1)


def test_outputs_that_are_far_off_break_the_promise_without_classes(tmp_path):
    weight = normal(64, 48)
    proto = head(weight)
    held = promise(proto, tmp_path, {"x": samples()})
    for error, kept in ((0.05, True), (0.2, False), (0.5, False)):
        found = held.of(put(tmp_path / "o.onnx", head(weight + error * normal(64, 48, seed=9))), ATTEMPT)
        assert found.sqnr == pytest.approx(-20 * math.log10(error), abs=1.0)
        assert found.kept == kept


def test_targets_judge_where_there_are_some(tmp_path):
    weight, x = normal(64, 10), samples(256)
    targets = (x @ weight).argmax(1)
    held = promise(head(weight), tmp_path, {"x": x, "targets": targets})
    found = held.of(put(tmp_path / "o.onnx", head(np.roll(weight, 1, axis=1))), ATTEMPT)
    assert found.metric == "top1"
    assert (found.original, found.answers) == (100.0, 128)
    assert found.result < 50
    assert not found.kept


def test_targets_judge_labels(tmp_path):
    proto = head(normal(64, 8))
    proto.graph.node.append(node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
    proto.graph.output[0].CopyFrom(info("label", ["N"], onnx.TensorProto.INT64))
    x = samples(400)
    held = promise(proto, tmp_path, {"x": x, "targets": (x @ normal(64, 8)).argmax(1)})
    found = held.of(put(tmp_path / "o.onnx", proto), ATTEMPT)
    assert (found.metric, found.original, found.result, found.expected) == ("top1", 100, 100, None)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(64, 8, seed=3), "w"))
    assert not held.of(put(tmp_path / "o.onnx", proto), ATTEMPT).kept


def test_text_that_nobody_reads_judges_nothing(tmp_path):
    """It is for a function of the user; without one the answers of the original judge, and nothing fails."""
    weight = normal(64, 10)
    x = told_apart(weight)
    arrays = {"x": x, "targets": np.array([f"class {c}" for c in (x @ weight).argmax(1)])}
    held = promise(head(weight), tmp_path, arrays)
    assert held.of(tmp_path / "m.onnx", ATTEMPT).metric == "answers"
    result = onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx", data=tmp_path / "data.npz")
    assert result.promise.metric == "answers"
    assert result.deviation.metric is None
    with pytest.raises(OptionError, match="are text"):
        onnxprune.compress(tmp_path / "m.onnx", tmp_path / "o.onnx", data=tmp_path / "data.npz", max_drop=1)


def test_where_targets_judge_an_output_of_features_does_not(tmp_path):
    """Whose largest entry is no answer."""
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("MatMul", ["x", "v"], ["z"])]
    shapes = [info("x", ["N", 64])], [info("y", ["N", 10]), info("z", ["N", 48])]
    w, v = 8 * normal(64, 10), normal(64, 48, seed=1)
    x = told_apart(w)
    v[:, :] = v[:, :1] + 0.05 * v  # all nearly the same
    w[32:], v[:32] = 0, 0  # what tells classes apart is not in the features
    targets = (x @ w).argmax(1)
    held = promise(model(nodes, *shapes, {"w": w, "v": v}), tmp_path, {"x": x, "targets": targets})
    noisy = {"w": w, "v": v + 0.05 * normal(64, 48, seed=9) * (v != 0)}
    found = held.of(put(tmp_path / "o.onnx", model(nodes, *shapes, noisy)), ATTEMPT)
    assert (found.metric, found.result, found.expected) == ("top1", 100.0, 100.0)
    assert found.kept
    unlabelled = promise(model(nodes, *shapes, {"w": w, "v": v}), tmp_path, {"x": x})
    assert unlabelled.of(tmp_path / "o.onnx", ATTEMPT).answers == np.count_nonzero(
        (half := (halves(tmp_path / "m.onnx", tmp_path / "data.npz", None)[1].arrays["x"] @ w).argmax(1))
        != np.bincount(half).argmax()
    )  # those of y alone


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


@pytest.mark.parametrize(("entry", "kept"), [(np.nan, False), (np.inf, False), (0.5, True)])
def test_outputs_that_are_no_numbers_any_more_break_the_promise(entry, kept, tmp_path):
    """A bias of 0.5 beside features, and a second output that is as it was."""

    def read(entry: float) -> onnx.ModelProto:
        nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"]), node("Sin", ["x"], ["z"])]
        outputs = [info("y", ["N", 48]), info("z", ["N", 64])]
        return model(nodes, [info("x", ["N", 64])], outputs, {"w": normal(64, 48), "b": np.full(48, entry, np.float32)})

    held = promise(read(0.5), tmp_path, {"x": samples()})
    found = held.of(put(tmp_path / "o.onnx", read(entry)), ATTEMPT)
    assert found.kept == kept
    assert (found.sqnr is not None and found.sqnr < -100) != kept
    assert found.error < 1 if kept else found.error > 1


def test_what_was_lost_before_is_not_lost_again(tmp_path):
    source = LENETS["lenet-300-100"]
    first = onnxprune.compress(source, tmp_path / "a.onnx", data=DIGITS)
    again = onnxprune.compress(tmp_path / "a.onnx", tmp_path / "b.onnx", data=DIGITS)
    assert again.promise.attempt.loss <= first.promise.attempt.loss
    assert again.promise.sqnr > 40  # at most neurons go that stayed for a multiple of 8
    assert again.output.bytes <= first.output.bytes
    held = promise(head(normal(64, 10)), tmp_path, {"x": samples()})
    assert [held.most(spent) for spent in (0.0, 0.32, 0.04, 0.01, 0.001)] == [1.28, 0.32, 0.04, 0.01, 0.01]


def test_a_state_that_is_handed_on_gets_no_more_than_without_data(tmp_path):
    """Its errors add up from run to run."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "s"], ["t"]), node("MatMul", ["t", "v"], ["y"])]
    given, taken = [info("x", ["N", 64]), info("s", ["N", 48])], [info("y", ["N", 10]), info("t", ["N", 48])]
    proto = model(nodes, given, taken, {"w": normal(64, 48), "v": normal(48, 10)})
    assert promise(proto, tmp_path, {"x": samples(), "s": samples(64, 48)}).most(0.0) == 2 * LOSS


def test_the_result_is_that_of_the_loss_that_stands(tmp_path, monkeypatch):
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    np.savez(tmp_path / "d.npz", x=samples())
    of = Promise.of
    tried = []

    def failing(self, place, attempt):
        tried.append(attempt)
        return replace(of(self, place, attempt), kept=attempt == DEFAULT, sqnr=5.0)

    monkeypatch.setattr(compressing.Promise, "of", failing)
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz")
    assert tried[-1] == result.promise.attempt == DEFAULT
    plain = onnxprune.compress(source, tmp_path / "p.onnx")
    assert result.output.bytes == plain.output.bytes


def test_outputs_that_are_far_off_go_on(tmp_path, monkeypatch):
    source = put(tmp_path / "m.onnx", mlp((64, 96, 10)))
    np.savez(tmp_path / "d.npz", x=samples())
    of = Promise.of
    monkeypatch.setattr(compressing.Promise, "of", lambda *given: replace(of(*given), kept=False, sqnr=3.0))
    result = onnxprune.compress(source, tmp_path / "o.onnx", data=tmp_path / "d.npz")
    assert result.promise.attempt == Attempt(LOSS / 8, False)


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
    assert result.promise.attempt.loss in LOSSES[:5]
    assert result.promise.kept is True
    assert any("half=true" in step for step in result.passes)
    assert result.promise.samples == 128
