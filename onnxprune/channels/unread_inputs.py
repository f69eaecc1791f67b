"""Unread inputs: features that a matrix does not read, but that stay because other nodes or callers need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.channels.coupling.removable_axes import LinearLayer
from onnxprune.channels.liveness import Liveness, SparsityPattern
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import attribute

_INDEX = 4  # bytes of an index
_NODE = 160  # bytes that a Gather takes beside its indices
_MIN_MULTIPLICATIONS = 1 << 15  # multiplications a row below which a Gather takes longer than they do
_COPIED = 256  # multiplications that must go for each number that a Gather copies, which takes 6 to 12 ns


@dataclass(frozen=True)
class UnreadInputs:
    """A layer that reads only the features of the mask `read`, along `axis` of its weight."""

    layer: LinearLayer
    axis: int
    read: Array


def layers_with_unread_inputs(liveness: Liveness, *, encoded: bool) -> Iterator[UnreadInputs]:
    """Layers in front of which a Gather saves time and bytes.

    encoded: whether the bytes of a sparse encoding count, or those of a dense weight.
    """
    coupling = liveness.coupling
    for layer in coupling.layers:
        name = layer.weight
        tensor = coupling.tensor(name)
        if layer.node.op_type not in ("Gemm", "MatMul") or name != layer.node.input[1]:
            continue
        if tensor is None or len(tensor.dims) != 2:
            continue
        if name in coupling.scope.outputs or coupling.scope.reads(name) > 1:
            continue
        pattern = liveness.pattern(layer)
        _, outputs, inputs = pattern.shape
        read = pattern.inputs()[0]
        kept = int(np.count_nonzero(read))
        gone = outputs * (inputs - kept)
        if not kept or gone < max(_MIN_MULTIPLICATIONS, _COPIED * kept):
            continue
        saved = _encoded_bytes(pattern, gone) if encoded else gone * coupling.model.chunked(tensor).dtype.itemsize
        if saved > _INDEX * kept + _NODE:
            yield UnreadInputs(layer, 1 if attribute(layer.node, "transB", 0) else 0, read)


def _encoded_bytes(pattern: SparsityPattern, gone: int) -> int:
    """What `gone` zeros fewer save where positions are stored as a bitmask, or as a byte for each nonzero."""
    nonzeros, total = pattern.nonzeros, prod(pattern.shape)

    def positions(size: int) -> int:
        return min(size // 8, nonzeros + (size - nonzeros) // 255)

    return positions(total) - positions(total - gone)
