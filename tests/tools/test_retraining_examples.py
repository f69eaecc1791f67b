"""The retraining examples on images that are made up: what is pruned stays zero, what is frozen stays as it was."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

import onnxprune
from tests.helpers.repository import DIGITS, LENETS, TOOLS
from tests.helpers.running import initializers


def weights_of(model: Path) -> dict[str, np.ndarray]:
    return initializers(onnx.load(model))


def test_evaluation_prints_the_held_out_error_in_percent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    mnist, evaluate = (importlib.import_module(name) for name in ("mnist", "evaluate_lenet"))
    sample = np.load(DIGITS)["image"]
    model = LENETS["lenet-5"]
    answers = onnxprune.session(model).run(None, {"image": sample})[0].argmax(1)
    answers[-4:] = 9 - answers[-4:]  # never right
    monkeypatch.setattr(mnist, "HELD_OUT", 16)
    monkeypatch.setattr(mnist, "load", lambda part, data: (sample, answers))
    monkeypatch.setattr(sys, "argv", ["evaluate", str(model)])
    evaluate.main()
    assert capsys.readouterr().out == "25.00\n"


@pytest.mark.parametrize("net", ["lenet-300-100", "lenet-5"])
@pytest.mark.parametrize(
    "framework", [pytest.param("torch", marks=pytest.mark.torch), pytest.param("jax", marks=pytest.mark.jax)]
)
def test_retraining(
    framework: str, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip({"torch": "torch", "jax": "optax"}[framework], reason="needs the train extra")
    monkeypatch.syspath_prepend(str(TOOLS))
    mnist = importlib.import_module("mnist")
    rng = np.random.default_rng(0)
    images = rng.random((256 + 64, 1, 28, 28), np.float32), rng.integers(0, 10, 256 + 64)
    monkeypatch.setattr(mnist, "HELD_OUT", 64)
    monkeypatch.setattr(mnist, "load", lambda part, data: images)

    model, masks, out = tmp_path / "pruned.onnx", tmp_path / "masks.safetensors", tmp_path / "retrained.safetensors"
    onnxprune.prune(LENETS[net], model, sparsity=0.9, masks=masks, verify=False)
    before = weights_of(model)
    pruned = {name: array != 0 for name, array in before.items() if array.ndim > 1}
    optimizer = {"lenet-300-100": "adam", "lenet-5": "sgd"}[net]
    files = f"--model {model} --masks {masks} --out {out} --optimizer {optimizer}"
    options = f"{files} --epochs 2 --batch 32 --l1 1e-5 --dropout 0.5 --freeze conv"
    monkeypatch.setattr(sys, "argv", ["retrain", *options.split()])
    importlib.import_module(f"retrain_{framework}").main()

    after = load_file(out)
    assert {n: a.shape for n, a in after.items()} == {n: a.shape for n, a in before.items()}
    for name, mask in pruned.items():
        assert not after[name][~mask].any()
        if before[name].ndim == 4:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-5)  # averaged
        else:
            assert (after[name] != before[name])[mask].mean() > 0.5
    assert "held-out error" in capsys.readouterr().out
