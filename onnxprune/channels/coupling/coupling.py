"""Coupling: the channel groups of a graph, found by a walk over its nodes and a search for connected components."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxprune.channels.coupling.builder import CouplingBuilder
from onnxprune.channels.coupling.components import connected_components
from onnxprune.channels.coupling.constants import Constants
from onnxprune.channels.coupling.removable_axes import Flow, LinearLayer, RemovableAxis, Rewrite, Size
from onnxprune.channels.coupling.rule_context import Rule, RuleContext, Unsupported
from onnxprune.channels.coupling.rules import rule_of
from onnxprune.channels.shapes import Shapes, Value, inferred, values_of
from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope, scopes_of


@dataclass
class Coupling:
    """The channel groups of one graph.

    Attributes:
        removable_axes: value -> its removable axes; a constant has one for each axis that is longer than 1.
        flows: how constants propagate, in the order of the graph.
        rewrites: numbers in the graph that change when channels are removed.
        labels: channel index -> group.
        protected: group -> whether it is never removed.
        used: group -> whether something other than a weight reads its values (attention scores): it is live.
        unknown: operators without a rule -> how many of their nodes protect something.
        computed: names of what is computed from constants alone.
    """

    model: Model
    scope: Scope
    shapes: Shapes
    removable_axes: dict[str, list[RemovableAxis]]
    flows: list[Flow]
    rewrites: list[Rewrite]
    labels: Array
    protected: Array
    used: Array
    unknown: dict[str, int]
    computed: frozenset[str]
    _constant: Callable[[str], TensorProto | None]
    _constants: Constants

    @cached_property
    def layers(self) -> list[LinearLayer]:
        """The linear layers, in the order of the graph."""
        return [flow for flow in self.flows if isinstance(flow, LinearLayer)]

    def notes(self) -> list[str]:
        """For the user: the operators that keep channels because no rule says how they couple them."""
        return [f"no rule for {what} ({n} nodes): the channels around it stay" for what, n in self.unknown.items()]

    def groups(self, removable: RemovableAxis) -> Array:
        """The group of each entry, in the shape of the axis's channel indices."""
        return self.labels[removable.channels]

    def kept(self, removable: RemovableAxis, removed: Array, axis: int | None = None) -> Array:
        """Which indices along an axis stay when groups are removed.

        Args:
            removable: the axis, or several that a Reshape made of one.
            removed: group -> whether it is removed.
            axis: which of several axes; None where there is one.

        Returns:
            A mask over the indices along the axis.
        """
        alive = ~removed[self.groups(removable)]
        if axis is None:
            return alive
        others = tuple(a for a in range(alive.ndim) if removable.axes[a] != axis)
        return alive.any(axis=others)

    def emptied(self, removed: Array) -> list[RemovableAxis]:
        """Axes of which no index is left when groups are removed: a value cannot be empty."""
        return [r for own in self.removable_axes.values() for r in own if removed[self.groups(r)].all()]

    def tensor(self, name: str) -> TensorProto | None:
        """The tensor of a constant that no caller may override and that this graph alone reads."""
        return self._constant(name)

    def is_constant(self, name: str) -> bool:
        """Whether it is such a tensor, or computed from such."""
        return name in self.computed or self.tensor(name) is not None

    def nonzero(self, name: str) -> ChunkedArray:
        """Which entries of a constant are not zero, in its shape, whenever they are read; raises like `array`."""
        tensor = self.scope.constant(name)
        chunked = ChunkedArray.of(self.array(name)) if tensor is None else self.model.chunked(tensor)
        return chunked.map(bool, lambda rows, columns, part: part != 0)

    def array(self, name: str) -> Array:
        """The values of a constant; see `Constants.array`."""
        return self._constants.array(name)


def couplings(model: Model) -> Iterator[Coupling]:
    """The groups of the main graph, and of every body of If, Loop and Scan in it as a graph of its own."""
    typed_scopes = scopes_of(inferred(model))[0].inner()
    for scope, typed in zip(scopes_of(model.proto)[0].inner(), typed_scopes, strict=True):
        yield _couple(model, scope, _visible(typed))


def _visible(scope: Scope | None) -> dict[str, Value]:
    """The values that a body can name: its own, and those of the bodies around it."""
    if scope is None:
        return {}
    assert isinstance(scope.body, GraphProto)
    return _visible(scope.parent) | values_of(scope.body)


def _couple(model: Model, scope: Scope, values: dict[str, Value]) -> Coupling:
    assert isinstance(scope.body, GraphProto)
    builder = CouplingBuilder(model, scope, Shapes(model, scope, values))
    for node in builder.nodes:
        _apply(builder, node, rule_of(node))
    captured = {n for inner in scope.inner() if inner is not scope for n in inner.readers if inner.owner(n) is scope}
    captured |= {n for inner in scope.inner() if inner is not scope for n in inner.outputs if inner.owner(n) is scope}
    for name in (*scope.outputs, *captured):
        builder.protect(builder.axes_of_value(name))
    return _finish(builder)


def _apply(builder: CouplingBuilder, node: NodeProto, rule: Rule | None) -> None:
    """Apply a node's rule; without one, or where it does not cover the node, protect what the node touches."""
    ctx = RuleContext(builder, node)
    if rule is not None:
        known = len(builder.flows), len(builder.rewrites)
        try:
            rule(ctx)
        except (Unsupported, IndexError) as error:  # shapes that are not there, or do not fit: all of it stays
            ctx.taken.clear()
            _count(builder, node, f" {error if isinstance(error, Unsupported) else Unsupported()}")
            del builder.flows[known[0] :], builder.rewrites[known[1] :]
            for name in node.output:
                builder.protect(builder.removable_axes.pop(name, ()))
    else:
        _count(builder, node)
    for name in node.input:
        builder.protect(r for r in builder.axes_of_value(name) if id(r) not in ctx.taken)
    if rule is not None and node.input and all(not name or ctx.constant(p) for p, name in enumerate(node.input)):
        if builder.values.computable(node):
            builder.constants |= set(node.output)
        else:
            _count(builder, node, " of constants that cannot be computed here")


def _count(builder: CouplingBuilder, node: NodeProto, why: str = "") -> None:
    """Count a node that protects something: removable axes of values, or of constants with two axes or more."""
    matrices = (builder.constant(name) for name in node.input if name)
    if any(map(builder.removable_axes.get, node.input)) or any(t is not None and len(t.dims) > 1 for t in matrices):
        label = f"{domain(node)}::{node.op_type}{why}".removeprefix("::")
        builder.unknown[label] = builder.unknown.get(label, 0) + 1


def _finish(builder: CouplingBuilder) -> Coupling:
    """Find the groups, and the protected ones among them.

    What stays of a value must be a block. Where groups cut across several axes, those along all but one are joined.
    """
    labels = _components(builder)
    several = [r for own in builder.removable_axes.values() for r in own if len(r.axes) > 1]
    while crossing := [r for r in several if not _vary_along_one_axis(labels[r.channels])]:
        for removable in crossing:  # along the longest axis most groups stay apart
            builder.narrowed(removable, removable.axes[int(np.argmax(removable.channels.shape))])
        labels = _components(builder)
    groups = int(labels.max(initial=-1)) + 1
    for a, b in _unequal_sizes(builder, labels):
        builder.protect((a, b))
    protected, used = np.zeros(groups, bool), np.zeros(groups, bool)
    for marks, channels in ((protected, builder.protected), (used, builder.used)):
        if channels:
            marks[labels[np.concatenate(channels)]] = True
    return Coupling(
        builder.model, builder.scope, builder.shapes, builder.removable_axes, builder.flows, builder.rewrites,
        labels, protected, used, builder.unknown, frozenset(builder.constants), builder.constant, builder.values,
    )  # fmt: skip


def _components(builder: CouplingBuilder) -> Array:
    """Channel index -> number of its connected component."""
    if not builder.edges:
        return np.arange(builder.total)
    a, b = (np.concatenate(side) for side in zip(*builder.edges, strict=True))
    return connected_components(builder.total, a, b)


def _vary_along_one_axis(groups: Array) -> bool:
    """Whether groups vary along one axis only, so that a block stays whichever of them are removed."""
    along = [not (groups == groups.take([0], axis)).all() for axis in range(groups.ndim)]
    return sum(along) <= 1


def _unequal_sizes(builder: CouplingBuilder, labels: Array) -> list[tuple[RemovableAxis, RemovableAxis]]:
    """Pairs of axes that must have the same length, but whose groups differ.

    Either the length of one is computed from the other, or both are written in the same element of a constant.
    """
    pairs = list(builder.equal_sizes)
    places: dict[tuple[int, int | str, int], Size] = {}
    for rewrite in builder.rewrites:
        if isinstance(rewrite, Size):
            first = places.setdefault((id(rewrite.node), rewrite.place, rewrite.index), rewrite)
            pairs.append((first.removable, first.axis, rewrite.removable, rewrite.axis))
            if (id(rewrite.node), rewrite.place, rewrite.index) in builder.fixed_sizes:
                builder.protect([rewrite.removable])

    def along(removable: RemovableAxis, axis: int) -> Array:
        groups = np.moveaxis(labels[removable.channels], removable.axes.index(axis), 0)
        return groups.reshape(len(groups), -1)

    return [(a, b) for a, i, b, j in pairs if a is not b and not _shrink_alike(along(a, i), along(b, j))]


def _shrink_alike(a: Array, b: Array) -> bool:
    """Whether two axes lose the same number of indices whatever is removed."""
    return a.shape[0] == b.shape[0] and bool((np.sort(a[:, 0]) == np.sort(b[:, 0])).all())
