"""Deviations in the reports: agreement on real samples alone, a warning on synthesised inputs that went far off."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

import onnxprune
from onnxprune.api.result import Deviation
from onnxprune.report.deviations import concern, inputs, worst_sqnr
from onnxprune.report.html import write as html
from onnxprune.report.terminal import show_deviation
from onnxprune.runtime.deviation import compare
from tests.helpers.arrays import samples
from tests.helpers.repository import DIGITS, LENETS
from tests.report.pages import read

FAR = "give --data to see whether the answers hold"


def shown(deviation: Deviation) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    show_deviation(console, deviation)
    return console.file.getvalue().splitlines()


def deviation(source, **outputs):
    """Of outputs by name, each a pair of what the original and the result give."""
    pairs = ({name: pair[place] for name, pair in outputs.items()} for place in (0, 1))
    found = compare(*([side] for side in pairs))
    return Deviation(source, 1, "", [output.facts() for output in found], None, {"x": "waveforms"})


@pytest.mark.parametrize("sparsity", [0.3, 0.95])
def test_synthesised_inputs(tmp_path, sparsity):
    path = LENETS["lenet-5"]
    result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=sparsity)
    (output,) = result.deviation.outputs
    assert output["top1_agreement"] is not None
    first, second, *rest = shown(result.deviation)
    assert first == (
        "  verified    in onnxruntime on 8 synthesised inputs (images of 1 channel, 0 to 1: --data says more)"
    )
    numbers = f"SQNR {output['sqnr_db']:.1f} dB, max abs {output['max_abs']:.3g}, cosine {output['cosine']:.5f}"
    assert second.strip() == f"scores: {numbers}"
    far = output["sqnr_db"] < 20
    assert far == (sparsity > 0.9)
    assert [FAR in line for line in rest if "ms a run, measured here" not in line] == [True] * far
    html.write_report(result, tmp_path / "r.html")
    page = read(tmp_path / "r.html")
    assert "agreement" not in page.text
    assert "images of 1 channel, 0 to 1" in page.text
    assert f"{output['sqnr_db']:.1f} dB" in page.text
    assert "SQNR on synthesised inputs" in page.text
    assert (FAR in page.text) == far
    assert ["output", "SQNR", "largest difference", "cosine"] in page.rows


def test_real_samples(tmp_path):
    result = onnxprune.compress(LENETS["lenet-5"], tmp_path / "o.onnx", sparsity=0.95, data=DIGITS, samples=20)
    (output,) = result.deviation.outputs
    first, second, *rest = shown(result.deviation)
    assert first == "  verified    in onnxruntime on 20 samples of --data"
    assert second.strip() == (
        f"scores: max abs {output['max_abs']:.3g}, SQNR {output['sqnr_db']:.1f} dB, cosine {output['cosine']:.5f}, "
        f"top-1 agreement {100 * output['top1_agreement']:.2f} %"
    )
    assert not any(FAR in line for line in rest)


def test_the_worst_output_is_what_concerns():
    a = samples(4, 4)
    close, far = (a, a * 1.01), (a, a * 1.5)
    labels = (np.array([1, 2]), np.array([1, 3]))
    assert worst_sqnr(deviation("synthetic", a=close, b=far).outputs) == pytest.approx(6.02, abs=0.01)
    assert concern(deviation("synthetic", a=close, b=(a, a), c=labels)) == ""
    same, nothing = (a * 0, a * 0), (a * np.nan, a * np.nan)
    assert "give --data" in concern(deviation("synthetic", a=same, b=nothing))
    assert "give other samples" in concern(deviation("data", a=same))
    assert concern(deviation("synthetic", a=same, b=(a, a))) == ""
    for worse in (far, (a, a[:2]), (a * 0, a)):
        assert FAR in concern(deviation("synthetic", a=close, b=worse))
        assert concern(deviation("data", a=close, b=worse)) == ""
    assert worst_sqnr(deviation("synthetic", a=(a, a), b=labels).outputs) is None


def test_what_the_models_ran_on():
    kinds = {"a": "images of 3 channels, 0 to 1", "b": "states of 0", "c": "states of 0"}
    told = inputs(Deviation("synthetic", 8, input_kinds=kinds))
    assert told == "8 synthesised inputs (images of 3 channels, 0 to 1; states of 0: --data says more)"
    assert inputs(Deviation("data", 8)) == "8 samples of --data"
    assert inputs(Deviation("data", 1)) == "1 sample of --data"


def test_classes_on_synthesised_inputs():
    labels = (np.arange(4), np.array([0, 1, 2, 4]))
    assert [line.strip() for line in shown(deviation("synthetic", y=labels))[1:]] == ["y: 25.00 % differ"]
    assert [line.strip() for line in shown(deviation("data", y=labels))[1:]] == ["y: agreement 75.00 %"]


def test_a_model_without_inputs_says_so():
    assert inputs(Deviation("synthetic", 1)) == "1 synthesised input (none are needed)"
