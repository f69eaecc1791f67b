"""Features that a matrix never reads, but that cannot go because others do or because a caller gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxprune.channels.coupling.slots import Mix
from onnxprune.channels.liveness import Liveness, Pattern
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import attribute

_INDEX = 4  # bytes of an index
_NODE = 160  # bytes that a Gather takes beside its indices
_MIN_MULTIPLICATIONS = 1 << 15  # multiplications a row below which a Gather takes longer than they do
_COPIED = 32  # multiplications that must go for each number that a Gather copies


@dataclass(frozen=True)
class Unread:
    """A layer that reads the features `read` (a mask) only, along `axis` of its weight."""

    mix: Mix
    axis: int
    read: Array


def unread(liveness: Liveness, *, encoded: bool) -> Iterator[Unread]:
    """Layers in front of which a Gather saves time, and bytes: of a dense weight, or of an encoded one."""
    coupling = liveness.coupling
    for mix in coupling.layers:
        name = mix.weight
        tensor = coupling.tensor(name)
        if mix.node.op_type not in ("Gemm", "MatMul") or name != mix.node.input[1] or tensor is None:
            continue
        if name in coupling.scope.outputs or coupling.scope.reads(name) > 1:
            continue
        pattern = liveness.pattern(mix)
        _, outputs, inputs = pattern.shape
        read = pattern.inputs()[0]
        kept = int(np.count_nonzero(read))
        gone = outputs * (inputs - kept)
        if not kept or gone < max(_MIN_MULTIPLICATIONS, _COPIED * kept):
            continue
        saved = _encoded_bytes(pattern, gone) if encoded else gone * coupling.model.chunked(tensor).dtype.itemsize
        if saved > _INDEX * kept + _NODE:
            yield Unread(mix, 1 if attribute(mix.node, "transB", 0) else 0, read)


def _encoded_bytes(pattern: Pattern, gone: int) -> int:
    """What so many zeros fewer save where positions are a bit each, or a byte for each that is not zero."""
    filled, total = pattern.filled, prod(pattern.shape)

    def positions(size: int) -> int:
        return min(size // 8, filled + (size - filled) // 255)

    return positions(total) - positions(total - gone)
