"""A graph in segments: cut in front of its layers, so that each can be changed before what follows is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto

from onnxprune.calibration.layers import Layer
from onnxprune.calibration.recording import hidden
from onnxprune.model.model import Model
from onnxprune.model.operators import RECURRENT_OPERATORS, draws
from onnxprune.model.scopes import Scope, key_of, scopes_of


@dataclass
class Segment:
    """Nodes that follow each other, from in front of some layers to in front of the next ones.

    Attributes:
        nodes: their places in the graph.
        layers: the numbers of those whose inputs are known when it ran.
        recorded: the values that those layers read which are in no other segment.
        given: values of it that later segments read.
    """

    nodes: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """A graph in segments.

    Attributes:
        segments: up to the last layer.
        constant: the nodes that make constants: every segment that reads those has them.
        reads: of every node, what its bodies capture included.
        draws: whether a node draws random numbers.
    """

    segments: list[Segment]
    constant: frozenset[int]
    reads: list[frozenset[str]]
    draws: bool


def cut(model: Model, layers: Sequence[Layer]) -> Cut:
    """Cut the main graph in front of each layer that reads what another layer of the same segment gave.

    A weight that several nodes read may be in several segments, one of a body is in none.
    """
    scope = scopes_of(model.proto)[0]
    nodes = scope.body.node
    reads = [_reads(scope, place) for place in range(len(nodes))]
    constant = _constants(scope, reads)
    numbers: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        for node in layer.nodes if layer.in_main_graph else ():
            numbers.setdefault(key_of(node), []).append(number)
    segments: list[Segment] = [Segment()]
    behind: set[str] = set()
    for place, node in enumerate(nodes):
        if place in constant:
            continue
        own = numbers.get(key_of(node), [])
        if own and behind & reads[place]:
            segments.append(Segment())
            behind = set()
        segments[-1].nodes.append(place)
        segments[-1].layers += [number for number in own if number not in segments[-1].layers]
        if own or behind & reads[place]:
            behind.update(filter(None, node.output))
    while segments and not segments[-1].layers:
        segments.pop()
    counts = Counter(number for segment in segments for number in segment.layers)
    for number, segment in enumerate(segments):
        made = {name for place in segment.nodes for name in nodes[place].output if name}
        later = {name for other in segments[number + 1 :] for place in other.nodes for name in reads[place]}
        segment.given = sorted(made & later)
        segment.recorded = sorted(
            {
                value.key
                for n in segment.layers if counts[n] == 1
                for use in layers[n].uses for value in layers[n].reads(use)
            }
        )  # fmt: skip
    return Cut(segments, constant, reads, any(map(draws, nodes)))


def _reads(scope: Scope, place: int) -> frozenset[str]:
    """The values that a node waits for."""
    found = set(filter(None, scope.body.node[place].input))
    for body in scope.children.get(place, []):
        for inner in body.inner():
            found |= {name for name in (*inner.readers, *inner.outputs) if inner.owner(name) is scope}
    return frozenset(found)


def _constants(scope: Scope, reads: Sequence[frozenset[str]]) -> frozenset[int]:
    """The places of the nodes that depend on no input."""
    known = {*scope.initializers, *scope.sparse_initializers}
    found = set()
    for place, node in enumerate(scope.body.node):
        alone = node.op_type == "Constant" or (node.input and reads[place] <= known)
        if alone and place not in scope.children and not draws(node):
            known.update(node.output)
            found.add(place)
    return frozenset(found)


def needed(graph: GraphProto, found: Cut, segment: Segment, wanted: Sequence[str]) -> list[int]:
    """The nodes of a segment, with those of constants, that some values wait for; in order."""
    missing, chosen = set(wanted), []
    for place in sorted({*segment.nodes, *found.constant}, reverse=True):
        if missing & set(graph.node[place].output) or _gives_states(graph.node[place], missing):
            chosen.append(place)
            missing |= found.reads[place]
    return chosen[::-1]


def _gives_states(node: NodeProto, wanted: set[str]) -> bool:
    """Whether a recurrent layer is asked for outputs that the graph has no name for."""
    return node.op_type in RECURRENT_OPERATORS and not node.output[0] and hidden(node) in wanted
