"""Error feedback: codes that keep their promises, and outputs nearer to the original than the nearest levels give."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.quantization import rounding
from onnxprune.quantization.codebook import fit_codebook
from onnxprune.quantization.entropy_constrained import EXCESS, constrained
from onnxprune.quantization.error_feedback import Feedback, Rounded, in_blocks, out_of_blocks
from onnxprune.quantization.histogram import Histogram
from tests.helpers.builders import conv_net, info, mlp, model, node, normal
from tests.helpers.running import run


def inputs(width: int, count: int, seed: int, groups: int = 1) -> np.ndarray:
    """Correlated and not centred, as behind a Relu: [groups, count, width]."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((groups, count, 4)) @ rng.standard_normal((groups, 4, width))
    return np.maximum(mixed + 0.3 * rng.standard_normal((groups, count, width)), 0).astype(np.float32)


def moments_of(x: np.ndarray) -> np.ndarray:
    halves = x[:, ::2], x[:, 1::2] if x.shape[1] > 1 else x
    return np.stack([half.transpose(0, 2, 1) @ half / half.shape[1] for half in halves])


def output_error(x: np.ndarray, wrong: np.ndarray) -> float:
    return float(np.square(x @ wrong.reshape(len(x), -1, x.shape[2]).transpose(0, 2, 1)).sum())


@given(
    seed=st.integers(0, 99), bits=st.integers(2, 8), width=st.integers(1, 200), groups=st.integers(1, 3),
    prune=st.booleans(), tight=st.booleans(), count=st.sampled_from([1, 5, 300]),
)  # fmt: skip
def test_codes_keep_what_they_promise(seed, bits, width, groups, prune, tight, count):
    rng = np.random.default_rng(seed)
    rows = np.where(rng.random((3 * groups, width)) < 0.3, 0, rng.standard_normal((3 * groups, width)))
    rows = rows.astype(np.float32)
    histogram = Histogram.of(rows)
    codebook = fit_codebook(histogram, 2**bits, prune)
    if tight and not prune:
        codebook = constrained(histogram, codebook, EXCESS)
    feedback = Feedback.of(moments_of(inputs(width, count, seed, groups)))
    assert 0 <= feedback.remaining <= 1
    codes = feedback.round(rows, codebook.levels, prune, codebook.boundaries)
    assert codes.shape == rows.shape
    assert codes.max() < len(codebook.levels)
    if not prune:
        np.testing.assert_array_equal(codes == 0, rows == 0)
    np.testing.assert_array_equal(codes, feedback.round(rows, codebook.levels, prune, codebook.boundaries))


@given(seed=st.integers(0, 99), groups=st.integers(1, 9), width=st.integers(1, 150), outputs=st.integers(1, 4))
def test_versions_side_by_side_get_the_codes_of_each_by_itself(seed, groups, width, outputs):
    rng = np.random.default_rng(seed)
    feedback = Feedback.of(moments_of(inputs(width, 40, seed, groups)))
    wanted = []
    for prune in (True, False, False, True):
        rows = np.where(rng.random((outputs * groups, width)) < 0.3, 0, rng.standard_normal((outputs * groups, width)))
        codebook = fit_codebook(Histogram.of(rows.astype(np.float32)), 5, prune)
        wanted.append(Rounded(rows.astype(np.float32), codebook.levels, prune, codebook.boundaries))
    for found, one in zip(feedback.round_each(wanted), wanted, strict=True):
        alone = feedback.round(one.rows, one.levels, one.prune, one.boundaries)
        assert np.mean(found != alone) <= 0.01  # products of another width may end in another last bit


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_blocks_of_any_number_of_rows_go_back_to_what_they_were(count, size):
    rows = normal(2, count, 10)
    cut = in_blocks(rows, size)
    assert cut.shape == (2 * -(-10 // size), count, size)
    np.testing.assert_array_equal(out_of_blocks(cut, 10), rows)


@given(
    seed=st.integers(0, 99), groups=st.integers(1, 3), width=st.integers(1, 90), size=st.integers(1, 90),
    prune=st.booleans(),
)  # fmt: skip
def test_blocks_of_inputs_pass_errors_on_among_themselves(seed, groups, width, size, prune):
    rng, x, size = np.random.default_rng(seed), inputs(width, 40, seed, groups), min(size, width)
    rows = rng.standard_normal((groups, 3, width)).astype(np.float32)
    np.testing.assert_array_equal(out_of_blocks(in_blocks(rows, size), width), rows)
    moments = moments_of(in_blocks(x, size))
    levels = fit_codebook(Histogram.of(rows), 6, prune).levels
    feedback = Feedback.assumed(moments, 0.3, 1.0, width)
    codes = feedback.round(rows.reshape(-1, width), levels, prune).reshape(rows.shape)
    blocks = -(-width // size)
    for group in range(groups):
        for block in range(blocks):
            own = Feedback.damped(moments.mean(0)[group * blocks + block][None], 0.3)
            part = np.pad(rows[group, :, block * size :][:, :size], ((0, 0), (0, max(0, (block + 1) * size - width))))
            alone = own.round(part, levels, prune)[:, : width - block * size]
            wrong = np.mean(alone != codes[group, :, block * size :][:, :size])
            assert wrong <= 0.05  # products of another width may end in another last bit


@given(seed=st.integers(0, 99), bits=st.integers(2, 8), prune=st.booleans())
def test_inputs_that_know_nothing_of_each_other_take_the_nearest_levels(seed, bits, prune):
    rows = np.random.default_rng(seed).standard_normal((4, 50)).astype(np.float16).astype(np.float32)
    levels = fit_codebook(Histogram.of(rows), 2**bits, prune).levels.astype(np.float32).astype(np.float64)
    feedback = Feedback.of(
        np.tile(np.diag(np.random.default_rng(seed).uniform(0.1, 9, 50)).astype(np.float32), (2, 1, 1, 1))
    )
    codes, nearest = feedback.round(rows, levels, prune), rounding.encode(rows, None, levels, prune)
    near, far = (np.abs(levels[c] - rows) for c in (codes, nearest))
    np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-6)
    assert feedback.remaining == pytest.approx(1.0, rel=1e-6)


def test_feedback_on_the_smallest_inputs_promises_nothing():
    x = normal(40, 8) * np.float32(1e-17)
    halves = np.stack([part.T @ part / 20 for part in (x[::2], x[1::2])])[:, None]
    assert Feedback.of(halves).remaining == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_inputs_not_seen_before_give_outputs_nearer_to_the_original(bits, groups, prune):
    every = inputs(160, 4000, 1, groups)
    seen, unseen = every[:, ::2], every[:, 1::2]
    rows = np.random.default_rng(0).standard_normal((40 * groups, 160)).astype(np.float32)
    levels = fit_codebook(Histogram.of(rows), 2**bits, prune).levels
    balanced = rounding.encode(rows, None, levels, prune)
    rounding.balance(rows, balanced, levels, prune)
    feedback = Feedback.of(moments_of(seen))
    codes = feedback.round(rows, levels, prune)
    before, after = (output_error(unseen, levels[c] - rows) for c in (balanced, codes))
    assert after < 0.4 * before
    white = output_error(unseen, np.random.default_rng(2).standard_normal(rows.shape)) / rows.size
    told = feedback.remaining * white * float(np.square(levels[codes] - rows).sum())
    assert 0.2 < after / told < 5  # what the choice within the loss counts with


def convolutions():
    weights = {"c0": normal(16, 3, 3, 3), "c1": normal(16, 16, 3, 3, seed=1), "fc": normal(40, 576, seed=2)}
    nodes = [
        node("Conv", ["x", "c0"], ["h0"], pads=[1, 1, 1, 1]), node("Relu", ["h0"], ["r0"]),
        node("Conv", ["r0", "c1"], ["h1"]), node("Relu", ["h1"], ["r1"]), node("Flatten", ["r1"], ["f"]),
        node("Gemm", ["f", "fc"], ["y"], transB=1),
    ]  # fmt: skip
    return model(nodes, [info("x", ["N", 3, 8, 8])], [info("y", ["N", 40])], weights)


NETWORKS = {"mlp": (lambda: mlp((96, 200, 120, 10), seed=3), (96,)), "conv": (convolutions, (3, 8, 8))}


@pytest.mark.parametrize("options", [{"loss": 0.03}, {"loss": 0.1}, {"sparsity": 0.5, "values": "shared:3"},
                                     {"sparsity": 0.5, "values": "int8:3"}, {"sparsity": 0.6}])  # fmt: skip
@pytest.mark.parametrize("name", NETWORKS)
def test_data_brings_a_model_nearer_to_the_original_for_its_bytes(name, options, tmp_path):
    make, shape = NETWORKS[name]
    source, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    source.write_bytes(make().SerializeToString())
    every = inputs(math.prod(shape), 512, 5)[0].reshape(512, *shape)
    np.savez(data, x=every[:256])
    (reference,) = run(source.read_bytes(), {"x": every[256:]})

    def error(given: Path | None, **more) -> tuple[float, int]:
        out = tmp_path / "out.onnx"
        onnxprune.compress(source, out, data=given, **(options | more))
        (found,) = run(out.read_bytes(), {"x": every[256:]})
        return float(np.square(found - reference).sum()), out.stat().st_size

    (plain, size), (informed, smaller) = error(None), error(data)
    assert smaller < 1.02 * size
    budget = options.get("loss", 0.02)  # of a rule's values
    while smaller < 0.95 * size and "values" not in options:  # give back what it saved
        budget *= 0.7
        informed, smaller = error(data, loss=budget)
    assert informed < 0.8 * plain


def test_the_same_data_gives_the_same_bytes(tmp_path):
    source, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    source.write_bytes(conv_net().SerializeToString())
    np.savez(data, x=np.random.default_rng(0).random((40, 3, 8, 8), dtype=np.float32))
    made = []
    for number in range(2):
        out = tmp_path / f"{number}.onnx"
        onnxprune.compress(source, out, data=data)
        made.append(out.read_bytes())
    assert made[0] == made[1]
