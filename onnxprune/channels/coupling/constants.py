"""Values of what a graph computes from constants alone: a weight behind a Cast, a DequantizeLinear, a Transpose."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import NodeProto

from onnxprune.core.dtypes import Array, numpy_dtype
from onnxprune.errors import ModelError, RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope
from onnxprune.runtime.session import evaluate

_SMALL = 1 << 16  # bytes of a constant that is held


@dataclass
class Constants:
    """Constants of one graph and of those around it, by name."""

    model: Model
    scope: Scope
    _held: dict[str, Array] = field(default_factory=dict)  # small ones, and the last: it is asked for again in a row

    def array(self, name: str) -> Array:
        """The values of a constant, computed where nodes stand between it and its tensor.

        Raises:
            ModelError: it cannot be computed here.
        """
        tensor = self.scope.constant(name)
        if tensor is not None:
            return self.model.array(tensor)
        if name not in self._held:
            self._compute(name)
            self._held = {key: array for key, array in self._held.items() if key == name or array.nbytes <= _SMALL}
        return self._held[name]

    def _compute(self, name: str) -> None:
        """Hold what nodes make of tensors, and all that they make it of; each node runs once."""
        waiting = [name]
        while waiting:
            wanted = waiting.pop()
            if wanted in self._held:
                continue
            tensor = self.scope.constant(wanted)
            if tensor is not None:
                self._held[wanted] = self.model.array(tensor)
                continue
            maker = self.scope.producers[wanted]
            missing = [read for read in maker.input if read and read not in self._held]
            if missing:
                waiting += [wanted, *missing]
                continue
            try:
                feeds = [self._held[read] if read else None for read in maker.input]
                made = evaluate(maker, feeds, self.model.proto)
            except RuntimeFailure as error:
                raise ModelError(f"the constant '{wanted}' cannot be computed: {error}") from error
            self._held |= dict(zip(filter(None, maker.output), made, strict=True))

    def computable(self, node: NodeProto) -> bool:
        """Whether the outputs of a node that reads constants alone can be computed here.

        What is neither a standard operator nor a type that numpy views is tried: runtimes have few kernels for those.
        """
        tensors = [self.scope.constant(name) for name in node.input if name]
        if not domain(node) and all(tensor is not None and numpy_dtype(tensor.data_type) for tensor in tensors):
            return True
        try:
            for name in filter(None, node.output):
                self.array(name)
        except ModelError:
            return False
        return True
