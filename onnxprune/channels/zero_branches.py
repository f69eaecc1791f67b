"""Zero branches: an Add or Sub of zeros is bypassed, so that the branch that computes them is unused."""

from __future__ import annotations

from onnx import NodeProto

from onnxprune.channels.liveness import Liveness
from onnxprune.model.operators import domain


def bypass_zero_branches(liveness: Liveness) -> int:
    """Let the readers of each Add or Sub of zeros read its other operand; returns how many sums are bypassed."""
    coupling, count = liveness.coupling, 0
    scope = coupling.scope
    bodies = list(scope.inner())
    for node in list(scope.body.node):
        kept = _other(liveness, node)
        name = node.output[0] if node.output else ""
        if kept is None or any(name in body.outputs for body in bodies):
            continue
        for body in bodies:
            if body is not scope and body.owner(name) is not scope:
                continue
            for reader, position in body.readers.get(name, ()):
                reader.input[position] = kept
        count += 1
    return count


def _other(liveness: Liveness, node: NodeProto) -> str | None:
    """The operand that an Add or Sub of zeros returns unchanged; None for other nodes."""
    if node.op_type not in ("Add", "Sub") or domain(node) or len(node.input) != 2:
        return None
    coupling = liveness.coupling
    shape = coupling.shapes.shape(node.output[0])
    for position in (0, 1) if node.op_type == "Add" else (1,):
        branch, kept = node.input[position], node.input[1 - position]
        known = (liveness.constants.get(removable) for removable in coupling.removable_axes.get(branch, ()))
        zero = any(values is not None and (values == 0).all() for values in known)
        same = shape is not None and None not in shape and coupling.shapes.shape(kept) == shape
        if zero and same and not coupling.is_constant(branch):
            return kept
    return None
