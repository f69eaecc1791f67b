"""Rate and distortion: the hull, and the choice within a budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation.rate_distortion import WORTH, RatePoint, allocate, curve, hull, points
from onnxprune.encodings.values.rounding import gridded
from onnxprune.quantization import rounding
from onnxprune.quantization.histogram import Histogram
from tests.helpers.builders import normal

rate_points = st.builds(RatePoint, st.integers(1, 1000).map(float), st.floats(0, 1))
several = st.lists(rate_points, min_size=1, max_size=12)


def is_convex(line) -> bool:
    slopes = [(a.nbytes - b.nbytes) / (b.loss - a.loss) for a, b in itertools.pairwise(line)]
    return all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(slopes))


@given(several)
def test_the_hull_is_convex_and_below_every_point(found):
    line = hull(found)
    assert set(map(id, line)) <= set(map(id, found))
    assert all(b.loss > a.loss and b.nbytes < a.nbytes for a, b in itertools.pairwise(line))
    assert is_convex(line)
    losses, sizes = [p.loss for p in line], [p.nbytes for p in line]
    for point in found:
        assert point.loss >= losses[0] - 1e-12
        assert point.nbytes >= float(np.interp(point.loss, losses, sizes)) - 1e-6


def curves_of(lists) -> list[list[RatePoint]]:
    """Hulls that begin with the exact form, as `curve` gives them."""
    return [hull([RatePoint(2000.0, 0.0), *found]) for found in lists]


lines = st.lists(several, min_size=1, max_size=4).map(curves_of)
budgets = st.floats(0, 2)


@given(lines, budgets)
def test_the_choice_keeps_within_the_budget_and_one_step_of_the_best(curves, budget):
    chosen = allocate(curves, budget)
    assert all(any(point is p for p in line) for point, line in zip(chosen, curves, strict=True))
    assert sum(p.loss for p in chosen) <= budget + 1e-12
    best = min(
        sum(p.nbytes for p in combination)
        for combination in itertools.product(*curves)
        if sum(p.loss for p in combination) <= budget
    )
    step = max((a.nbytes - b.nbytes for line in curves for a, b in itertools.pairwise(line)), default=0.0)
    assert sum(p.nbytes for p in chosen) <= best + step


@given(lines, budgets, budgets)
def test_a_larger_budget_never_takes_more_bytes(curves, one, other):
    small, large = sorted((one, other))
    assert sum(p.nbytes for p in allocate(curves, large)) <= sum(p.nbytes for p in allocate(curves, small))


@given(lines)
def test_no_budget_keeps_everything_exact(curves):
    assert all(p.loss == 0 for p in allocate(curves, 0.0))


@given(lines, budgets)
def test_weights_of_one_are_no_weights(curves, budget):
    assert allocate(curves, budget, [1.0] * len(curves)) == allocate(curves, budget)


@given(seed=st.integers(0, 50), share=st.sampled_from([0.0, 0.5, 0.95]), prune=st.booleans(), grid=st.booleans())
@settings(max_examples=20)
def test_a_curve_goes_from_exact_to_coarse(seed, share, prune, grid):
    array = normal(128, 64, seed=seed) * (np.random.default_rng(seed).random((128, 64)) >= share)
    array = array.astype(np.float32)
    snap = (lambda levels: gridded(levels, prune)[0]) if grid else None
    one = np.ones((1,) * array.ndim, array.dtype)
    line = curve(array.nbytes, points(Histogram.of(array, one), array.size, one, prune, snap))
    assert line[0].loss == 0
    assert line[0].nbytes == array.nbytes
    assert len(line) > 3
    assert is_convex(line)


def test_a_curve_does_not_end_where_each_entry_is_at_its_nearest_level():
    """Wide cells of zeros: far fewer bytes for the same loss, and on to nearly nothing."""
    array = normal(500, 800)
    one = np.ones((1, 1), np.float32)
    line = curve(array.nbytes, points(Histogram.of(array, one), array.size, one, True))
    losses, rates = [p.loss for p in line], [8 * p.nbytes / array.size for p in line]
    bits = {loss: np.interp(loss, losses, rates) for loss in (0.2, 0.5, 0.9)}
    assert bits[0.2] < 1.95  # four levels, each entry at its nearest: 2 bits a weight, and no fewer
    assert bits[0.5] < 1.3
    assert bits[0.9] < 0.5
    exact = [p for p in line if p.codebook is not None and p.codebook.boundaries is not None]
    for point in exact:
        codes = rounding.encode(array, point.scale, point.codebook.levels, True, point.codebook.boundaries)
        loss = float(np.square(array - point.codebook.levels[codes]).sum() / np.square(array).sum())
        assert loss == pytest.approx(point.loss, rel=0.01)


@given(lines, budgets, st.floats(0, 1e6))
def test_no_step_is_taken_that_saves_too_little_of_the_file(curves, budget, rest):
    file = rest + sum(line[0].nbytes for line in curves)
    chosen = allocate(curves, budget, file=file)
    left = rest + sum(point.nbytes for point in chosen)
    for line, point in zip(curves, chosen, strict=True):
        before = line[max(0, line.index(point) - 1)]
        assert (before.nbytes - point.nbytes) * budget >= WORTH * left * (point.loss - before.loss) * (1 - 1e-9)
    free = allocate(curves, budget)
    assert all(ours.loss <= one.loss for ours, one in zip(chosen, free, strict=True))


def test_a_weight_that_is_little_of_the_file_keeps_what_it_has():
    line = [RatePoint(1000.0, 0.0), RatePoint(900.0, 0.01), RatePoint(800.0, 0.02)]
    assert allocate([line], 0.02, file=1000.0)[0].nbytes == 800
    assert allocate([line], 0.02, file=1e6)[0].nbytes == 1000


@given(lines, budgets, st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=3))
def test_each_way_keeps_within_the_budget(curves, budget, together):
    asked = [sorted(i for i in way if i < len(curves)) for way in together]
    asked.append(sorted(set(range(len(curves))) - {i for way in asked for i in way}))
    chosen = allocate(curves, budget, None, asked)
    for way in asked:
        assert sum(chosen[i].loss for i in way) <= budget + 1e-12
    if any(len(way) == len(curves) for way in asked):
        assert all(ours.loss <= one.loss for ours, one in zip(chosen, allocate(curves, budget), strict=True))
