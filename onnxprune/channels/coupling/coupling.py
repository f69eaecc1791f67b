"""The groups of a graph: the walk over its nodes, and what goes together in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxprune.channels.coupling.constants import Constants
from onnxprune.channels.coupling.rules import rule_of
from onnxprune.channels.coupling.slots import Fix, Flow, Mix, Size, Slot
from onnxprune.channels.coupling.wiring import At, Rule, Unknown, Wiring
from onnxprune.channels.shapes import Shapes, Value, inferred, values_of
from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope, scopes_of


@dataclass
class Coupling:
    """The groups of one graph.

    Attributes:
        labels: atom -> group.
        pinned: group -> whether it can never be removed.
        used: group -> whether something other than a weight reads its values, so that they matter.
        slots: value -> its slots; constants have one for each axis that is longer than 1.
        unknown: operators without a rule -> how many nodes of them pin what they touch.
    """

    model: Model
    scope: Scope
    shapes: Shapes
    slots: dict[str, list[Slot]]
    flows: list[Flow]
    fixes: list[Fix]
    labels: Array
    pinned: Array
    used: Array
    unknown: dict[str, int]
    computed: frozenset[str]  # what is computed from constants alone
    _constant: Callable[[str], TensorProto | None]
    _constants: Constants

    @cached_property
    def layers(self) -> list[Mix]:
        """The weights that mix what they read, in the order of the graph."""
        return [flow for flow in self.flows if isinstance(flow, Mix)]

    def remarks(self) -> list[str]:
        """What a user should know: the operators that keep channels because nothing says how they couple them."""
        return [f"no rule for {what} ({n} nodes): the channels around it stay" for what, n in self.unknown.items()]

    def groups(self, slot: Slot) -> Array:
        """The group of each entry, in the shape of the slot."""
        return self.labels[slot.ids]

    def kept(self, slot: Slot, removed: Array, axis: int | None = None) -> Array:
        """Along one axis of a slot (the only one by default), which indices stay when these groups are removed."""
        alive = ~removed[self.groups(slot)]
        if axis is None:
            return alive
        others = tuple(a for a in range(alive.ndim) if slot.axes[a] != axis)
        return alive.any(axis=others)

    def emptied(self, removed: Array) -> list[Slot]:
        """Slots of which nothing is left when these groups are removed; a value needs something to hold."""
        return [slot for own in self.slots.values() for slot in own if removed[self.groups(slot)].all()]

    def tensor(self, name: str) -> TensorProto | None:
        """The tensor of a constant of this very graph that no caller may override."""
        return self._constant(name)

    def is_constant(self, name: str) -> bool:
        """Whether it is such a tensor, or computed from such."""
        return name in self.computed or self.tensor(name) is not None

    def filled(self, name: str) -> Array:
        """Which entries of a constant are anything but zero; see `array`."""
        tensor = self.scope.constant(name)
        chunked = ChunkedArray.of(self.array(name)) if tensor is None else self.model.chunked(tensor)
        return chunked.map(bool, lambda rows, columns, part: part != 0).whole()

    def array(self, name: str) -> Array:
        """The values of a constant; see `Constants.array`."""
        return self._constants.array(name)


def couplings(model: Model) -> Iterator[Coupling]:
    """The groups of the main graph, and of every body of If, Loop and Scan in it as a graph of its own."""
    twins = scopes_of(inferred(model))[0].inner()
    for scope, twin in zip(scopes_of(model.proto)[0].inner(), twins, strict=True):
        yield _couple(model, scope, _visible(twin))


def _visible(scope: Scope | None) -> dict[str, Value]:
    """The values that a body can name: its own, and those of the bodies around it."""
    if scope is None:
        return {}
    assert isinstance(scope.body, GraphProto)
    return _visible(scope.parent) | values_of(scope.body)


def _couple(model: Model, scope: Scope, values: dict[str, Value]) -> Coupling:
    assert isinstance(scope.body, GraphProto)
    wiring = Wiring(model, scope, Shapes(model, scope, values))
    for node in wiring.nodes:
        _walk(wiring, node, rule_of(node))
    captured = {n for inner in scope.inner() if inner is not scope for n in inner.readers if inner.owner(n) is scope}
    captured |= {n for inner in scope.inner() if inner is not scope for n in inner.outputs if inner.owner(n) is scope}
    for name in (*scope.outputs, *captured):
        wiring.pin(wiring.of(name))
    return _finish(wiring)


def _walk(wiring: Wiring, node: NodeProto, rule: Rule | None) -> None:
    at = At(wiring, node)
    if rule is not None:
        known = len(wiring.flows), len(wiring.fixes)
        try:
            rule(at)
        except (Unknown, IndexError):  # shapes that are not there, or do not fit: all of it stays
            at.taken.clear()
            _count(wiring, node, " of unknown shape")
            del wiring.flows[known[0] :], wiring.fixes[known[1] :]
            for name in node.output:
                wiring.pin(wiring.slots.pop(name, ()))
    else:
        _count(wiring, node)
    for name in node.input:
        wiring.pin(slot for slot in wiring.of(name) if id(slot) not in at.taken)
    if rule is not None and node.input and all(not name or at.constant(p) for p, name in enumerate(node.input)):
        if wiring.values.computable(node):
            wiring.constants |= set(node.output)
        else:
            _count(wiring, node, " of constants that cannot be computed here")


def _count(wiring: Wiring, node: NodeProto, why: str = "") -> None:
    """Remember that a node pins slots, if it meets any: those of values, or of matrices and kernels."""
    matrices = (wiring.constant(name) for name in node.input if name)
    if any(wiring.slots.get(n) for n in node.input) or any(t is not None and len(t.dims) > 1 for t in matrices):
        label = f"{domain(node)}::{node.op_type}{why}".removeprefix("::")
        wiring.unknown[label] = wiring.unknown.get(label, 0) + 1


def _finish(wiring: Wiring) -> Coupling:
    """Unite, straighten, pin."""
    labels = _components(wiring)
    wide = [slot for slots in wiring.slots.values() for slot in slots if len(slot.axes) > 1]
    while True:
        crooked = [slot for slot in wide if not _straight(labels[slot.ids])]
        if not crooked:
            break
        for slot in crooked:  # along the longest axis most groups stay
            wiring.narrowed(slot, slot.axes[int(np.argmax(slot.ids.shape))])
        labels = _components(wiring)
    groups = int(labels.max(initial=-1)) + 1
    for a, b in _unequal(wiring, labels):
        wiring.pin((a, b))
    pinned, used = np.zeros(groups, bool), np.zeros(groups, bool)
    for marks, ids in ((pinned, wiring.pins), (used, wiring.uses)):
        if ids:
            marks[labels[np.concatenate(ids)]] = True
    return Coupling(
        wiring.model, wiring.scope, wiring.shapes, wiring.slots, wiring.flows, wiring.fixes, labels, pinned, used,
        wiring.unknown, frozenset(wiring.constants), wiring.constant, wiring.values,
    )  # fmt: skip


def _components(wiring: Wiring) -> Array:
    if not wiring.edges:
        return np.arange(wiring.total)
    from scipy.sparse import coo_array  # a third of the time that importing takes, and most commands need no groups
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate(side) for side in zip(*wiring.edges, strict=True))
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(wiring.total, wiring.total))
    return connected_components(graph, directed=False)[1]


def _straight(groups: Array) -> bool:
    """Whether groups vary along one axis only, so that what stays without some of them is a block."""
    along = [not (groups == groups.take([0], axis)).all() for axis in range(groups.ndim)]
    return sum(along) <= 1


def _unequal(wiring: Wiring, labels: Array) -> list[tuple[Slot, Slot]]:
    """Pairs of axes of which one has the other's size, or whose sizes stand in one place, but which go apart."""
    pairs = list(wiring.equal)
    places: dict[tuple[int, int | str, int], Size] = {}
    for fix in wiring.fixes:
        if isinstance(fix, Size):
            first = places.setdefault((id(fix.node), fix.place, fix.index), fix)
            pairs.append((first.slot, first.axis, fix.slot, fix.axis))
            if (id(fix.node), fix.place, fix.index) in wiring.fixed:
                wiring.pin([fix.slot])

    def along(slot: Slot, axis: int) -> Array:
        groups = np.moveaxis(labels[slot.ids], slot.axes.index(axis), 0)
        return groups.reshape(len(groups), -1)

    return [(a, b) for a, i, b, j in pairs if a is not b and not _alike(along(a, i), along(b, j))]


def _alike(a: Array, b: Array) -> bool:
    """Whether two axes lose the same number of indices whatever is removed."""
    return a.shape[0] == b.shape[0] and bool((np.sort(a[:, 0]) == np.sort(b[:, 0])).all())
