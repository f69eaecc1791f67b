"""Exact selection of the smallest scores. numpy only; nothing here knows ONNX.

A score is a non-negative float32 or float64. Read as an unsigned integer its bits sort like its
value, so that a threshold found on the bits is exact. True in a mask means "pruned".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.core import threads

Array = np.ndarray
Chunks = Callable[[], Iterable[Array]]

CHUNK = 1 << 17  # elements; a chunk and its temporaries stay in a core's second-level cache
_COLLECT = 1 << 21  # candidates that are copied and partitioned rather than counted once more
_SAMPLE = 1 << 15


@dataclass(frozen=True)
class Cut:
    """Prune every score below `threshold`, and the first `ties` of the `equal` scores that equal it."""

    threshold: float
    ties: int
    equal: int = 0

    def mask(self, scores: Array) -> Array:
        """Which of the scores (any shape, the whole scope in index order) are pruned."""
        mask = scores < self.threshold
        if self.ties:
            equal = np.flatnonzero(scores == self.threshold)[: self.ties]
            mask.reshape(-1)[equal] = True
        return mask


def _bits(scores: Array) -> Array:
    return scores.reshape(-1).view(np.uint64 if scores.dtype == np.float64 else np.uint32)


def smallest(parts: Sequence[Chunks], count: int, total: int) -> Cut:
    """The cut that prunes exactly the `count` smallest of `total` scores, ties by lowest index.

    Each part yields its scores in chunks, all of one dtype, whenever it is called: selection walks them two or
    three times and never holds a copy of them all. A bracket taken from a sample is verified by counting, then narrowed
    until the
    candidates are few enough to be partitioned.
    """
    if count <= 0:
        return Cut(0.0, 0)
    low, high, kind = _bracket(parts, count, total)
    if low == 0:  # zeros are as many as a model has that was pruned before: no bracket with them gets narrow
        zeros = sum(inside for _, inside, _ in threads.run(partial(_counted, low=0, high=0), parts))
        if count <= zeros:
            return Cut(0.0, count, zeros)
        low, high = 1, high or int(np.iinfo(kind).max)
    while True:
        below = inside = 0
        found: list[Array] | None = []
        for under, within, pieces in threads.run(partial(_counted, low=low, high=high), parts):
            below, inside = below + under, inside + within
            if inside > _COLLECT and low != high:
                found = None
            if found is not None:
                found += pieces
        if low == high and below < count <= below + inside:
            return Cut(_value(low, kind), count - below, inside)
        if not below < count <= below + inside:  # the sample misled: begin again with everything
            low, high = (0, low - 1) if count <= below else (high + 1, int(np.iinfo(kind).max))
            continue
        if found is not None:
            candidates = np.concatenate(found)
            key = int(np.partition(candidates, count - below - 1)[count - below - 1])
            ties = count - below - int(np.count_nonzero(candidates < key))
            return Cut(_value(key, kind), ties, int(np.count_nonzero(candidates == key)))
        low, high = _halve(parts, low, high, count)


def _counted(part: Chunks, low: int, high: int) -> tuple[int, int, list[Array]]:
    """How many scores of a part lie below the bracket and in it, and where they are few the latter's bits."""
    below = inside = 0
    found: list[Array] = []
    for chunk in part():
        bits = _bits(chunk)
        below += int(np.count_nonzero(bits < low))
        candidate = (bits >= low) & (bits <= high)
        inside += int(np.count_nonzero(candidate))
        if low != high and inside <= _COLLECT:
            found.append(bits[candidate])
    return below, inside, found


def _bracket(parts: Sequence[Chunks], count: int, total: int) -> tuple[int, int, type]:
    """Bounds on the bits that hold the wanted score with high probability, and their integer type."""
    stride = min(max(1, total // _SAMPLE), CHUNK)

    def sampled(part: Chunks) -> list[Array]:
        return [_bits(chunk)[stride // 2 :: stride].copy() for chunk in part()]  # a view would keep the whole chunk

    pieces = [piece for part in threads.run(sampled, parts) for piece in part]
    sample = np.sort(np.concatenate(pieces or [np.zeros(0, np.uint32)]))
    kind = sample.dtype.type
    if not len(sample):
        return 0, int(np.iinfo(kind).max), kind
    share = count / total
    margin = 6 * np.sqrt(share * (1 - share) * len(sample)) + 3
    at = share * len(sample)
    low = int(sample[int(at - margin)]) if at - margin >= 0 else 0
    high = int(sample[int(at + margin)]) if at + margin < len(sample) else int(np.iinfo(kind).max)
    return low, high, kind


def _halve(parts: Sequence[Chunks], low: int, high: int, count: int) -> tuple[int, int]:
    middle = (low + high) // 2
    upto = sum(threads.run(lambda part: sum(int(np.count_nonzero(_bits(c) <= middle)) for c in part()), parts))
    return (low, middle) if upto >= count else (middle + 1, high)


def _value(key: int, kind: type) -> float:
    return float(np.array(key, kind).view(np.float64 if kind is np.uint64 else np.float32))
