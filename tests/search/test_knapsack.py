"""The knapsack against every combination."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.search.knapsack import Item, cheapest

LEVEL = st.tuples(st.integers(0, 12), st.integers(0, 20))
ITEMS = st.lists(st.lists(LEVEL, max_size=3), max_size=5)


def items_of(drawn: list[list[tuple[int, int]]]) -> list[Item]:
    held = [[(0, 0), *levels] for levels in drawn]
    return [Item(np.array([s for s, _ in own]), np.array([c / 4 for _, c in own])) for own in held]


@settings(max_examples=100)
@given(ITEMS, st.integers(0, 40))
def test_no_combination_saves_enough_for_less(drawn, aim):
    items = items_of(drawn)
    enough = {
        levels: sum(item.costs[level] for item, level in zip(items, levels, strict=True))
        for levels in product(*(range(len(item.costs)) for item in items))
        if sum(item.savings[level] for item, level in zip(items, levels, strict=True)) >= aim
    }
    found = cheapest(items, aim)
    if found is None:
        assert not enough
    else:
        assert enough[tuple(found)] == pytest.approx(min(enough.values()))


def test_what_costs_nothing_and_saves_nothing_stays():
    free = Item(np.array([0, 0, 5]), np.array([0.0, 0.0, 0.0]))
    assert cheapest([free, free], 5) in ([2, 0], [0, 2])
    assert cheapest([free], 0) == [0]
