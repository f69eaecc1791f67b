"""The experiments on MNIST, where it was fetched: the committed pruned models, and the tool that makes them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys

import pytest

from onnxprune.model.model import Model
from tests.helpers.repository import LENETS, LENETS_PRUNED, MODELS, TOOLS

MNIST = MODELS / "fetched" / "mnist"
pytestmark = [pytest.mark.fetched, pytest.mark.skipif(not MNIST.exists(), reason="tools/fetch_models.py mnist")]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


@pytest.mark.parametrize(
    ("net", "ratio", "error", "size"),
    [("lenet-300-100", 40, 1.64, 27_000), ("lenet-5", 100, 0.80, 44_000)],
)
def test_the_committed_pruned_models(tools, tmp_path, net, ratio, error, size):
    import onnxprune

    experiments, evaluate, mnist = map(tools, ("experiments", "evaluate_lenet", "mnist"))
    small, dense = LENETS_PRUNED[net], tmp_path / "dense.onnx"
    assert small.stat().st_size < size
    assert evaluate.error_rate(str(small), *mnist.load("t10k")) <= error
    onnxprune.decode(small, dense)
    total, _ = experiments.parameters(LENETS[net])
    _, kept = experiments.parameters(dense)
    assert total / kept >= ratio
    assert not Model.load(small).companions()


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "recipes"), [("iterated", "RECIPES"), ("sparsest", "SPARSEST")])
def test_an_experiment_runs_and_is_shown(tools, tmp_path, monkeypatch, capsys, kind, recipes):
    pytest.importorskip("torch", reason="needs the train extra")
    experiments = tools("experiments")
    found = getattr(experiments, recipes)
    short = dataclasses.replace(
        found["lenet-300-100"], to=0.9, rounds=2, epochs=1, vary=0, last=int(kind == "sparsest")
    )
    monkeypatch.setitem(found, "lenet-300-100", short)
    arguments = ["experiments", kind, "lenet-300-100", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    experiments.main()
    (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("*.result.json")]
    rounds = result["result"]["rounds"]
    assert [round(r["ratio"], 1) for r in rounds] == [3.2, 10.0]
    assert all(r["test_error"] < 4 and abs(r["small"]["test_error"] - r["test_error"]) < 1 for r in rounds)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["experiments", "show", "--folder", str(tmp_path)])
    experiments.main()
    assert f"| 10.0x | {rounds[1]['nonzero']:,} | " in capsys.readouterr().out
