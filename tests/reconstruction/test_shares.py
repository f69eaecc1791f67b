"""Shares of one sparsity over the layers: against linear programming, and against the same share for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from scipy.optimize import linprog

from onnxprune.reconstruction.shares import SHARES, shared_out
from onnxprune_passes.magnitude import Magnitude
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import load, run, serialise
from tests.passes.pruned import zeros

CURVE = st.lists(st.floats(0, 1), min_size=len(SHARES) - 1, max_size=len(SHARES) - 1)


@given(curves=st.lists(st.tuples(CURVE, st.integers(1, 400)), min_size=1, max_size=4), sparsity=st.floats(0, 1))
def test_no_other_shares_lose_less(curves, sparsity):
    losses = [np.maximum.accumulate([0.0, *points]) for points, _ in curves]
    sizes = [size for _, size in curves]
    total = round(sparsity * sum(sizes))
    counts = shared_out(losses, sizes, [0] * len(sizes), total)
    assert sum(counts) == total
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    # Mixtures of shares, which the lower convex hull holds, at the same total.
    fine = np.linspace(0, 1, 257)
    losses = [np.square(PchipInterpolator(SHARES, np.sqrt(curve))(fine)) for curve in losses]
    lost = sum(lowest(curve, fine, count / size) for curve, count, size in zip(losses, counts, sizes, strict=True))
    one = np.kron(np.eye(len(sizes)), np.ones(len(fine)))
    taken = np.concatenate([size * fine for size in sizes])
    best = linprog(np.concatenate(losses), A_eq=[*one, taken], b_eq=[*np.ones(len(sizes)), total])
    assert best.status == 0
    # Steps end at whole entries: one of each weight may be another.
    slack = sum(np.diff(curve).max() * 256 / size for curve, size in zip(losses, sizes, strict=True))
    assert lost <= best.fun + slack + 1e-9


def lowest(curve: np.ndarray, shares: np.ndarray, share: float) -> float:
    """The lower convex hull of a curve over shares at one of them."""
    best = linprog(curve, A_eq=[np.ones(len(shares)), shares], b_eq=[1, share])
    assert best.status == 0
    return float(best.fun)


def test_what_others_can_do_goes_first():
    redundant, needed = np.square(np.maximum(SHARES - 0.9, 0)), SHARES**2
    counts = shared_out([redundant, needed], [100, 100], [0, 0], 100)
    assert counts[0] > 85


def test_zeros_that_are_there_go_before_all_else(tmp_path):
    first, second = normal(32, 40), normal(40, 30, seed=1)
    first[np.abs(first) < 1.2] = 0
    there = int(np.count_nonzero(first == 0))
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
    proto = model(nodes, [info("x", ["N", 32])], [info("y", ["N", 30])], {"a": first, "b": second})
    np.savez(tmp_path / "data.npz", x=normal(200, 32, seed=2))
    for more in (-20, 0, 1):
        opened = load(proto)
        sparsity = (there + more) / (first.size + second.size)
        Magnitude(sparsity=sparsity, scope="global", data=str(tmp_path / "data.npz")).run(opened)
        assert sum(zeros(opened).values()) == there + max(more, 0)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_layers_that_can_spare_more_go_further_and_the_outputs_keep_more(tmp_path, sparsity):
    # The wide layer reads 64 inputs of 8 directions, the others what goes together in nothing.
    weights = {
        "wide": normal(64, 256), "narrow": normal(256, 16, seed=1) / 16, "last": normal(16, 12, seed=2) / 4,
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "wide"], ["h"]), node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "narrow"], ["g"]), node("Relu", ["g"], ["s"]), node("MatMul", ["s", "last"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 12])], weights)
    mixing = normal(8, 64, seed=3)

    def inputs(count: int, seed: int) -> np.ndarray:
        return normal(count, 8, seed=seed) @ mixing + 0.02 * normal(count, 64, seed=seed + 1)

    np.savez(tmp_path / "data.npz", x=inputs(300, 10))
    unseen = inputs(500, 20)
    errors = {}
    for scope in ("layer", "global"):
        opened = load(proto)
        Magnitude(sparsity=sparsity, scope=scope, data=str(tmp_path / "data.npz"), samples=300).run(opened)
        (before,), (after,) = run(proto, {"x": unseen}), run(serialise(opened), {"x": unseen})
        errors[scope] = float(np.square(after - before).sum() / np.square(before).sum())
    assert errors["global"] < 0.8 * errors["layer"]
