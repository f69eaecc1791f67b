"""Structured patterns: the smallest of each row, N of M, blocks."""

from __future__ import annotations

import numpy as np

from onnxprune.pruning.selection import Array


def smallest_per_row(scores: Array, count: int) -> Array:
    """The mask that prunes the `count` smallest scores of each row of [rows, columns]."""
    if count <= 0:
        return np.zeros(scores.shape, bool)
    threshold = np.partition(scores, count - 1, axis=1)[:, count - 1 : count]
    below, equal = scores < threshold, scores == threshold
    wanted = count - below.sum(axis=1, keepdims=True)
    return below | (equal & (np.cumsum(equal, axis=1) <= wanted))


def keep_n_of_m(scores: Array, n: int, m: int) -> Array:
    """N:M sparsity along the last axis: the mask that keeps the `n` largest of every `m` neighbours.

    A last group that is shorter than `m` keeps its `n` largest too.
    """
    columns = scores.shape[-1]
    padding = -columns % m
    padded = np.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, padding)], constant_values=-1)  # pruned first
    groups = padded.reshape(-1, m)
    mask = np.empty(groups.shape, bool)
    for i in range(m):
        smaller = np.zeros(len(groups), np.int16)
        for j in range(m):
            if j != i:
                smaller += (groups[:, j] <= groups[:, i]) if j < i else (groups[:, j] < groups[:, i])
        mask[:, i] = smaller < m - n
    return mask.reshape(padded.shape)[..., :columns]


def block_scores(scores: Array, block: tuple[int, int]) -> Array:
    """Mean score of each block of the last two axes; blocks at the edges may be smaller."""
    rows, columns = scores.shape[-2:]
    starts = np.arange(0, rows, block[0]), np.arange(0, columns, block[1])
    sums = np.add.reduceat(np.add.reduceat(scores, starts[1], axis=-1), starts[0], axis=-2)
    heights = np.diff(np.append(starts[0], rows))
    widths = np.diff(np.append(starts[1], columns))
    return sums / np.outer(heights, widths).astype(scores.dtype)


def spread_blocks(mask: Array, block: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """A mask over blocks as a mask over the entries of `shape`."""
    wide = np.repeat(np.repeat(mask, block[0], axis=-2), block[1], axis=-1)
    return wide[..., : shape[-2], : shape[-1]]
