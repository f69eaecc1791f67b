"""Reshape: runs of axes of two shapes that hold the same entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from onnxprune.channels.shapes import Dim, Shape

AxisRun = list[int]


def blocks(before: Shape, after: Shape) -> Iterator[tuple[AxisRun, AxisRun]]:
    """Pairs of runs of axes with equal products, as short as can be told; what is left at last, as one pair."""
    before, after = _renamed(before, after)
    i = j = 0
    while i < len(before) or j < len(after):
        for old, new in _candidates(len(before) - i, len(after) - j):
            if _equal(before[i : i + old], after[j : j + new]):
                break
        else:
            old, new = len(before) - i, len(after) - j
        yield list(range(i, i + old)), list(range(j, j + new))
        i, j = i + old, j + new


def _candidates(olds: int, news: int) -> Iterator[tuple[int, int]]:
    """Lengths of two runs, the shortest first; a run of sizes 1 may stand for none."""
    lengths = ((old, new) for old in range(olds + 1) for new in range(news + 1) if old + new)
    return iter(sorted(lengths, key=lambda pair: (sum(pair) if all(pair) else 2.5 * sum(pair), pair)))


def _renamed(before: Shape, after: Shape) -> tuple[Shape, Shape]:
    """The shapes with a name for every size that is not known, the same one where it can only be the same size."""
    before = tuple(f"input {a}" if d is None else d for a, d in enumerate(before))
    after = tuple(f"result {a}" if d is None else d for a, d in enumerate(after))
    old = [d for d in before if isinstance(d, str)]
    new: list[Dim] = []
    for dim in (d for d in after if isinstance(d, str)):
        if dim in old:
            old.remove(dim)
        else:
            new.append(dim)
    if len(old) == len(new) == 1 and _known(before) == _known(after):
        place = max(a for a, d in enumerate(after) if d == new[0])
        after = (*after[:place], old[0], *after[place + 1 :])
    return before, after


def _known(dims: Sequence[Dim]) -> int:
    return prod(d for d in dims if isinstance(d, int))


def _equal(old: Sequence[Dim], new: Sequence[Dim]) -> bool:
    """Whether two runs certainly hold equally many entries."""
    one, two = (sorted(d for d in dims if isinstance(d, str)) for dims in (old, new))
    return one == two and _known(old) == _known(new)
