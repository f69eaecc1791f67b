"""Chunks: a large weight as ranges of its rows, each encoded by itself, that a Concat joins.

ONNX Runtime from 1.27 on folds no node whose output is larger than 1 GiB, but runs it at each inference. Positions are
int64 or int32 where they are computed, so that what decodes to a few hundred megabytes may pass through more than that:
each chunk is so small that nothing on the way to it does. The names of a chunk's arrays begin with `k<number>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from onnxprune.core.chunked import RowRange
from onnxprune.core.dtypes import Array
from onnxprune.encodings.nodes import CODEBOOK, Builder, Parts
from onnxprune.encodings.positions.base import Encoding
from onnxprune.encodings.sparse import Sparse

_CHUNK = re.compile(r"k(\d+)([a-z].*)")


def row_ranges(encoding: Encoding, sparse: Sparse, most: int) -> list[RowRange]:
    """The fewest chunks of a tensor, of equal length, in which its nodes make no array of more than `most` bytes.

    Args:
        encoding: of the chunks.
        sparse: the tensor.
        most: bytes.

    Returns:
        One range where the whole tensor fits; none where a single row does not.
    """
    rows = sparse.shape[0]
    if np.dtype(np.int64).itemsize * sparse.size <= most:
        return [(0, rows)]
    count = -(-encoding.largest(sparse) // most)
    while count > 1:
        if count > rows:
            return []
        edges = [rows * place // count for place in range(count + 1)]
        found = list(pairwise(edges))
        if all(encoding.largest(sparse.within(each)) <= most for each in found):
            return found
        count += 1
    return [(0, rows)]


def emit(build: Builder, encoding: Encoding, sparse: Sparse, chunks: Sequence[RowRange]) -> str:
    """Pack a tensor, and make the nodes that decode it.

    Args:
        build: where nodes and constants go.
        encoding: how positions are stored.
        sparse: the tensor.
        chunks: see `row_ranges`; fewer than two for the whole.

    Returns:
        The name of the dense tensor.
    """
    if len(chunks) < 2:
        return encoding.emit(build, encoding.pack(sparse), sparse.shape, sparse.fill_value)
    names = []
    for number, rows in enumerate(chunks):
        part = sparse.within(rows)
        with build.named(f"k{number}"):
            names.append(encoding.emit(build, encoding.pack(part), part.shape, sparse.fill_value))
    return build.op("Concat", names, axis=0)


def parts_of(parts: Mapping[str, Array]) -> list[Parts]:
    """The arrays of each chunk by name, as the encoding packed them; all of them where there is one chunk."""
    found: dict[int, Parts] = {}
    for name, array in parts.items():
        own = _CHUNK.fullmatch(name)
        if own:
            found.setdefault(int(own[1]), {})[own[2]] = array
    common = {CODEBOOK: parts[CODEBOOK]} if CODEBOOK in parts else {}
    return [common | found[number] for number in sorted(found)] or [dict(parts)]
