"""Operators that runtimes take for others without an error, up to an opset.

Until opset 12 Softmax and LogSoftmax take all axes from one on. Some runtimes take that one alone. At opset 13 onnx's
converter makes a Flatten, the operator along the last axis and a Reshape of them, which all of these read right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import scopes_of

READ_RIGHT = 13  # the opset
_OF_SEVERAL = frozenset({"Softmax", "LogSoftmax"})
# The first opset at which a runtime misreads: OpenVINO 2026.4.1 (Softmax), OpenCV 5.0.0, LiteRT 2.1.0 with onnx2tf
# 1.29.24, and MNN 3.6.1.
_SINCE = {"litert": 1, "mnn": 1, "opencv": 1, "openvino": 11}


def misreaders(model: Model, runtimes: Iterable[str]) -> Callable[[int], list[str]]:
    """Which of the runtimes were seen to misread an operator of the model, were it of the opset that is called with."""
    since = {name: _SINCE[name] for name in sorted(_SINCE.keys() & {*runtimes})}
    if model.opset >= READ_RIGHT or not since or not _of_several_axes(model):
        since = {}
    return lambda version: [name for name, first in since.items() if first <= version < READ_RIGHT]


def _of_several_axes(model: Model) -> bool:
    """Whether an operator takes several axes together, or nothing says how many it takes."""
    scopes = list(scopes_of(model.proto)[0].inner())
    found = [(s, node) for s in scopes for node in s.body.node if node.op_type in _OF_SEVERAL and not domain(node)]
    found = [(scope, node) for scope, node in found if attribute(node, "axis", 1) != -1]
    if not found:
        return False
    from onnxprune.runtime.conversion import types_of  # of what most models do not hold

    types = types_of(model)
    for scope, node in found:
        held = types.get(scope.path + node.output[0])
        known = held is not None and held.tensor_type.HasField("shape")
        if held is None or not known or attribute(node, "axis", 1) != len(held.tensor_type.shape.dim) - 1:
            return True
    return False
