"""Outputs whose parts are of other magnitudes, such as boxes and scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.runtime.deviation import Part, compare, parts_of
from tests.helpers.builders import info, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import put


def boxes(samples: int = 2, classes: int = 80, places: int = 40) -> np.ndarray:
    """[samples, 4 + classes, places]: pixels, and scores of which few classes have any to speak of."""
    rng = np.random.default_rng(0)
    scores = rng.random((samples, classes, places)) * 10.0 ** -rng.integers(0, 8, (1, classes, 1))
    return np.concatenate([rng.uniform(5, 640, (samples, 4, places)), scores], axis=1).astype(np.float32)


def sqnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.square(a, dtype=np.float64).sum() / np.square(a - b, dtype=np.float64).sum()))


@pytest.mark.parametrize(("layout", "axis"), [((0, 1, 2), 1), ((0, 2, 1), 2)])
def test_scores_beside_boxes(layout, axis):
    array = boxes().transpose(layout)
    assert parts_of(array) == [Part(axis, 84, tuple(range(4, 84))), Part(axis, 84, tuple(range(4)))]
    flat = [str(part) for part in parts_of(array.reshape(-1, array.shape[-1]))]
    assert flat == (["4 to 83 of axis 1", "0 to 3 of axis 1"] if axis == 2 else [])


def test_parts_that_are_mixed():
    """Points of a body in pixels, each with how sure it is, behind a box and its score."""
    scores = boxes()[:, 4:5]
    points = [np.concatenate([boxes()[:, :2], scores], axis=1)] * 3
    array = np.concatenate([boxes()[:, :5], *points], axis=1)
    assert parts_of(array) == [Part(1, 14, (4, 7, 10, 13)), Part(1, 14, (0, 1, 2, 3, 5, 6, 8, 9, 11, 12))]
    assert [str(part) for part in parts_of(array)] == ["4 of 14 along axis 1", "10 of 14 along axis 1"]
    three = np.concatenate([array, np.full((2, 1, 40), 1e9, np.float32)], axis=1)
    assert [str(part) for part in parts_of(three)] == [
        "4 of 15 along axis 1", "10 of 15 along axis 1", "14 of axis 1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "array",
    [
        boxes()[:, 4:], boxes()[:, :4], np.tile([0.999, 0.001], (50, 1)), normal(4, 7), np.zeros((3, 5)),
        np.float32(3), normal(9), np.zeros((0, 4)), np.tile([[1e200, 1.0], [np.inf, 1.0]], (50, 1)),
        np.tile([[1e300, 1.0]], (50, 1)), np.tile(np.geomspace(1e6, 1e-6, 40), (50, 1)), np.tile([[1e4, 1.0]], (31, 1)),
    ],
)  # fmt: skip
def test_numbers_of_one_kind_have_no_parts(array):
    """Probabilities are of one kind however sure they are, and numbers that fall bit by bit; few rows tell no kind."""
    assert parts_of(array) == []


def test_the_worst_part_is_what_counts():
    a = boxes()
    b = a.copy()
    b[:, 4:] *= 0.5
    (output,) = compare([{"y": a}], [{"y": b}])
    assert sqnr(a, b) > 50
    assert output.sqnr_db == pytest.approx(6.02, abs=0.01)
    assert output.relative_l2 == pytest.approx(0.5, rel=1e-3)
    assert output.facts()["part"] == "4 to 83 of axis 1"
    b = a.copy()
    b[:, :4] *= 0.9
    (output,) = compare([{"y": a}], [{"y": b}])
    assert (output.sqnr_db, output.facts()["part"]) == (pytest.approx(20, abs=0.01), "0 to 3 of axis 1")
    (output,) = compare([{"y": a}], [{"y": a}])
    assert (output.sqnr_db, output.max_abs) == (np.inf, 0)


def test_an_axis_whose_length_changes_has_no_parts():
    """Of tokens the first may stand out; another text has others."""
    first, second = (np.ones((1, tokens, 64), np.float32) for tokens in (9, 5))
    first[:, 0] = 1e3
    assert parts_of(first)
    (output,) = compare([{"y": first}, {"y": second}], [{"y": first}, {"y": 2 * second}])
    assert output.facts()["part"] == ""
    assert output.sqnr_db == pytest.approx(sqnr(np.append(first, second), np.append(first, 2 * second)), abs=1e-6)


def test_a_part_that_says_nothing_does_not_count():
    a = boxes()
    a[:, 4:] = 0
    b = a.copy()
    b[:, 4:] = 1e-3
    (output,) = compare([{"y": a}], [{"y": b}])
    assert output.sqnr_db == pytest.approx(sqnr(a, b), abs=0.01)
    assert output.facts()["part"] == ""


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.floats(1e-4, 0.5), st.floats(1e-4, 0.5))
def test_batches_add_up(batches, of_boxes, of_scores):
    whole = boxes(samples=5)
    rng = np.random.default_rng(1)
    noise = np.concatenate([np.full(4, of_boxes), np.full(80, of_scores)])[:, np.newaxis]
    result = whole * (1 + noise * rng.choice([-1, 1], whole.shape))
    pieces = [np.array_split(array, batches) for array in (whole, result)]
    (output,) = compare(*([{"y": piece} for piece in array] for array in pieces))
    expected = [sqnr(whole[:, own], result[:, own]) for own in (slice(0, 4), slice(4, 84))]
    assert output.sqnr_db == pytest.approx(min(expected), abs=1e-3)


def detector(tmp_path):
    """Boxes of 0 to 640 pixels and scores, by a branch each, from what both read."""
    weights = {
        "trunk": normal(32, 64) / 6, "box": normal(64, 64, seed=1), "boxes": 40 * normal(64, 4, seed=2),
        "score": normal(64, 64, seed=3), "scores": normal(64, 20, seed=4) / 4, "low": np.full(20, -3, np.float32),
    }  # fmt: skip
    nodes = [node("MatMul", ["x", "trunk"], ["t"]), node("Relu", ["t"], ["h"])]
    for one, several in (("box", "boxes"), ("score", "scores")):
        nodes += [node("MatMul", ["h", one], [f"{one}.t"]), node("Relu", [f"{one}.t"], [f"{one}.h"]),
                  node("MatMul", [f"{one}.h", several], [f"{several}.t"])]  # fmt: skip
    nodes += [
        node("Add", ["scores.t", "low"], ["l"]), node("Sigmoid", ["l"], ["p"]),
        node("Concat", ["boxes.t", "p"], ["y"], axis=1),
    ]  # fmt: skip
    return put(tmp_path / "m.onnx", model(nodes, [info("x", ["N", 32])], [info("y", ["N", 24])], weights))


def test_scores_are_held_to_the_promise(tmp_path):
    path = detector(tmp_path)
    np.savez(tmp_path / "data.npz", x=normal(200, 32, seed=9))
    result = onnxprune.compress(path, tmp_path / "o.onnx", data=tmp_path / "data.npz")
    assert result.promise.sqnr >= 20
    assert result.deviation.outputs[0]["part"]
    x = normal(300, 32, seed=10)
    np.savez(tmp_path / "other.npz", x=x)
    found = onnxprune.verify(path, tmp_path / "o.onnx", data=tmp_path / "other.npz").outputs[0]
    assert found["sqnr_db"] >= 17
    said = call("verify", path, tmp_path / "o.onnx", "--data", tmp_path / "other.npz").output
    assert f"dB ({found['part']})" in said
