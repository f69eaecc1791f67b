"""The cheapest way to save enough, where every item may be saved on to some degree: a knapsack by dynamic programming.

Frantar and Alistarh (2022, SPDY) choose sparsities of layers so, for a latency of the whole model. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import Array


@dataclass(frozen=True)
class Item:
    """What can be saved on one item, by level; level 0 leaves it as it is: it saves and costs nothing.

    Attributes:
        savings: int [levels], from 0 up.
        costs: [levels], from 0 up.
    """

    savings: Array
    costs: Array


def cheapest(items: Sequence[Item], aim: int) -> list[int] | None:
    """The level of each item for which the savings add up to the aim at least, and the costs are least.

    Args:
        items: what can be saved on each.
        aim: what is to be saved, from 0 up; memory is 4 bytes for each item and unit of it.

    Returns:
        Of equal costs the lowest levels of the last items; None where all items together save less.
    """
    least = np.full(aim + 1, np.inf)  # cost by what is saved at least
    least[0] = 0
    levels = np.zeros((len(items), aim + 1), np.int32)
    missing = np.arange(aim + 1)
    for number, item in enumerate(items):
        before = np.maximum(missing - item.savings[:, None], 0)  # [levels, aim + 1]
        costs = least[before] + item.costs[:, None]
        levels[number] = np.argmin(costs, axis=0)
        least = costs[levels[number], missing]
    if not np.isfinite(least[aim]):
        return None
    chosen = []
    for item, own in zip(reversed(items), levels[::-1], strict=True):
        level = int(own[aim])
        chosen.append(level)
        aim = max(aim - int(item.savings[level]), 0)
    return chosen[::-1]
