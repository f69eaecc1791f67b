"""compress --max-drop: the smallest file within a budget, confirmed on held-out samples, resumable; or nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.allocation import curves
from onnxprune.api import stages
from onnxprune.api import verify as verify_module
from onnxprune.api.options.keywords import CompressKeywords, TransformKeywords
from onnxprune.api.options.objects import Checks, Computing, Deciding, Rule, Storing
from onnxprune.api.options.stripping import Stripping
from onnxprune.api.tries import Tries
from onnxprune.api.verify import Verification
from onnxprune.core import chunked
from onnxprune.errors import DataError, MetricError, OptionError, ToleranceMissed
from onnxprune.model.model import Model
from onnxprune.runtime import judge as judge_module
from onnxprune.runtime import samples as data
from onnxprune.runtime.judge import Judge, Question
from onnxprune.runtime.session import inputs_of, open_session, run
from onnxprune.search import sensitivity
from onnxprune.search.budget import MIN_HALF_SAMPLES, Search, loss_of
from onnxprune.search.importance import importance_of
from onnxprune_passes import DeadNeurons
from tests.helpers.builders import mlp


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "m.onnx").write_bytes(mlp(sizes=(20, 60, 40, 10)).SerializeToString())
    return tmp_path / "m.onnx"


@pytest.fixture
def samples(model, tmp_path) -> Path:
    x = np.random.default_rng(1).standard_normal((400, 20)).astype(np.float32)
    targets = next(iter(run(open_session(model), {"x": x}).values())).argmax(1)
    targets[::9] = 0
    np.savez(tmp_path / "d.npz", x=x, targets=targets)
    return tmp_path / "d.npz"


def measured(model: Path, samples: Path, half: int) -> float:
    session = open_session(model)
    cut = data.cut(data.read(samples), "", inputs_of(session), None, half)
    return Judge(session, Question(), cut).value(model)


def error_of(model: Path, result: Path, samples: Path) -> float:
    """The standard error of the mean drop of eight parts of the held-out half."""
    held = dict(np.load(samples))
    spared = np.sort(np.random.default_rng(0).permutation(400)[200:])
    right = []
    for path in (model, result):
        scores = next(iter(run(open_session(path), {"x": held["x"][spared]}).values()))
        right.append(100.0 * (scores.argmax(1) == held["targets"][spared]))
    drops = [np.mean((right[0] - right[1])[part::8]) for part in range(8)]
    return float(np.std(drops, ddof=1) / np.sqrt(8))


def test_both_halves_are_within_and_the_numbers_are_true(model, samples, tmp_path):
    result = onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=3)
    found = result.search
    assert (found.metric, found.max_drop, found.complete) == ("top1", 3, True)
    for number, half in enumerate((found.decided, found.held_out)):
        assert half.samples == 200
        assert half.original == measured(model, samples, number)
        assert half.result == measured(tmp_path / "o.onnx", samples, number)
        assert half.original - half.result + half.error <= 3
    assert found.decided.error == 0
    assert found.held_out.error == pytest.approx(error_of(model, tmp_path / "o.onnx", samples))
    assert found.held_out.error > 0
    assert not (tmp_path / "o.onnx.trials").exists()
    assert result.facts()["search"]["decided"]["samples"] == 200


def test_with_a_scan_the_loss_counts_for_what_layers_cost_the_metric(model, samples, tmp_path):
    sensitivity.scan(model, tmp_path / "s.json", data=samples, levels=(0.3, 0.6, 0.9), jobs=1)
    result = onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=5, scan=tmp_path / "s.json")
    found = result.search
    assert all(half.original - half.result <= 5 for half in (found.decided, found.held_out))
    for entry in importance_of(Model.load(model), curves.read(tmp_path / "s.json")):
        assert entry in result.passes[-1]
    assert f"loss={found.loss!r}" in result.passes[-1]


def test_more_budget_is_no_larger_and_the_same_each_time(model, samples, tmp_path):
    sizes = []
    for drop in (0, 2, 20):
        sizes.append(onnxprune.compress(model, tmp_path / f"{drop}.onnx", data=samples, max_drop=drop).output.bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    onnxprune.compress(model, tmp_path / "2 again.onnx", data=samples, max_drop=2)
    assert (tmp_path / "2.onnx").read_bytes() == (tmp_path / "2 again.onnx").read_bytes()


def test_what_is_kept_of_measurements_changes_no_byte(model, samples, tmp_path):
    """The passes that the model says it went through, run by themselves, write the same file."""
    onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=2)
    result = onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=2)
    onnxprune.transform(model, tmp_path / "p.onnx", result.passes)
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()
    assert "half=true" in result.passes[-1]


def test_calibration_sees_nothing_of_the_held_out_half(model, samples, tmp_path):
    """Other inputs in the held-out half, the same answers: the file stays the same."""
    onnxprune.compress(model, tmp_path / "a.onnx", data=samples, max_drop=5)
    held = dict(np.load(samples))
    spared = np.random.default_rng(0).permutation(400)[200:]
    held["x"][spared] *= 1.01
    np.savez(tmp_path / "d.npz", **held)
    onnxprune.compress(model, tmp_path / "b.onnx", data=samples, max_drop=5)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_budget_that_cannot_be_met_writes_nothing(model, samples, tmp_path):
    with pytest.raises(ToleranceMissed, match="nothing written") as caught:
        onnxprune.compress(model, tmp_path / "o.onnx", data=samples, sparsity=0.95, max_drop=0.1)
    assert caught.value.exit_code == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "m.onnx"]


def test_a_killed_search_goes_on(model, samples, tmp_path, monkeypatch):
    whole = onnxprune.compress(model, tmp_path / "whole.onnx", data=samples, max_drop=2)
    tried: list[float] = []
    real = Tries.write

    def write(tries, loss, place):
        tried.append(loss)
        if len(tried) == 3:
            raise KeyboardInterrupt
        real(tries, loss, place)

    monkeypatch.setattr(Tries, "write", write)
    with pytest.raises(KeyboardInterrupt):
        onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=2)
    journal = tmp_path / "o.onnx.trials"
    known = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert sum("loss" in record["trial"] for record in known) == 2
    again = onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=2)
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert again.search == whole.search
    assert not journal.exists()


class Clock:
    """Seconds pass only when a trial is made."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def ticking(monkeypatch) -> Clock:
    clock, real = Clock(), Tries.write

    def write(tries, loss, place):
        clock.now += 1
        real(tries, loss, place)

    monkeypatch.setattr("onnxprune.search.budget.time", clock)
    monkeypatch.setattr(Tries, "write", write)
    return clock


def test_a_time_limit_writes_the_best_so_far(model, samples, tmp_path, monkeypatch):
    ticking(monkeypatch)
    whole = onnxprune.compress(model, tmp_path / "whole.onnx", data=samples, max_drop=10)
    hurried = onnxprune.compress(
        model, tmp_path / "o.onnx", data=samples, max_drop=10, time_limit=whole.search.trials - 1
    )
    assert not hurried.search.complete
    assert hurried.search.trials < whole.search.trials
    assert hurried.output.bytes >= whole.output.bytes
    assert hurried.search.held_out.original - hurried.search.held_out.result <= 10


def test_few_samples_are_judged_by_margins_too(model, samples, tmp_path):
    """Where one of them is more than half of the budget."""
    found = {drop: onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=drop) for drop in (0.9, 20.0)}
    half = found[0.9].search.held_out
    assert 100 / half.samples > 0.9 / 2
    session = open_session(model)
    margins = Judge(session, Question("expected_top1"), data.cut(data.read(samples), "", inputs_of(session), None, 1))
    assert margins.baseline(model) - 0.9 <= half.expected <= margins.baseline(model)
    assert found[20.0].search.held_out.expected is None


def test_a_time_limit_before_anything_was_found(model, samples, tmp_path, monkeypatch):
    clock = ticking(monkeypatch)
    with pytest.raises(ToleranceMissed, match="goes on from here"):
        onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=0, time_limit=1)
    assert not (tmp_path / "o.onnx").exists()
    clock.now = 0.0
    assert onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=0).search.complete


class Fake(Search):
    """A search over made-up metrics of the two halves; sizes fall with the loss."""

    def __init__(self, model, samples, decided, held_out, drop=1.0, scatter=lambda step: 0.0):
        super().__init__(model, lambda loss, place: None, Question(), samples, None, drop, None, lambda *_: None)
        self.asked: list[int] = []
        self._metrics, self._scatter = (decided, held_out), scatter

    def _file(self, step):
        self.asked.append(step)
        place = self._folder / f"{step + 100}.onnx"
        place.write_bytes(bytes(1000 - step))
        return place

    def _value(self, step, judge):
        self._file(step)
        if judge in self._judges:
            number = self._judges.index(judge)
            return self._baselines[number] - self._metrics[number](step)
        off = self._scatter(step) * (-1) ** self._folds.index(judge)
        return judge.baseline(None) - self._metrics[1](step) - off


def steps_found(model, samples, tmp_path, decided, held_out, **how):
    from onnxprune.search.trials import opened

    fake = Fake(model, samples, decided, held_out, **how)
    with opened(tmp_path / "t", {}) as known:
        return next(s for s in range(-41, 29) if loss_of(s) == fake.run(known).loss)


@pytest.mark.parametrize("edge", [-41, -33, -17, -4, -1, 0, 1, 3, 4, 11, 26])
def test_the_edge_is_found_to_a_step(model, samples, tmp_path, edge):
    assert steps_found(model, samples, tmp_path, lambda s: 2.0 * (s > edge), lambda s: 0.0) == edge


@pytest.mark.parametrize("edge", [-20, -3, 0, 5])
def test_the_held_out_half_tightens(model, samples, tmp_path, edge):
    found = steps_found(model, samples, tmp_path, lambda s: 2.0 * (s > 6), lambda s: 2.0 * (s > edge))
    assert edge - 16 <= found <= edge


@pytest.mark.parametrize(("scatter", "edge"), [(1.3, 6), (1.4, 2)])  # over the root of 7: 0.49 and 0.53
def test_the_held_out_half_has_a_standard_error_to_spare(model, samples, tmp_path, scatter, edge):
    """Half a point is lost of one that may be lost: so much is left for the error, which is 0 up to step 2."""
    found = steps_found(
        model, samples, tmp_path, lambda s: 2.0 * (s > 6), lambda s: 0.5, scatter=lambda s: scatter * (s > 2)
    )
    assert found == edge if edge == 6 else edge - 16 <= found <= edge


def test_a_metric_that_cannot_be_told_of_few_samples_confirms_without_an_error(model, samples, tmp_path, monkeypatch):
    (tmp_path / "many.py").write_text("def many(outputs, data):\n    return 1.0 / (len(data['x']) > 100)\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = onnxprune.compress(model, tmp_path / "o.onnx", data=samples, metric="many:many", max_drop=0)
    assert result.search.held_out.error == 0


def test_a_metric_of_noise_is_refused_in_the_end(model, samples, tmp_path):
    with pytest.raises(ToleranceMissed, match="both halves"):
        steps_found(model, samples, tmp_path, lambda s: 0.0, lambda s: 2.0)


def test_a_command_decides_without_halves(model, tmp_path):
    (tmp_path / "size.py").write_text("import os, sys\nprint(os.path.getsize(sys.argv[1]))\n")
    command = f"{sys.executable} {tmp_path / 'size.py'} {{model}}"
    smallest = onnxprune.compress(model, tmp_path / "o.onnx", evaluate=command, max_drop=0, lower_is_better=True)
    assert smallest.search.held_out is None
    assert smallest.search.decided.result < smallest.search.decided.original


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_drop": -1}, OptionError, "max-drop"),
        ({"max_drop": float("nan")}, OptionError, "max-drop"),
        ({"max_drop": 1, "tolerance": 1}, OptionError, "leave out"),
        ({"max_drop": 1, "loss": 0.1}, OptionError, "leave out"),
        ({"max_drop": 1, "sparsity": 0.5, "values": "int8"}, OptionError, "leave out"),
        ({"max_drop": 1, "time_limit": 0}, OptionError, "time-limit"),
        ({"time_limit": 5}, OptionError, "time-limit"),
        ({"max_drop": 1, "data": None}, OptionError, "needs data"),
        ({"max_drop": 1, "samples": 2 * MIN_HALF_SAMPLES - 2}, DataError, "at least 16"),
        ({"max_drop": 1, "metric": "nowhere:f"}, MetricError, "imported"),
    ],
)
def test_one_line_and_nothing_written(model, samples, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        onnxprune.compress(model, tmp_path / "o.onnx", **({"data": samples} | options))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "m.onnx"]


def test_an_encoded_model_is_searched_from_its_dense_form(model, samples, tmp_path):
    onnxprune.encode(model, tmp_path / "e.onnx", encoding="flat")
    result = onnxprune.compress(tmp_path / "e.onnx", tmp_path / "o.onnx", data=samples, max_drop=5)
    assert result.search.decided.original == measured(model, samples, 0)
    assert Model.load(tmp_path / "o.onnx").opset >= 11


@pytest.mark.parametrize(("jobs", "threaded"), [(1, False), (2, True)])
def test_the_tries_work_with_as_many_threads_as_are_asked_for(model, samples, tmp_path, monkeypatch, jobs, threaded):
    started: list[str] = []
    real = threading.Thread.start

    def start(thread):
        started.append(thread.name)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    for elements in ("UNIT_ELEMENTS", "CHUNK_ELEMENTS"):  # weights of several chunks
        monkeypatch.setattr(chunked, elements, 64)
    onnxprune.compress(model, tmp_path / "o.onnx", data=samples, max_drop=5, jobs=jobs)
    assert any(name.startswith("onnxprune") for name in started) is threaded


def counted(monkeypatch, owner, name) -> list:
    """The arguments of each call of a function, from now on."""
    calls, real = [], getattr(owner, name)

    def call(*args, **options):
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_a_search_loads_and_verifies_once(model, samples, tmp_path, monkeypatch):
    loaded = counted(monkeypatch, Model, "_parsed")
    inspected = counted(monkeypatch, stages, "inspect_model")
    zipped = counted(monkeypatch, stages, "file_facts")
    verified = counted(monkeypatch, Verification, "of")
    prepared = counted(monkeypatch, DeadNeurons, "run")
    opened = counted(monkeypatch, judge_module, "open_session")
    found = onnxprune.compress(
        model, tmp_path / "o.onnx", data=samples, sparsity=0.2, saliency="magnitude", max_drop=20
    ).search
    assert found.trials > 1
    assert len(verified) == len(prepared) == len(inspected) == 1
    assert len(zipped) == 2  # the original and the result
    # A session for each try, whatever judges it, and one more where the last try did not win.
    assert found.trials <= len(opened) <= found.trials + 1
    paths = [path for path, *_ in loaded]
    assert paths.count(model) <= 2  # to prune and to verify
    assert len(paths) == paths.count(model) + 1  # and the result, to see what is decoded at each run


def test_a_tolerance_runs_the_original_once(model, samples, tmp_path, monkeypatch):
    loaded = counted(monkeypatch, verify_module, "open_session")
    prepared = counted(monkeypatch, DeadNeurons, "run")
    zipped = counted(monkeypatch, stages, "file_facts")
    tried = counted(monkeypatch, Verification, "of")
    onnxprune.compress(model, tmp_path / "o.onnx", data=samples, loss=1.0, tolerance=4)
    assert len(tried) > 2
    assert len(loaded) == 1 + len(tried)
    assert len(zipped) == 2
    assert 1 <= len(prepared) <= 1 + len(tried)  # once for all, and once behind each that empties a channel


@pytest.mark.parametrize("options", [{"max_drop": 1}, {"tolerance": 1, "loss": 0.1}, {"scan": "no scan"}, {}])
def test_a_misspelt_option_is_refused_before_anything_is_read(tmp_path, options):
    with pytest.raises(TypeError, match="'tolerence'"):
        onnxprune.compress(tmp_path / "no model", tmp_path / "o.onnx", data="no data", tolerence=1, **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, out, **more: onnxprune.transform(model, out, ["decode"], **more),
        onnxprune.prune,
        onnxprune.encode,
        onnxprune.decode,
        onnxprune.strip,
        lambda model, out, **more: onnxprune.apply_masks(model, "no masks", out, **more),
        lambda model, out, **more: onnxprune.update(model, "no checkpoint.npz", out, masks="no masks", **more),
        lambda model, out, **more: onnxprune.compress_many([model], out, **more),
        lambda model, out, **more: onnxprune.verify(model, model, **more),
    ],
)
def test_every_function_refuses_a_misspelt_option_at_once(tmp_path, call):
    with pytest.raises(TypeError, match="'tolerence'"):
        call(tmp_path / "no model", tmp_path / "o", tolerence=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keywords", "kinds"),
    [(CompressKeywords, (Rule, Storing, Computing, Stripping, Deciding, Checks)), (TransformKeywords, (Checks,))],
)
def test_the_keywords_are_the_options(keywords, kinds):
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert {*keywords.__annotations__} == fields - {"by_weight"}
