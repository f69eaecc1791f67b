"""Metrics against their formulas, functions and commands of the user, and one line for each fault."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.errors import CommandError, DataError, MetricError, OptionError, ToleranceMissed
from onnxprune.runtime import samples as data
from onnxprune.runtime.judge import Judge, Question, identity
from onnxprune.runtime.samples import Samples
from onnxprune.runtime.session import Input, inputs_of, open_session, run
from tests.helpers.builders import mlp

SIZES = (8, 32, 5)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "m.onnx").write_bytes(mlp(sizes=SIZES).SerializeToString())
    return tmp_path / "m.onnx"


@pytest.fixture
def arrays(path):
    """Inputs, and the answers of the model itself but for the first ten."""
    x = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    targets = next(iter(run(open_session(path), {"x": x}).values())).argmax(1)
    targets[:10] = (targets[:10] + 1) % 5
    return {"x": x, "targets": targets}


def judge(path, arrays, **question) -> Judge:
    session = open_session(path)
    return Judge(session, Question(**question), data.cut(arrays, "the data", inputs_of(session)))


# built in -------------------------------------------------------------------------------------------


def test_targets_choose_the_metric_and_the_baseline(path, arrays):
    found = judge(path, arrays)
    assert (found.metric, found.samples, found.lower_is_better) == ("top1", 100, False)
    assert found.baseline(path) == found.value(path) == found.value(path.read_bytes()) == 90
    assert judge(path, {"x": arrays["x"]}).metric == "agreement"
    wanted = next(iter(run(open_session(path), {"x": arrays["x"]}).values())) + np.float32(0.5)
    found = judge(path, {"x": arrays["x"], "targets": wanted})
    assert (found.metric, found.lower_is_better) == ("mse", True)
    assert found.value(path) == pytest.approx(0.25, rel=1e-5)


def test_expected_answers_of_the_original_are_those_that_are_right(path, arrays, tmp_path):
    found = judge(path, arrays, metric="expected_top1")
    assert found.against_original
    assert found.baseline(path) == found.value(path) == 90
    other = tmp_path / "o.onnx"
    other.write_bytes(mlp(sizes=SIZES, seed=7).SerializeToString())
    assert found.value(other) < 90
    with pytest.raises(OptionError, match="needs an array 'targets'"):
        judge(path, {"x": arrays["x"]}, metric="expected_top1")


@pytest.mark.parametrize(("metric", "perfect"), [("agreement", 100), ("sqnr", 1000), ("cosine", 1), ("mse", 0)])
def test_against_the_original(path, arrays, metric, perfect, tmp_path):
    del arrays["targets"]
    found = judge(path, arrays, metric=metric)
    assert found.baseline(path) == pytest.approx(perfect)
    onnxprune.prune(path, tmp_path / "p.onnx", sparsity=0.7)
    worse = found.value(tmp_path / "p.onnx")
    assert worse == judge(path, arrays, metric=metric).value(tmp_path / "p.onnx")  # held outputs or not
    assert (worse > perfect) is found.lower_is_better
    deviation = onnxprune.verify(path, tmp_path / "p.onnx", data=saved(tmp_path, arrays), metric=metric)
    assert deviation.metric.result == pytest.approx(worse)


def test_outputs_that_are_not_held_are_computed_again(path, arrays, monkeypatch, tmp_path):
    del arrays["targets"]
    onnxprune.prune(path, tmp_path / "p.onnx", sparsity=0.7)
    held = judge(path, arrays, metric="mse")
    expected = [held.value(tmp_path / "p.onnx") for _ in range(2)]
    monkeypatch.setattr("onnxprune.runtime.session.HELD", 2000)
    fresh = judge(path, arrays, metric="mse")
    assert [fresh.value(tmp_path / "p.onnx") for _ in range(2)] == expected


def test_an_input_named_targets_is_an_input():
    item = Input("targets", ("N", 3), np.float32, "tensor(float)")
    assert data.cut({"targets": np.zeros((4, 3), np.float32)}, "", [item]).targets is None


@pytest.mark.parametrize(
    ("targets", "metric", "message"),
    [
        (np.zeros(100), "top1", "whole numbers"),
        (np.zeros(99, np.int64), None, "number of samples"),
        (np.full(100, 5), None, "classes 0 to 4"),
        (np.full(100, -1), None, "classes 0 to 4"),
        (np.zeros((100, 3), np.int64), None, "not the classes"),
        (np.zeros(100), None, "output's shape"),
    ],
)
def test_targets_that_do_not_fit(path, arrays, targets, metric, message):
    with pytest.raises(DataError, match=message):
        judge(path, arrays | {"targets": targets}, metric=metric).value(path)


def test_a_metric_that_needs_targets(path, arrays):
    with pytest.raises(OptionError, match="targets"):
        judge(path, {"x": arrays["x"]}, metric="top1")


def test_targets_of_text_are_for_functions_of_the_user(path, arrays, monkeypatch, tmp_path):
    texts = np.array([f"class {c}" for c in arrays["targets"]])
    with pytest.raises(OptionError, match=r"text.*metric MODULE:FUNCTION"):
        judge(path, arrays | {"targets": texts})
    (tmp_path / "spoken.py").write_text(
        "def right(outputs, data):\n"
        "    (scores,) = outputs.values()\n"
        "    return sum(f'class {s.argmax()}' == t for s, t in zip(scores, data['targets'], strict=True))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert judge(path, arrays | {"targets": texts}, metric="spoken:right").value(path) == 90
    assert identity(
        Question(metric="spoken:right"), data.cut(arrays | {"targets": texts}, "", inputs_of(open_session(path)))
    )


# halves ---------------------------------------------------------------------------------------------


@given(st.integers(2, 60))
@settings(deadline=None, max_examples=20)
def test_halves_part_the_samples(count):
    arrays = {"x": np.arange(count, dtype=np.float32)[:, None], "targets": np.arange(count)}
    item = Input("x", ("N", 1), np.float32, "tensor(float)")
    halves = [data.cut(arrays, "", [item], half=half) for half in (0, 1)]
    parts = [np.concatenate(h.targets).tolist() for h in halves]
    assert sorted(parts[0] + parts[1]) == list(range(count))
    assert len(parts[0]) - len(parts[1]) in (0, 1)
    for half, part in zip(halves, parts, strict=True):
        assert np.concatenate([f["x"] for f in half.feeds])[:, 0].tolist() == part == sorted(part)
        assert half.count == len(part)


def test_one_sample_has_no_halves():
    item = Input("x", ("N", 1), np.float32, "tensor(float)")
    with pytest.raises(DataError, match="for a half"):
        data.cut({"x": np.zeros((1, 1), np.float32)}, "", [item], half=1)


# functions and commands -----------------------------------------------------------------------------


MODULE = """
import numpy as np

def share(outputs, data):
    (scores,) = outputs.values()
    return (scores.argmax(1) == data["targets"]).mean()

def by_session(session, data):
    return share(dict(y=session.run(None, {"x": data["x"]})[0]), data)

def broken(outputs, data):
    raise KeyError("nowhere\\nat all")

def nan(outputs, data):
    return float("nan")

def text(outputs, data):
    return "good"

def nothing(outputs, data):
    pass

constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_metric"
    sys.modules.pop("own_metric", None)


@pytest.mark.parametrize("name", ["share", "by_session"])
def test_a_function_of_outputs_or_of_a_session(path, arrays, module, name):
    found = judge(path, arrays, metric=f"{module}:{name}")
    assert found.value(path) == found.baseline(path) == pytest.approx(0.9)
    assert found.samples == 100


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "raised KeyError: 'nowhere"),
        ("nan", "gave nan"),
        ("text", "gave 'good'"),
        ("nothing", "gave None"),
        ("constant", "not a function"),
        ("gone", "cannot be imported"),
    ],
)
def test_a_faulty_function_is_one_line_and_writes_nothing(path, arrays, module, name, message, tmp_path):
    with pytest.raises(MetricError, match=message) as caught:
        onnxprune.compress(
            path, tmp_path / "o.onnx", data=saved(tmp_path, arrays), metric=f"{module}:{name}", tolerance=0.1
        )
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "o.onnx").exists()


def test_a_function_needs_data(path, module, tmp_path):
    with pytest.raises(OptionError, match="needs data"):
        onnxprune.compress(path, tmp_path / "o.onnx", metric=f"{module}:share", tolerance=1)


def test_a_changed_function_is_another_metric(module, tmp_path):
    def facts():
        return identity(Question(metric=f"{module}:share"), Samples([], 0, {}))

    before = facts()
    assert before == facts()
    (tmp_path / "own_metric.py").write_text(MODULE + "# changed\n")
    assert facts() != before


def command(tmp_path, body: str) -> str:
    (tmp_path / "judge.py").write_text(f"import sys, os\n{body}\n")
    return f"{sys.executable} {tmp_path / 'judge.py'} {{model}}"


def test_a_command_decides(path, tmp_path):
    size = command(tmp_path, "print('kB'); print(os.path.getsize(sys.argv[1]) / 1000)")
    found = onnxprune.compress(path, tmp_path / "o.onnx", evaluate=size, lower_is_better=True, tolerance=0)
    assert found.deviation.metric.original == path.stat().st_size / 1000
    assert found.deviation.metric.result == (tmp_path / "o.onnx").stat().st_size / 1000
    with pytest.raises(ToleranceMissed, match="at least"):
        onnxprune.compress(path, tmp_path / "p.onnx", evaluate=size, tolerance=0, sparsity=0.9, values="exact")
    assert not (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize("body", ["print('good')", "sys.exit(3)", ""])
def test_a_faulty_command(path, tmp_path, body):
    with pytest.raises(CommandError, match="evaluate command"):
        onnxprune.compress(path, tmp_path / "o.onnx", evaluate=command(tmp_path, body), tolerance=0)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"metric": "top1", "evaluate": "true {model}"}, "contradict"),
        ({"metric": "top2"}, "top2"),
        ({"metric": "top1", "lower_is_better": True}, "lower-is-better"),
        ({"evaluate": "true"}, "lacks"),
        ({"evaluate": "no-such-program {model}"}, "no program"),
    ],
)
def test_questions_that_make_no_sense(question, message):
    with pytest.raises(OptionError, match=message):
        Question(**question)


def saved(folder, arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"
