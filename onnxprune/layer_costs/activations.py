"""Activations between layers: which values the next layer reads, and how many of their entries are not zero.

The counting is done by nodes that are added to a copy of the graph, so that no activation outlives its readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune.core.dtypes import FLOATS
from onnxprune.model.model import Model
from onnxprune.model.operators import LINEAR, domain
from onnxprune.model.scopes import Scope, scopes_of
from onnxprune.runtime.session import Feeds, open_session, run

_ZERO_POINTS = {"QLinearConv": 2, "ConvInteger": 2, "QLinearMatMul": 2, "MatMulInteger": 2, "QGemm": 2,
                "MatMulIntegerToFloat": 4, "QAttention": 6}  # fmt: skip
_RIGHT_ZERO_POINTS = {"QLinearMatMul": 5, "MatMulInteger": 3}  # of a second activation
_SIZES_ONLY = frozenset({"Shape", "Size"})
_PREFIX = "onnxprune activations "


@dataclass(frozen=True)
class Activation:
    """A value of the main graph; entries that equal the value `zero` (0 where it is empty) count as zero."""

    name: str
    zero: str = ""


@dataclass
class Place:
    """Where a layer of the main graph stands.

    Attributes:
        reads: what it multiplies besides constants; None for what comes from the network's input without a layer.
        read_by: what its outputs have become where layers read them first, or where they leave the graph.
        measurable: False where a body or a function reads its outputs.
    """

    reads: list[Activation | None] = field(default_factory=list)
    read_by: list[Activation] = field(default_factory=list)
    measurable: bool = True


def is_layer(node: NodeProto) -> bool:
    """Whether a node is of a kind that multiplies with weights."""
    return (domain(node), node.op_type) in LINEAR


def places(model: Model) -> list[Place]:
    """Place of each layer of the main graph, in the order of its nodes.

    An output is followed through activations, norms, pooling and the like. Where it is added to other values on
    several ways, as in residual networks, each way ends at the first value that a layer reads.
    """
    return list(_Walk(model).places.values())


class _Walk:
    """One pass over the main graph in the order of its nodes."""

    def __init__(self, model: Model) -> None:
        top, *functions = scopes_of(model.proto)
        self._top = top
        self._functions = {(f.domain, f.name): scope for f, scope in zip(model.proto.functions, functions, strict=True)}
        self._nearest: dict[str, frozenset[int]] = {}  # value -> the layers whose outputs flow into it
        self._computed = set(top.inputs - top.initializers.keys() - top.sparse_initializers.keys())  # no constants
        self._behind: set[str] = set()  # values with a layer somewhere before them
        self.places = {number: Place() for number, node in enumerate(top.body.node) if is_layer(node)}
        self._read = {top.body.node[n].input[p] for n in self.places for p in _operands(top.body.node[n])}
        for number, node in enumerate(top.body.node):
            self._visit(number, node)
        self._leave()

    def _visit(self, number: int, node: NodeProto) -> None:
        values = [name for name in (*node.input, *self._captured(number)) if name in self._computed]
        if not values:
            return
        outputs = [name for name in node.output if name]
        self._computed.update(outputs)
        if is_layer(node):
            self._enter(number, node)
            nearest = frozenset({number})
        elif node.op_type in _SIZES_ONLY and not domain(node):
            return
        else:
            flows = [self._nearest.get(name, frozenset()) for name in values]
            nearest = frozenset().union(*(f for f, name in zip(flows, values, strict=True) if name not in self._read))
            if self._hides_layers(number, node):
                for layer in frozenset().union(*flows):
                    self.places[layer].measurable = False
                nearest = frozenset()
            elif not any(name in self._behind for name in values):
                return
        self._behind.update(outputs)
        self._nearest.update(dict.fromkeys(outputs, nearest))

    def _enter(self, number: int, node: NodeProto) -> None:
        for position in _operands(node):
            name = node.input[position]
            if name not in self._computed:
                continue
            if name not in self._behind:
                self.places[number].reads.append(None)
                continue
            read = Activation(name, _zero(node, position))
            self.places[number].reads.append(read)
            for layer in self._nearest[name]:
                if read not in self.places[layer].read_by:
                    self.places[layer].read_by.append(read)

    def _leave(self) -> None:
        """What no layer reads: the graph's outputs that it flows into, or the layer's own output."""
        floats = [v.name for v in self._top.body.output if v.type.tensor_type.elem_type in FLOATS]
        for number, place in self.places.items():
            if not place.read_by:
                own = [name for name in self._top.body.node[number].output[:1] if name in self._computed]
                ends = [name for name in floats if number in self._nearest.get(name, ())]
                place.read_by = [Activation(name) for name in ends or own]

    def _captured(self, number: int) -> Iterator[str]:
        for child in self._top.children.get(number, ()):
            for inner in child.inner():
                for name in (*inner.readers, *inner.outputs):
                    if inner.owner(name) is self._top:
                        yield name

    def _hides_layers(self, number: int, node: NodeProto) -> bool:
        function = self._functions.get((node.domain, node.op_type))
        return any(map(self._has_layers, [*self._top.children.get(number, ()), *([function] if function else ())]))

    def _has_layers(self, scope: Scope) -> bool:
        nodes = [node for inner in scope.inner() for node in inner.body.node]
        called = {(node.domain, node.op_type) for node in nodes} & self._functions.keys()
        return any(map(is_layer, nodes)) or any(self._has_layers(self._functions[key]) for key in called)


def _operands(node: NodeProto) -> list[int]:
    """Positions of what is multiplied: the data, and what may be a weight."""
    positions = sorted({0, *LINEAR[domain(node), node.op_type]})
    return [p for p in positions if p < len(node.input) and node.input[p]]


def _zero(node: NodeProto, position: int) -> str:
    at = (_RIGHT_ZERO_POINTS if position else _ZERO_POINTS).get(node.op_type)
    return node.input[at] if at is not None and at < len(node.input) else ""


def count_nodes(proto: ModelProto, wanted: Sequence[Activation]) -> None:
    """Let a graph put out, for each activation, how many entries are not zero and how many there are."""
    for number, activation in enumerate(wanted):
        proto.graph.node.extend(_counting(activation, f"{_PREFIX}{number}"))
        proto.graph.output.extend(ValueInfoProto(name=name) for name in _names(number))


def _names(number: int) -> tuple[str, str]:
    return f"{_PREFIX}{number} nonzero", f"{_PREFIX}{number} size"


def _counting(activation: Activation, prefix: str) -> Iterator[NodeProto]:
    value = activation.name
    if activation.zero:
        for name in (activation.name, activation.zero):
            yield helper.make_node("Cast", [name], [f"{prefix} wide {name}"], to=TensorProto.INT32)
        value = f"{prefix} distance"
        yield helper.make_node("Sub", [f"{prefix} wide {n}" for n in (activation.name, activation.zero)], [value])
    yield helper.make_node("Cast", [value], [f"{prefix} mask"], to=TensorProto.BOOL)
    yield helper.make_node("Cast", [f"{prefix} mask"], [f"{prefix} ones"], to=TensorProto.INT32)
    yield helper.make_node("ReduceSum", [f"{prefix} ones"], [f"{prefix} nonzero"], keepdims=0)
    yield helper.make_node("Size", [activation.name], [f"{prefix} size"])


@dataclass(frozen=True)
class Count:
    """Entries of an activation over all samples, and how many of them are not zero."""

    nonzero: int
    size: int


def count(path: Path, wanted: Sequence[Activation], feeds: Iterable[Feeds]) -> dict[Activation, Count]:
    """Run a model that `count_nodes` prepared, feed after feed.

    Raises:
        RuntimeFailure: the model does not load or run.
    """
    if not wanted:
        return {}
    session = open_session(path)
    names = [name for number in range(len(wanted)) for name in _names(number)]
    totals = np.zeros(len(names), np.int64)
    for feed in feeds:
        found = run(session, feed, names)
        totals += [int(found[name]) for name in names]
    pairs = totals.reshape(-1, 2).tolist()
    return {activation: Count(*pair) for activation, pair in zip(wanted, pairs, strict=True)}
