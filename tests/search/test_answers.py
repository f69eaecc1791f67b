"""The answers that a promise counts: which outputs name classes, and how series and margins count."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxprune.runtime.metrics import stays
from onnxprune.search.halves import halves
from onnxprune.search.promise import ANSWERS
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import put
from tests.search.promises import ATTEMPT, head, promise, samples


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
    one = 100 / len(others)
    assert found.expected == pytest.approx(found.result, abs=flips * one)  # at the ends neighbours count otherwise
    assert (found.expected < 100) == (flips > 0)
    assert found.kept == (flips <= 1 and found.expected >= 99)


def test_a_state_and_an_image_name_no_classes(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 64])], {"w": normal(64, 64)})
    found = promise(proto, tmp_path, {"x": samples()}).of(tmp_path / "m.onnx", ATTEMPT)
    assert found.metric is None
    assert found.kept


@pytest.mark.parametrize(("spread", "metric"), [(0.0, None), (8.0, ANSWERS)])
def test_the_largest_of_features_is_no_answer(spread, metric, tmp_path):
    """It stands out no more than the largest of random numbers; that of a classifier does."""
    x = normal(64, 40, seed=5)
    x[:, :10] += spread * np.eye(10, dtype=np.float32)[np.arange(64) % 10]
    held = promise(head(np.eye(40, 30, dtype=np.float32)), tmp_path, {"x": x})
    assert held.of(tmp_path / "m.onnx", ATTEMPT).metric == metric


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (0.1, 0.1, 0.1, 0.1, 1, 2)])
def test_the_largest_of_coordinates_is_no_answer(sizes, tmp_path):
    """One that varies more than the others is the largest more often, and further; it does not ask for the others."""
    coordinates = np.eye(7, 6, dtype=np.float32) * np.array(sizes, np.float32)
    classes = np.concatenate([3 * np.eye(6, dtype=np.float32), coordinates])
    x = np.abs(samples(128, 7))
    named = np.concatenate([np.eye(6, dtype=np.float32)[np.arange(128) % 6], x], axis=1)
    for weight, data, metric in ((coordinates, x, None), (classes, named, ANSWERS)):
        held = promise(head(weight), tmp_path, {"x": data})
        assert held.of(tmp_path / "m.onnx", ATTEMPT).metric == metric


@pytest.mark.parametrize(("size", "metric"), [("N", None), (16, ANSWERS)])
def test_a_number_for_each_sample_is_no_row_of_scores(size, metric, tmp_path):
    """Even where they sum to 1."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Squeeze", ["h", "one"], ["s"]), node("Softmax", ["s"], ["y"])]
    weights = {"w": normal(64, 1), "one": np.array([1])}
    proto = model(nodes, [info("x", [size, 64])], [info("y", [size])], weights)
    held = promise(proto, tmp_path, {"x": samples(128)})
    assert held.of(tmp_path / "m.onnx", ATTEMPT).metric == metric


def test_classes_need_no_size_where_a_linear_layer_has_as_many_outputs(tmp_path):
    """Exporters leave sizes out, or write that of another axis."""
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    for width, metric in ((10, ANSWERS), (1, None)):
        shapes = [info("x", ["N", 64])], [info("y", ["N", "length"])]
        held = promise(model(nodes, *shapes, {"w": normal(64, width)}), tmp_path, {"x": samples()})
        assert held.of(tmp_path / "m.onnx", ATTEMPT).metric == metric


def test_features_and_what_is_handed_through_name_no_classes(tmp_path):
    """An encoder that gives its mask back beside features: the mask is right whatever becomes of the weights."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("LayerNormalization", ["h", "one"], ["y"]),
        node("Identity", ["mask"], ["kept"]),
    ]
    shapes = [info("x", ["N", 64]), info("mask", ["N", 3], TensorProto.INT64)]
    outputs = [info("y", ["N", 16]), info("kept", ["N", 3], TensorProto.INT64)]
    proto = model(nodes, shapes, outputs, {"w": normal(64, 16), "one": np.ones(16, np.float32)})
    mask = np.random.default_rng(0).integers(0, 2, (64, 3))
    found = promise(proto, tmp_path, {"x": samples(), "mask": mask}).of(tmp_path / "m.onnx", ATTEMPT)
    assert found.metric is None
    assert found.kept


def test_a_series_names_no_classes_and_probabilities_do(tmp_path):
    """Whose last axis has no size of its own: of speech or none by frame, say."""
    x = samples(64, 48).reshape(64, 1, 48)
    wide = [node("Conv", ["x", "w"], ["h"], pads=[1, 1])]
    for last, metric in ((node("Sigmoid", ["h"], ["y"]), None), (node("Softmax", ["h"], ["y"], axis=-1), ANSWERS)):
        shapes = [info("x", ["N", 1, "T"])], [info("y", ["N", 2, "T"])]
        held = promise(model([*wide, last], *shapes, {"w": normal(2, 1, 3)}), tmp_path, {"x": x})
        assert held.of(tmp_path / "m.onnx", ATTEMPT).metric == metric


def test_margins_tell_what_few_answers_do_not(tmp_path):
    """Errors just below their own margins change no answer here, and would change others of like margins."""
    rng = np.random.default_rng(0)
    classes = np.arange(64) % 8
    margins = rng.uniform(0.5, 2.0, 64)
    x = np.concatenate([np.eye(8)[classes] * margins[:, None], np.eye(64)], axis=1).astype(np.float32)
    weight = np.zeros((72, 8), np.float32)
    weight[:8] = np.eye(8)
    held = promise(head(weight), tmp_path, {"x": x})
    changed = weight.copy()
    rows = np.arange(64)
    errors = np.where(rows % 2, 0.99 * margins, 0.0)  # of the answer's score
    changed[8 + rows, classes] -= errors.astype(np.float32)
    found = held.of(put(tmp_path / "o.onnx", head(changed)), ATTEMPT)
    half = halves(tmp_path / "m.onnx", tmp_path / "data.npz", None)[1].arrays["x"][:, 8:].argmax(1)
    telling = half[classes[half] != np.bincount(classes[half]).argmax()]
    assert found.result == 100
    assert found.expected == pytest.approx(100 * stays(margins[telling], errors[telling]), abs=1e-3)
    assert found.expected < 95
    assert not found.kept


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


def test_short_series_count_by_sample(tmp_path):
    """A text of 8 letters, one of which changes in every second text."""
    letters = np.random.default_rng(0).integers(0, 20, (64, 8))
    x = np.concatenate([np.eye(20)[letters], np.broadcast_to(np.eye(64)[:, None], (64, 8, 64))], axis=2).astype(
        np.float32
    )
    weight = np.zeros((84, 20), np.float32)
    weight[:20] = 10 * np.eye(20)
    nodes = [node("MatMul", ["x", "w"], ["y"])]

    def read(weight: np.ndarray) -> onnx.ModelProto:
        return model(nodes, [info("x", ["N", 8, 84])], [info("y", ["N", 8, 20])], {"w": weight})

    held = promise(read(weight), tmp_path, {"x": x})
    changed = weight.copy()
    changed[20 : 20 + 64 : 2, letters[::2, 0]] = 0  # nothing yet
    for text in range(0, 64, 2):
        changed[20 + text, (letters[text, 0] + 1) % 20] = 30
    found = held.of(put(tmp_path / "o.onnx", read(changed)), ATTEMPT)
    assert found.answers == 32
    assert found.result < 60
    assert not found.kept


def test_a_sample_of_a_series_changes_once_however_many_of_its_answers_do(tmp_path):
    """Texts of 8 letters, of which four lose all."""
    letters, which = np.random.default_rng(0).integers(0, 20, (64, 8)), np.repeat(np.arange(64)[:, None], 8, axis=1)
    x = np.concatenate([np.eye(20)[letters], np.eye(64)[which]], axis=2).astype(np.float32)
    weight = np.concatenate([10 * np.eye(20), np.zeros((64, 20))]).astype(np.float32)

    def read(weight: np.ndarray) -> onnx.ModelProto:
        layer = [node("MatMul", ["x", "w"], ["y"])]
        return model(layer, [info("x", ["N", 8, 84])], [info("y", ["N", 8, 20])], {"w": weight})

    held = promise(read(weight), tmp_path, {"x": x})
    judging = halves(tmp_path / "m.onnx", tmp_path / "data.npz", None)[1].feeds
    texts = np.unique(np.concatenate([feed["x"][:, 0, 20:].argmax(1) for feed in judging]))
    assert len(texts) == 32
    weight[20 + texts[:4], 7] = 30
    found = held.of(put(tmp_path / "o.onnx", read(weight)), ATTEMPT)
    assert found.answers == 32
    assert found.result == pytest.approx(100 * 28 / 32)


@pytest.mark.parametrize(("kinds", "by_sample"), [(4, False), (20, True)])
def test_a_series_of_few_kinds_counts_by_its_parts(kinds, by_sample, tmp_path):
    """What is told apart in a recording, beside a text."""
    letters = np.random.default_rng(0).integers(0, kinds, (64, 9))
    x = np.concatenate([np.eye(kinds)[letters], normal(64, 9, 5)], axis=2).astype(np.float32)
    held = {"w": np.concatenate([10 * np.eye(kinds), np.zeros((5, kinds))]).astype(np.float32)}
    shapes = [info("x", ["N", 9, kinds + 5])], [info("y", ["N", 9, kinds])]
    proto = model([node("MatMul", ["x", "w"], ["y"])], *shapes, held)
    found = promise(proto, tmp_path, {"x": x}).of(put(tmp_path / "o.onnx", proto), ATTEMPT)
    assert found.result == 100
    assert (found.answers == 32) == by_sample
    assert by_sample or 32 * 5 < found.answers < 32 * 9
