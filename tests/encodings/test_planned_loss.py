"""No weight loses more than twice what was planned, and no output channel many times what its weight does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.core.chunked import ChunkedArray
from onnxprune.encodings.candidates import HALF, Candidates, Choice
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.quantization.codebook import Codebook, fit_codebook
from onnxprune.quantization.histogram import Histogram, root_mean_square
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import conv_net, info, lstm, matmul, mlp, model, node, normal, qdq
from tests.helpers.repository import LENETS, fetched
from tests.helpers.running import assert_same_bits, initializers, load, put

NETS = {"mlp": lambda: mlp((64, 96, 40)), "conv": conv_net, "lstm": lstm, "qdq": qdq}


@contextmanager
def stored_losses() -> Iterator[list[tuple[str, float, float]]]:
    """The name, the loss and the planned loss of each weight that is stored by a plan."""
    seen: list[tuple[str, float, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        chosen = Candidates.chosen

        def spied(self, choice):
            form = chosen(self, choice)
            if form is not None and choice.planned is not None:
                seen.append((self.weight.name, form.coded.lost, choice.planned))
            return form

        patch.setattr(Candidates, "chosen", spied)
        yield seen


def worse_than_planned(seen: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    return [one for one in seen if one[1] > 2 * one[2] + 1e-6]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("loss", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("keep_zeros", [False, True])
def test_every_weight_is_as_planned(net, loss, keep_zeros):
    with stored_losses() as seen:
        Encode(values="auto", loss=loss, keep_zeros=keep_zeros).run(load(NETS[net]()))
    assert seen
    assert worse_than_planned(seen) == []


@pytest.mark.parametrize(
    "path",
    [*LENETS.values(), *(pytest.param(path, id=name, marks=marks) for path, name, marks in fetched())],
    ids=lambda path: path.stem,
)
def test_every_weight_of_real_models_is_as_planned(path, tmp_path):
    opened = Model.load(path)
    Decode().run(opened)
    with stored_losses() as seen:
        Encode(values="auto").run(opened)
    assert worse_than_planned(seen) == []


def lost_by_channel(before: np.ndarray, proto: onnx.ModelProto, **options) -> np.ndarray:
    """The squared error over the energy of each column of `w`, encoded and decoded."""
    opened = load(proto)
    Encode(values="auto", **options).run(opened)
    Decode().run(opened)
    after = next(w for w in find(opened) if w.name == "w").array(opened).astype(np.float64)
    return np.square(after - before).sum(axis=0) / np.square(before.astype(np.float64)).sum(axis=0)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_heavy_channel_among_many_loses_no_more_than_twice_what_the_loss_allows(opset):
    """The blank of a reader: larger than the others, a few of its values many times the rest."""
    weight = normal(64, 4096)
    weight[:, 0] *= 3
    weight[::16, 0] *= 9
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 4096])], {"w": weight}, opset=opset)
    lost = lost_by_channel(weight, proto)
    assert lost[0] < 2 * 0.02 + 1e-6
    assert lost.max() < 4 * 0.02
    assert lost.mean() < 0.021


@pytest.mark.parametrize("factor", [1e-3, 1e-8, 1e-20])
@pytest.mark.parametrize("options", [{"values": "auto"}, {"values": "shared:8"}, {"values": "shared:4"}])
def test_channels_that_are_dead_beside_the_others_do_no_harm(factor, options):
    weight = normal(64, 96)
    weight[:, :24] *= np.float32(factor)
    opened = load(matmul_of(weight))
    Encode(**options).run(opened)
    Decode().run(opened)
    after = next(w for w in find(opened) if w.name == "w").array(opened)
    live = np.square(after[:, 24:] - weight[:, 24:]).sum() / np.square(weight[:, 24:]).sum()
    assert live < 0.025
    if factor < 1e-6:
        assert not after[:, :24].any()
    else:
        assert np.square(after[:, :24] - weight[:, :24]).sum() / np.square(weight[:, :24]).sum() < 0.1


def matmul_of(weight: np.ndarray) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    shapes = [info("x", ["N", weight.shape[0]])], [info("y", ["N", weight.shape[1]])]
    return model(nodes, *shapes, {"w": weight}, opset=17)


@pytest.mark.parametrize("outliers", [20.0, 200.0])
def test_a_weight_with_outliers_does_not_stay_at_four_bytes(outliers, tmp_path):
    weight = normal(256, 384)
    weight[::64, ::32] *= np.float32(outliers)
    source = put(tmp_path / "m.onnx", matmul_of(weight))
    result = onnxprune.compress(source, tmp_path / "o.onnx", loss=0.002)
    assert result.output.bytes < 0.4 * source.stat().st_size
    onnxprune.decode(tmp_path / "o.onnx", tmp_path / "d.onnx")
    after = initializers(onnx.load(tmp_path / "d.onnx"))["w"]
    assert np.square(after - weight).sum() / np.square(weight).sum() < 0.0021


def candidates(weight: np.ndarray) -> tuple[Candidates, np.ndarray]:
    """The candidates of a weight, and its channels' scales."""
    opened = load(matmul_of(weight))
    return Candidates(opened, find(opened)[0]), root_mean_square(ChunkedArray.of(weight), (0,))


def fitted(weight: np.ndarray, scale: np.ndarray, levels: int) -> tuple[Codebook, float]:
    histogram = Histogram.of(weight, scale)
    codebook = fit_codebook(histogram, levels, prune=True)
    return codebook, codebook.error / histogram.energy


@given(seed=st.integers(0, 100), bad=st.integers(1, 3))
def test_codebooks_that_do_not_fit_are_refused_for_the_next_finer(seed, bad):
    """Levels of another weight: the plan says little of what they do to this one."""
    weight = normal(96, 64, seed=seed)
    found, scale = candidates(weight)
    codebook, loss = fitted(weight, scale, 30)
    choice = Choice(codebook=codebook, scale=scale, planned=loss)
    for number in range(bad):
        wrong = replace(codebook, levels=codebook.levels * (3 + number), boundaries=None)
        choice = Choice(codebook=wrong, scale=scale, planned=1.1 * loss, finer=choice)
    form = found.chosen(choice)
    assert form.coded.lost <= 2 * choice.planned
    good = choice
    while good.finer is not None:
        good = good.finer
    assert_same_bits(form.coded.codebook, found.chosen(good).coded.codebook)


def test_nothing_is_taken_where_nothing_fits():
    weight = normal(96, 64)
    found, scale = candidates(weight)
    codebook, loss = fitted(weight, scale, 30)
    wrong = replace(codebook, levels=codebook.levels * 5, boundaries=None)
    choice = Choice(codebook=wrong, scale=scale, planned=loss, finer=Choice(planned=0.0))
    assert found.chosen(choice) is None


def test_half_precision_that_loses_small_values_is_refused():
    weight = normal(96, 64) * np.float32(1e-8)
    found, _ = candidates(weight)
    assert found.chosen(Choice(HALF, planned=2e-8, finer=Choice(planned=0.0))) is None
    found, _ = candidates(normal(96, 64))
    assert found.chosen(Choice(HALF, planned=2e-8)).values == HALF


def test_the_report_says_why_a_weight_is_exact(tmp_path, monkeypatch):
    planned = Candidates._planned
    monkeypatch.setattr(
        Candidates,
        "_planned",
        lambda self, choice: (
            None if (form := planned(self, choice)) is None else replace(form, coded=replace(form.coded, lost=1.0))
        ),
    )
    source = put(tmp_path / "m.onnx", matmul(normal(64, 32)))
    result = onnxprune.compress(source, tmp_path / "o.onnx", verify=False)
    assert any("'w' keeps exact values: whatever was planned" in note for note in result.notes)


@pytest.mark.parametrize("loss", [0.0005, 0.02])
def test_a_matrix_that_is_read_both_ways_and_has_outliers(loss):
    """Its axes are not known; those of the MatMul that reads its integers are."""
    weight = normal(64, 96)
    weight[::16, ::16] *= 30
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 64])], {"w": weight}, opset=17)
    opened = load(proto)
    with stored_losses() as seen:
        Encode(values="auto", loss=loss).run(opened)
    assert worse_than_planned(seen) == []
    Decode().run(opened)
    after = next(w for w in find(opened) if w.name == "w").array(opened)
    assert np.square(after - weight).sum() / np.square(weight).sum() < 1.1 * loss
