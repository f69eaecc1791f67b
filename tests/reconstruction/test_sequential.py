"""Whole networks pruned with data: counts, outputs in ONNX Runtime, and what stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.model.model import Model
from onnxprune.pipeline.change import Change
from onnxprune.reconstruction import replay
from onnxprune_passes import Magnitude
from tests.helpers import builders
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, run, serialise
from tests.passes.pruned import values, zeros


def correlated(*shape: int, seed: int = 0) -> np.ndarray:
    """Inputs [samples, ...] of which a few directions hold most."""
    wide = int(np.prod(shape[1:]))
    common = normal(shape[0], wide // 6, seed=seed) @ normal(wide // 6, wide, seed=99)
    return (common / 3 + 0.2 * normal(shape[0], wide, seed=seed + 1)).reshape(shape).astype(np.float32)


def pruned(tmp_path: Path, proto: onnx.ModelProto, x: np.ndarray, **options) -> tuple[Model, Change]:
    np.savez(tmp_path / "data.npz", x=x)
    opened = load(proto)
    return opened, Magnitude(data=str(tmp_path / "data.npz"), **options).run(opened)


def error(proto: onnx.ModelProto, opened: Model, x: np.ndarray) -> float:
    """The relative squared error of the first output."""
    wanted, got = run(proto, {"x": x})[0], run(serialise(opened), {"x": x})[0]
    return float(np.square(got - wanted).sum() / np.square(wanted).sum())


def mixed() -> onnx.ModelProto:
    """Grouped and strided convolutions, a branch, a norm, a matrix product with a bias behind it."""
    weights = {
        "c0": normal(16, 4, 3, 3) / 6, "b0": normal(16), "c1": normal(24, 8, 3, 3, seed=1) / 8,
        "side": normal(24, 16, 1, 1, seed=2) / 4, "scale": normal(24, seed=3), "shift": normal(24, seed=4),
        "mean": normal(24, seed=5), "var": np.ones(24, np.float32), "fc": normal(24, 20, seed=6), "fb": normal(20),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "c0", "b0"], ["h0"], pads=[1, 1, 1, 1]), node("Relu", ["h0"], ["r0"]),
        node("Conv", ["r0", "c1"], ["h1"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["r0", "side"], ["h2"], strides=[2, 2]), node("Add", ["h1", "h2"], ["sum"]),
        node("BatchNormalization", ["sum", "scale", "shift", "mean", "var"], ["n"]), node("Relu", ["n"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["p"]), node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "fc"], ["m"]), node("Add", ["m", "fb"], ["y"]),
    ]  # fmt: skip
    return model(nodes, [info("x", ["N", 4, 8, 8])], [info("y", ["N", 20])], weights)


def lstm() -> onnx.ModelProto:
    weights = {
        "w": normal(1, 128, 24) / 4, "r": normal(1, 128, 32, seed=1) / 6, "b": normal(1, 256, seed=2),
        "fc": normal(32, 20, seed=3),
    }  # fmt: skip
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r", "b"], ["", "last"], hidden_size=32),
        node("Squeeze", ["last", "zero"], ["s"]), node("MatMul", ["s", "fc"], ["y"]),
    ]  # fmt: skip
    weights["zero"] = np.zeros(1, np.int64)
    return model(nodes, [info("x", ["N", 6, 24])], [info("y", ["N", 20])], weights)


NETWORKS = {
    "mlp": (builders.mlp((48, 64, 32), seed=3), (400, 48)),
    "mixed": (mixed(), (200, 4, 8, 8)),
    "lstm": (lstm(), (200, 6, 24)),
}  # fmt: skip


@pytest.mark.parametrize("rule", [{"sparsity": 0.7}, {"sparsity": 0.7, "scope": "global"}, {"pattern": "2:4"},
                                  {"pattern": "1x4", "sparsity": 0.5}, {"sparsity": 0.7, "scope": "channel"},
                                  {"quality": 0.8}], ids=str)  # fmt: skip
@pytest.mark.parametrize("network", NETWORKS)
def test_as_many_entries_go_as_by_magnitude_and_the_outputs_keep_more(tmp_path, network, rule):
    proto, shape = NETWORKS[network]
    if network == "lstm" and "pattern" in rule:
        pytest.skip("nothing new")
    opened, change = pruned(tmp_path, proto, correlated(*shape), **rule)
    plain = load(proto)
    Magnitude(**rule).run(plain)
    if rule.get("scope") == "global":
        assert sum(zeros(opened).values()) == sum(zeros(plain).values())
    else:
        assert zeros(opened) == zeros(plain)
    assert {name: record.zeros for name, record in change.weights.items()} == {
        name: count for name, count in zeros(opened).items() if name in change.weights
    }
    unseen = correlated(*shape, seed=50)
    most = 0.95 if network == "lstm" else 0.6  # its states have little in common
    assert error(proto, opened, unseen) < most * error(proto, plain, unseen)


@pytest.mark.parametrize("saliency", ["activation", "obs"])
def test_2_of_4_stays_2_of_4(tmp_path, saliency):
    opened, _ = pruned(tmp_path, builders.matmul(normal(64, 32)), correlated(300, 64), pattern="2:4", saliency=saliency)
    assert ((values(opened).T.reshape(-1, 4) != 0).sum(1) == 2).all()


def test_the_mean_outputs_stay(tmp_path):
    proto, x = builders.mlp((48, 64), seed=1), correlated(320, 48) + np.linspace(-2, 2, 48, dtype=np.float32)
    opened, _ = pruned(tmp_path, proto, x, sparsity=0.9, samples=320)
    wanted, got = run(proto, {"x": x})[0], run(serialise(opened), {"x": x})[0]
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=1e-3)


def test_a_layer_makes_good_what_those_before_it_lost(tmp_path):
    proto, shape = NETWORKS["mlp"]
    x, rule = correlated(*shape), {"set": ("fc0.weight=0.95",)}
    first, _ = pruned(tmp_path, proto, x, **rule)
    both, _ = pruned(tmp_path, proto, x, set=("fc0.weight=0.95", "fc1.weight=0.0"))
    assert zeros(both)["fc1.weight"] == 0
    assert error(proto, both, x) < 0.7 * error(proto, first, x)


def test_a_second_run_changes_nothing(tmp_path):
    proto, shape = NETWORKS["mixed"]
    opened, change = pruned(tmp_path, proto, correlated(*shape), sparsity=0.6)
    assert change.modified
    before = serialise(opened)
    again = Magnitude(sparsity=0.6, data=str(tmp_path / "data.npz")).run(opened)
    assert not again.modified
    assert serialise(opened) == before


def test_the_same_bytes_wherever_values_are_held(tmp_path, monkeypatch):
    proto, shape = NETWORKS["mixed"]
    opened, _ = pruned(tmp_path, proto, correlated(*shape), sparsity=0.6)
    monkeypatch.setattr(replay, "HELD", 1000)
    from_files, _ = pruned(tmp_path, proto, correlated(*shape), sparsity=0.6)
    assert serialise(from_files) == serialise(opened)


def test_a_weight_that_runs_twice_is_fitted_once(tmp_path):
    opened, change = pruned(tmp_path, builders.shared(), correlated(300, 48), sparsity=0.6)
    assert zeros(opened) == {"w": round(0.6 * 48 * 48)}
    assert any("1 weights were refitted" in note for note in change.notes)


def test_the_layers_behind_a_weight_that_runs_twice_are_fitted_too(tmp_path):
    twice = [builders.node("MatMul", [read, "w"], [made]) for read, made in (("x", "h"), ("h", "i"))]
    proto = builders.model(
        [*twice, builders.node("MatMul", ["i", "last"], ["y"])],
        [builders.info("x", ["N", 48])],
        [builders.info("y", ["N", 48])],
        {"w": builders.normal(48, 48), "last": builders.normal(48, 48, seed=7)},
    )
    _, change = pruned(tmp_path, proto, correlated(300, 48), sparsity=0.6)
    assert [note.split(" and")[0] for note in change.notes] == ["2 weights were refitted"]


def test_inputs_beyond_float32_refit_nothing(tmp_path):
    _, change = pruned(tmp_path, builders.shared(), normal(64, 48) * np.float32(1e25), sparsity=0.6)
    assert change.notes == ["pruned by magnitude alone, because what they read could not be recorded: w"]
    proto, shape = NETWORKS["mixed"]
    _, change = pruned(tmp_path, proto, normal(*shape) * np.float32(1e25), sparsity=0.6)
    assert change.notes[0].startswith("pruned by magnitude alone, because what they read could not be recorded")


@pytest.mark.parametrize("taken", [True, False])
def test_layers_of_bodies_are_refitted_where_what_they_read_was_computed(taken, tmp_path):
    proto, x = builders.if_branches(), correlated(40, 64)  # all but the last layer of the else branch read the input
    np.savez(tmp_path / "data.npz", x=x, c=np.full(40, taken))
    opened, plain = load(proto), load(proto)
    change = Magnitude(sparsity=0.5, data=str(tmp_path / "data.npz")).run(opened)
    Magnitude(sparsity=0.5).run(plain)
    alone = [note for note in change.notes if note.startswith("pruned by magnitude alone")]
    assert [note.endswith(": choice.else_branch/inner") for note in alone] == [True] * taken
    for flag in (True, False):
        feeds = {"x": x, "c": np.array(flag)}
        wanted = run(proto, feeds)[0]
        lost = [float(np.square(run(serialise(each), feeds)[0] - wanted).sum()) for each in (opened, plain)]
        assert lost[0] < (0.8 if taken and not flag else 0.5) * lost[1]


def test_magnitude_is_what_it_was_with_data_too(tmp_path):
    proto, shape = NETWORKS["mixed"]
    opened, _ = pruned(tmp_path, proto, correlated(*shape), sparsity=0.6, saliency="magnitude")
    plain = load(proto)
    Magnitude(sparsity=0.6).run(plain)
    assert serialise(opened) == serialise(plain)


def test_float16_keeps_its_count(tmp_path):
    proto = builders.matmul(normal(64, 32, dtype=np.float16), element=10)
    opened, _ = pruned(tmp_path, proto, correlated(300, 64).astype(np.float16), sparsity=0.8)
    assert values(opened).dtype == np.float16
    assert zeros(opened) == {"w": round(0.8 * 64 * 32)}
