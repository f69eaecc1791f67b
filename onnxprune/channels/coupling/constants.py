"""Values of what a graph computes from constants alone: a weight behind a Cast, a DequantizeLinear, a Transpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxprune.core.dtypes import Array, numpy_dtype
from onnxprune.errors import ModelError, RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope
from onnxprune.runtime.session import evaluate


@dataclass
class Constants:
    """Constants of one graph and of those around it, by name."""

    model: Model
    scope: Scope
    _last: tuple[str, Array] = ("", np.empty(0))

    def array(self, name: str) -> Array:
        """The values of a constant, computed where nodes stand between it and its tensor.

        Raises:
            ModelError: it cannot be computed here.
        """
        tensor = self.scope.constant(name)
        if tensor is not None:
            return self.model.array(tensor)
        if self._last[0] != name:  # a weight is asked for several times in a row
            maker = self.scope.producers[name]
            try:
                feeds = [self.array(n) if n else None for n in maker.input]
                made = evaluate(maker, feeds, self.model.proto)[[n for n in maker.output if n].index(name)]
            except RuntimeFailure as error:
                raise ModelError(f"the constant '{name}' cannot be computed: {error}") from error
            self._last = name, made
        return self._last[1]

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
