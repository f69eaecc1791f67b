"""The walk through a graph as its rules see it: slots to take, slots to give, and what goes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.channels.coupling.constants import Constants
from onnxprune.channels.coupling.slots import Fix, Flow, Moved, Narrowed, Size, Slot
from onnxprune.channels.shapes import Measured, Shape, Shapes, Written
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute
from onnxprune.model.scopes import Scope


@dataclass
class Wiring:
    """The state of the walk through one graph."""

    model: Model
    scope: Scope
    shapes: Shapes
    slots: dict[str, list[Slot]] = field(default_factory=dict)
    flows: list[Flow] = field(default_factory=list)
    fixes: list[Fix] = field(default_factory=list)
    edges: list[tuple[Array, Array]] = field(default_factory=list)
    pins: list[Array] = field(default_factory=list)
    uses: list[Array] = field(default_factory=list)
    equal: list[tuple[Slot, int, Slot, int]] = field(default_factory=list)  # pinned where their groups differ
    fixed: set[tuple[int, int, int]] = field(default_factory=set)  # numbers of shapes that have to stay
    constants: set[str] = field(default_factory=set)  # what is computed from constants alone
    unknown: dict[str, int] = field(default_factory=dict)
    _narrowed: dict[tuple[int, int], Slot] = field(default_factory=dict)
    total: int = 0
    _tensors: dict[str, TensorProto | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the nodes, which are told apart by identity."""
        self.nodes = list(self.scope.body.node)
        self.values = Constants(self.model, self.scope)

    def fresh(self, size: int) -> Array:
        """New atoms."""
        start, self.total = self.total, self.total + size
        return np.arange(start, self.total)

    def of(self, name: str) -> list[Slot]:
        """The slots of a value; those of a constant are made when first asked for."""
        if name and name not in self.slots:
            tensor = self.constant(name)
            shape = tuple(tensor.dims) if tensor is not None else ()
            self.slots[name] = [Slot(name, (a,), self.fresh(size)) for a, size in enumerate(shape) if size > 1]
        return self.slots.get(name, [])

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

    def pin(self, slots: Iterable[Slot]) -> None:
        """They stay."""
        self.pins += [slot.ids.reshape(-1) for slot in slots]

    def unite(self, a: Array, b: Array) -> None:
        """Atoms that go together, one by one; broadcast."""
        a, b = np.broadcast_arrays(a, b)
        self.edges.append((a.reshape(-1), b.reshape(-1)))

    def couple(self, a: Slot | None, b: Slot | None) -> None:
        """Two slots of the same layout go together; with nothing on one side, the other stays."""
        if a is None or b is None or a.ids.shape != b.ids.shape:
            self.pin(slot for slot in (a, b) if slot is not None)
        else:
            self.unite(a.ids, b.ids)

    def narrowed(self, slot: Slot, axis: int) -> Slot:
        """The slot along one of its axes: all that lies at one index goes together."""
        if slot.axes == (axis,):
            return slot
        key = (id(slot), axis)
        if key not in self._narrowed:
            at = slot.axes.index(axis)
            rows = np.moveaxis(slot.ids, at, 0).reshape(slot.ids.shape[at], -1)
            self.unite(rows, rows[:, :1])
            self._narrowed[key] = narrow = Slot(slot.value, (axis,), rows[:, 0].copy())
            self.flows.append(Narrowed(narrow, slot))
        return self._narrowed[key]


@dataclass
class At:
    """What a rule sees of a node; the slots that it does not take are pinned."""

    wiring: Wiring
    node: NodeProto
    taken: set[int] = field(default_factory=set)

    def name(self, position: int) -> str:
        """The input's name, or "" where it is left out."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def shape(self, position: int) -> Shape:
        """The input's shape.

        Raises:
            Unknown: not even the rank is known.
        """
        return self._shape(self.name(position))

    def out_shape(self, position: int = 0) -> Shape:
        """The output's shape; raises like `shape`."""
        return self._shape(self.node.output[position])

    def _shape(self, name: str) -> Shape:
        shape = self.wiring.shapes.shape(name)
        if shape is None:
            raise Unknown
        return shape

    def shaped_like(self, position: int) -> None:
        """The first output has the shape of an input: ONNX does not know that of other domains' operators."""
        name, value = self.node.output[0], self.wiring.shapes.values.get(self.name(position))
        if self.wiring.shapes.shape(name) is None and value is not None:
            self.wiring.shapes.values[name] = value

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return attribute(self.node, name, default)

    def numbers(self, position: int) -> list[int] | None:
        """The whole numbers of a constant input."""
        return self.wiring.shapes.numbers(self.name(position))

    def constant(self, position: int) -> bool:
        """Whether the input is a constant, or computed from constants alone."""
        name = self.name(position)
        return bool(name) and (name in self.wiring.constants or self.wiring.constant(name) is not None)

    def take(self, position: int) -> list[Slot]:
        """All slots of an input; the rule answers for them."""
        slots = self.wiring.of(self.name(position))
        self.taken |= {id(slot) for slot in slots}
        return slots

    def take_axis(self, position: int, axis: int) -> Slot | None:
        """The slot on one axis of an input; the rule answers for it."""
        axis %= len(self.shape(position))
        slot = next((s for s in self.wiring.of(self.name(position)) if axis in s.axes), None)
        if slot is None:
            return None
        self.taken.add(id(slot))
        return self.wiring.narrowed(slot, axis)

    def leave(self, *slots: Slot) -> None:
        """Slots that the rule does not answer for after all."""
        self.taken -= {id(slot) for slot in slots}

    @property
    def opset(self) -> int:
        """The version of the default domain."""
        return self.wiring.model.opset

    def give(self, axes: Iterable[int], ids: Array, output: int = 0) -> Slot:
        """A slot of an output; of one that is left out, for nobody."""
        name = self.node.output[output]
        slot = Slot(name, tuple(axes), ids)
        if name:
            self.wiring.slots.setdefault(name, []).append(slot)
        return slot

    def move(self, slot: Slot, axes: Iterable[int], output: int = 0, *, index: Array | None = None,
             zero_only: bool = False, known: bool = True) -> Slot:  # fmt: skip
        """The atoms of a slot at other axes of an output, and what is known of them."""
        target = self.give(axes, slot.ids if index is None else slot.ids.reshape(-1)[index], output)
        if known:
            self.wiring.flows.append(Moved(target, slot, index, zero_only))
        return target

    def fix(self, fix: Fix) -> None:
        """Something to rewrite when places go."""
        self.wiring.fixes.append(fix)

    def sized(self, position: int, index: int, slot: Slot | None, axis: int, *, copies: bool = False) -> None:
        """Number `index` of the shape at `position` is the size of an output's axis, with a slot or without.

        copies: a 0 stands for the size of the same axis of input 0.
        """
        found = self.wiring.shapes.sources(self.node, position)
        source = found[index] if found is not None and index < len(found) else None
        if copies and isinstance(source, Written) and source.number == 0:
            source = Measured(self.name(0), index)
        if isinstance(source, Measured):
            other = next((s for s in self.wiring.of(source.value) if source.axis in s.axes), None)
            if slot is not None and other is not None:
                self.wiring.equal.append((slot, axis, other, source.axis))
            else:
                self.wiring.pin(s for s in (slot, other) if s is not None)
        elif isinstance(source, Written):
            written = source
            elsewhere = source.node is not self.node
            if slot is None or (elsewhere and not self.wiring.shapes.only_sizes(source.node, lambda s: s == written)):
                self.wiring.fixed.add(source.key)
            if slot is not None and source.number > 0:
                self.fix(Size(source.node, source.position, source.index, slot, axis))
        elif slot is not None:
            self.wiring.pin([slot])


class Unknown(Exception):
    """A rule needs to know more than the graph tells: what it touches is pinned."""


Rule = Callable[[At], None]


def numbers(at: At, position: int, name: str = "") -> list[int]:
    """Whole numbers: an attribute in old opsets, a constant input in new ones.

    Raises:
        Unknown: they are computed at run time.
    """
    given = at.attr(name) if name else None
    if given is None:
        given = at.numbers(position)
    if given is None:
        raise Unknown
    return list(given)


def axes_of(at: At, position: int, rank: int) -> list[int] | None:
    """The attribute or the input `axes`, counted from 0; None where neither is given; raises like `numbers`."""
    if at.attr("axes") is None and not at.name(position):
        return None
    return [a % rank for a in numbers(at, position, "axes")]
