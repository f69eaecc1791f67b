"""CouplingBuilder: the state of the walk through one graph, before the groups are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from onnxprune.channels.coupling.constants import Constants
from onnxprune.channels.coupling.removable_axes import Flow, Narrowed, RemovableAxis, Rewrite
from onnxprune.channels.shapes import Shapes
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.scopes import Scope


@dataclass
class CouplingBuilder:
    """What the rules have said so far of one graph.

    Attributes:
        removable_axes: value -> its removable axes.
        flows, rewrites: in the order of the graph.
        edges: pairs of arrays of channel indices that go together, entry by entry.
        protected: arrays of channel indices that stay.
        used: arrays of channel indices whose values something other than a weight reads.
        equal_sizes: pairs of (removable axis, axis) that must keep one length; protected where their groups differ.
        fixed_sizes: elements of constant shapes that must keep their number, as (node, position, index).
        constants: names of what is computed from constants alone.
        unknown: operators without a rule -> how many of their nodes protect something.
        total: how many channel indices there are.
    """

    model: Model
    scope: Scope
    shapes: Shapes
    removable_axes: dict[str, list[RemovableAxis]] = field(default_factory=dict)
    flows: list[Flow] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    edges: list[tuple[Array, Array]] = field(default_factory=list)
    protected: list[Array] = field(default_factory=list)
    used: list[Array] = field(default_factory=list)
    equal_sizes: list[tuple[RemovableAxis, int, RemovableAxis, int]] = field(default_factory=list)
    fixed_sizes: set[tuple[int, int, int]] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)
    unknown: dict[str, int] = field(default_factory=dict)
    total: int = 0
    _narrowed: dict[tuple[int, int], RemovableAxis] = field(default_factory=dict)
    _tensors: dict[str, TensorProto | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the nodes, which are told apart by identity."""
        self.nodes = list(self.scope.body.node)
        self.values = Constants(self.model, self.scope)

    def new_channels(self, size: int) -> Array:
        """New channel indices, [size]."""
        start, self.total = self.total, self.total + size
        return np.arange(start, self.total)

    def axes_of_value(self, name: str) -> list[RemovableAxis]:
        """The removable axes of a value; a constant's are made when first asked for, one for each axis beyond 1."""
        if name and name not in self.removable_axes:
            tensor = self.constant(name)
            shape = tuple(tensor.dims) if tensor is not None else ()
            self.removable_axes[name] = [
                RemovableAxis(name, (axis,), self.new_channels(size)) for axis, size in enumerate(shape) if size > 1
            ]
        return self.removable_axes.get(name, [])

    def constant(self, name: str) -> TensorProto | None:
        """The tensor behind a name, if it is a constant that no caller may override and that this graph alone reads."""
        if name not in self._tensors:
            self._tensors[name] = self._tensor(name)
        return self._tensors[name]

    def _tensor(self, name: str) -> TensorProto | None:
        owner = self.scope.owner(name)
        if owner is None or (name in owner.inputs and self.model.proto.ir_version >= 4):
            return None
        if owner is not self.scope:
            bodies = [body for body in owner.inner() if name in body.readers or name in body.outputs]
            if any(body is not self.scope and body.owner(name) is owner for body in bodies):
                return None
        return self.scope.constant(name)

    def protect(self, removables: Iterable[RemovableAxis]) -> None:
        """Keep every index of these axes."""
        self.protected += [removable.channels.reshape(-1) for removable in removables]

    def unite(self, a: Array, b: Array) -> None:
        """Join channel indices entry by entry; the arrays broadcast."""
        a, b = np.broadcast_arrays(a, b)
        self.edges.append((a.reshape(-1), b.reshape(-1)))

    def couple(self, a: RemovableAxis | None, b: RemovableAxis | None) -> None:
        """Join two axes index by index; without a partner of the same shape, an axis is protected."""
        if a is None or b is None or a.channels.shape != b.channels.shape:
            self.protect(removable for removable in (a, b) if removable is not None)
        else:
            self.unite(a.channels, b.channels)

    def narrowed(self, removable: RemovableAxis, axis: int) -> RemovableAxis:
        """The view along one axis of several: all entries with the same index along it are joined."""
        if removable.axes == (axis,):
            return removable
        key = (id(removable), axis)
        if key not in self._narrowed:
            place = removable.axes.index(axis)
            rows = np.moveaxis(removable.channels, place, 0).reshape(removable.channels.shape[place], -1)
            self.unite(rows, rows[:, :1])
            self._narrowed[key] = narrow = RemovableAxis(removable.value, (axis,), rows[:, 0].copy())
            self.flows.append(Narrowed(narrow, removable))
        return self._narrowed[key]
