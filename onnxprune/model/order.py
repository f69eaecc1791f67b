"""The order of nodes: the analyses want producers before readers, a file may have them as it likes.

ONNX demands a topological order and ONNX Runtime sorts for itself, so that files without one are about. Nodes are
sorted once, when a model is parsed, and written in the order that they had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from onnx import ModelProto, NodeProto

from onnxprune.model.scopes import Scope, key_of, scopes_of

Order = dict[str, list[str]]  # path of a body -> a key of each of its nodes


def sort_nodes(proto: ModelProto) -> Order:
    """Sort the nodes of every body that is not sorted, and return the order that those had.

    A body whose nodes wait for each other in a circle stays as it is: no runtime takes it.
    """
    found: Order = {}
    for scope in _innermost_first(proto):
        reads = [_read(scope, index) for index in range(len(scope.body.node))]
        order = _sorted(scope, reads)
        if order is not None:
            found[scope.path] = [key_of(node) for node in scope.body.node]
            _arrange(scope, order)
    return found


def unsort_nodes(proto: ModelProto, order: Order) -> None:
    """Put the nodes back in the order that they had; a new one stands before the old one that it stood before."""
    for scope in _innermost_first(proto):
        if scope.path not in order:
            continue
        places = {key: place for place, key in enumerate(order[scope.path])}
        ranks, following = [], len(places)
        for node in reversed(scope.body.node):
            following = places.get(key_of(node), following)
            ranks.append(following)
        ranks.reverse()
        _arrange(scope, sorted(range(len(ranks)), key=ranks.__getitem__))


def _innermost_first(proto: ModelProto) -> Iterator[Scope]:
    """Every body, those inside a node before the one that holds the node: arranging copies nodes."""
    for top in scopes_of(proto):
        yield from reversed(list(top.inner()))


def _read(scope: Scope, index: int) -> set[str]:
    """The values of this body that a node waits for, those that its bodies capture included."""
    names = set(scope.body.node[index].input)
    for inner in (scope for body in scope.children.get(index, ()) for scope in body.inner()):
        names |= {n for n in (*inner.readers, *inner.outputs) if not inner.defines(n)}
    return names


def _sorted(scope: Scope, reads: Sequence[set[str]]) -> list[int] | None:
    """The nodes' numbers in the topological order next to their own; None where they are sorted, or cannot be."""
    makers = {name: index for index, node in enumerate(scope.body.node) for name in node.output if name}
    waits = [{makers[name] for name in names if name in makers} for names in reads]
    if all(maker < index for index, wanted in enumerate(waits) for maker in wanted):
        return None
    readers: dict[int, list[int]] = {}
    for index, wanted in enumerate(waits):
        for maker in wanted:
            readers.setdefault(maker, []).append(index)
    missing = [len(wanted) for wanted in waits]
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order = []
    while ready:
        order.append(index := heappop(ready))
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    return order if len(order) == len(missing) else None


def _arrange(scope: Scope, order: Sequence[int]) -> None:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in scope.body.node]
    del scope.body.node[:]
    scope.body.node.extend(nodes[index] for index in order)
