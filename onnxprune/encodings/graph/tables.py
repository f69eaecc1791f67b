"""Tables of which Gather reads rows: who reads them, and their way into a graph and out of it.

The Gather stays where it was, under its own name, and reads packed rows; the nodes behind it decode what it gathered,
and the last of them writes what the Gather wrote. That node carries the mark, which holds the table's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from onnxprune.core.dtypes import FLOATS, Array
from onnxprune.core.override import override
from onnxprune.encodings.graph.constant_parts import ConstantParts, PartsAtReaders, computed_from, free_name
from onnxprune.encodings.values.floats import Half
from onnxprune.model.encoded_names import Mark
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight

# A run may gather more rows than a small table has, and there is little to save: 1 MiB of float32 at the least.
MIN_ROWS, MIN_ELEMENTS = 1 << 10, 1 << 18


def gathers_of(weight: Weight) -> list[NodeProto]:
    """The nodes that gather rows of a table, where nothing else reads it; empty where it is no such table."""
    scope, value = weight.scope, weight.value
    if len(weight.shape) != 2 or weight.element not in FLOATS or value in scope.outputs:
        return []
    if weight.shape[0] < MIN_ROWS or weight.size < MIN_ELEMENTS:
        return []
    if any(value in inner.readers for inner in scope.inner() if inner is not scope):
        return []
    readers = scope.readers.get(value, [])
    return [node for node, _ in readers] if all(_gathers(node, position) for node, position in readers) else []


def _gathers(node: NodeProto, position: int) -> bool:
    """Whether a node gathers rows of what it reads at a position."""
    bound = any(a.ref_attr_name for a in node.attribute)
    return (
        not domain(node) and node.op_type == "Gather" and position == 0 and not bound
        and attribute(node, "axis", 0) in (0, -2) and node.input[0] != node.input[1] and bool(node.output[0])
    )  # fmt: skip


def insert_rows(scope: Scope, readers: Sequence[NodeProto], behind: Sequence[Sequence[NodeProto]]) -> None:
    """Let each reader gather packed rows, and put the nodes that decode them behind it.

    Args:
        scope: the body of the readers.
        readers: the nodes that gather rows of the table.
        behind: for each of them itself, as it is to be, and the nodes behind it.
    """
    body = scope.body
    for node, (gathering, *decoding) in zip(readers, behind, strict=True):
        place = next(index for index, other in enumerate(body.node) if other is node)
        node.input[0], node.output[0] = gathering.input[0], gathering.output[0]
        for offset, each in enumerate(decoding, place + 1):
            body.node.insert(offset, each)


@dataclass(frozen=True)
class TableParts(PartsAtReaders):
    """The nodes and constants between a table's readers and what they wrote.

    Attributes:
        readers: the Gather of each marked node.
    """

    readers: list[NodeProto]

    @override
    def array(self, model: Model, element: int = TensorProto.UNDEFINED) -> Array:
        """The whole table: all of its rows, gathered; see `ConstantParts.array`."""
        reader, last = self.readers[0], self.marked[0]
        rows = self._rows(reader)
        ids = numpy_helper.from_array(np.arange(rows), reader.input[1])
        reached = _between(self.scope, last, reader)
        nodes = [node for node in (*self.nodes, reader) if id(node) in reached]
        held = replace(self, value=last.output[0], nodes=nodes, constants={**self.constants, ids.name: ids})
        return ConstantParts.array(held, model, element)

    def _rows(self, reader: NodeProto) -> int:
        name = reader.input[0]
        while name not in self.constants:
            name = self.scope.producers[name].input[0]
        return int(self.constants[name].dims[0])

    @override
    def restore(self) -> None:
        """See the base. Where equal readers became one, as in ONNX Runtime, each further marked node gets a copy."""
        body, done = self.scope.body, set()
        for reader, last in zip(self.readers, self.marked, strict=True):
            own = reader
            if id(reader) in done:
                place = next(index for index, other in enumerate(body.node) if other is reader) + 1
                body.node.insert(place, reader)
                own = body.node[place]
                own.name = ""
            done.add(id(reader))
            own.input[0], own.output[0] = self.value, last.output[0]


def table_parts(scope: Scope, mark: Mark, marked: Sequence[NodeProto]) -> TableParts | None:
    """The parts of a table from the nodes that carry its mark; None where they lead to anything but constants and ids.

    Args:
        scope: the body of the nodes.
        mark: theirs.
        marked: all that carry it.
    """
    readers = [_reader(scope, mark, node) for node in marked]
    found = [node for node in readers if node is not None]
    if len(found) < len(readers):
        return None
    parts = computed_from(scope, [node.output[0] for node in marked], [node.input[1] for node in found])
    if parts is None:
        return None
    own, (constants, nodes) = {id(node) for node in found}, parts
    nodes = [node for node in nodes if id(node) not in own]
    return TableParts(scope, free_name(scope, mark.weight), constants, nodes, list(marked), found)


def _reader(scope: Scope, mark: Mark, node: NodeProto) -> NodeProto | None:
    """The Gather of a marked node: the one on the way from it that selects rows, not the one that looks up a codebook.

    Names need not tell. Packed rows are integers, or float16 without a codebook; a codebook is floats.
    """
    current: NodeProto | None = node
    while current is not None and current.input:
        looks_up = current.op_type == "Gather"
        if looks_up and (mark.values == Half.name or _integers(scope, current.input[0])):
            return current
        current = scope.producers.get(current.input[1 if looks_up else 0])
    return None


def _integers(scope: Scope, name: str) -> bool:
    """Whether a value is a constant of integers."""
    tensor = scope.constant(name)
    return tensor is not None and tensor.data_type not in FLOATS


def _between(scope: Scope, last: NodeProto, reader: NodeProto) -> set[int]:
    """What the nodes are called by Python that a marked node needs, its reader included."""
    found, waiting = {id(last)}, [*last.input]
    while waiting:
        name = waiting.pop()
        producer = None if name == reader.input[1] else scope.producers.get(name)
        if producer is not None and id(producer) not in found:
            found.add(id(producer))
            waiting += producer.input
    return found
