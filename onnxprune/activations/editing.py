"""New nodes and constants in a graph, under names that nothing in it has."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, NodeProto, helper

from onnxprune.core.dtypes import Array
from onnxprune.encodings.graph.editing import constant_node
from onnxprune.model.model import Model
from onnxprune.model.scopes import Scope


class Editor:
    """Adds to the main graph.

    Args:
        model: the model.
        scope: its main graph.
    """

    def __init__(self, model: Model, scope: Scope) -> None:
        assert isinstance(scope.body, GraphProto)
        self._model, self._graph = model, scope.body
        self._taken = {name for inner in scope.inner() for name in (*inner.inputs, *inner.outputs)}
        for inner in scope.inner():
            self._taken |= {*inner.initializers, *inner.sparse_initializers, *inner.producers, *inner.readers}

    def fresh(self, wish: str) -> str:
        """The name that is wished for, or the first with a number behind it that nothing has; it is taken then."""
        name, number = wish, 0
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name

    def constant(self, wish: str, array: Array) -> str:
        """A new constant; returns its name."""
        name = self.fresh(wish)
        tensor = self._model.tensor(name, array, helper.np_dtype_to_tensor_dtype(array.dtype))
        if self._model.proto.ir_version >= 4:
            self._graph.initializer.append(tensor)
        else:  # which wants initializers to be inputs
            self._graph.node.insert(0, constant_node(tensor))
        return name

    def before(self, node: NodeProto, added: Iterable[NodeProto]) -> None:
        """Insert nodes in front of one."""
        self._insert(self._place(node), added)

    def behind(self, node: NodeProto, added: Iterable[NodeProto]) -> None:
        """Insert nodes behind one."""
        self._insert(self._place(node) + 1, added)

    def remove(self, nodes: Iterable[NodeProto]) -> None:
        """Remove nodes."""
        for node in nodes:
            del self._graph.node[self._place(node)]

    def _place(self, node: NodeProto) -> int:
        return next(place for place, other in enumerate(self._graph.node) if other is node)

    def _insert(self, place: int, added: Iterable[NodeProto]) -> None:
        for offset, node in enumerate(added):
            self._graph.node.insert(place + offset, node)
