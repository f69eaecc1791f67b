"""What a value is computed from, where that is constants alone: an encoded weight by its structure, whatever its names.

Tools that let equal constants be one (onnxoptimizer, onnxslim) leave an encoded weight whose parts no name tells any
more, and others drop the names of nodes. Such a weight is computed once, by ONNX Runtime.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.core.dtypes import FLOATS, QUANTISED, Array, numpy_dtype
from onnxprune.core.override import override
from onnxprune.encodings.graph.editing import constant_node, delete_named
from onnxprune.model.discovery import opset_of
from onnxprune.model.encoded_names import Mark
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope, constant_value, scopes_of
from onnxprune.runtime.session import open_session, run


@dataclass(frozen=True)
class ConstantParts:
    """The nodes between constants and a value.

    Attributes:
        scope: the body that all of it lies in.
        value: the name of what they compute.
        constants: name -> tensor, of initializers and Constant nodes.
        nodes: the one that writes the value first.
    """

    scope: Scope
    value: str
    constants: dict[str, TensorProto]
    nodes: list[NodeProto]

    @property
    def written(self) -> set[str]:
        """What the nodes write for others."""
        return {self.value}

    @classmethod
    def of(cls, scope: Scope, value: str) -> ConstantParts | None:
        """What a value of a body is computed from; None where that is not constants of the same body alone."""
        found = computed_from(scope, [value])
        return None if found is None else cls(scope, value, *found)

    def array(self, model: Model, element: int = TensorProto.UNDEFINED) -> Array:
        """The value as ONNX Runtime computes it.

        Args:
            model: the model.
            element: the value's element type; bfloat16 has to be known.

        Raises:
            RuntimeFailure: it cannot.
        """
        from onnxruntime import GraphOptimizationLevel, SessionOptions  # a tenth of a second, for parts that lost names

        graph = helper.make_graph(self.nodes, "constants", [], [helper.make_empty_tensor_value_info(self.value)])
        if element == TensorProto.BFLOAT16:  # which ONNX Runtime does not give in Python
            graph.node.append(helper.make_node("Cast", [self.value], [f"{self.value} wide"], to=TensorProto.FLOAT))
            graph.output[0].name = f"{self.value} wide"
        for name, tensor in self.constants.items():
            graph.initializer.append(numpy_helper.from_array(model.array(tensor), name))  # which packs small types
        made = ModelProto(ir_version=max(model.proto.ir_version, 4), graph=graph)
        made.opset_import.add(version=opset_of(model, self.scope))
        options = SessionOptions()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL  # which would hold it twice
        session = open_session(made.SerializeToString(), f"what computes '{self.value}'", options)
        array: Array = run(session, {})[graph.output[0].name]
        return array.astype(numpy_dtype(element), copy=False) if element else array

    def fold(self, model: Model) -> bool:
        """Put the value itself in place of its parts where it is a weight.

        Raises:
            RuntimeFailure: see `array`.
        """
        array, body = self.array(model), self.scope.body
        if helper.np_dtype_to_tensor_dtype(array.dtype) not in _LEVELS or not array.ndim:
            return False
        places, constants = self.leaving(self.nodes)
        for index in reversed(places):
            del body.node[index]
        tensor = model.tensor(self.value, array, helper.np_dtype_to_tensor_dtype(array.dtype))
        for name in constants:
            model.drop(self.constants[name])
            if name in self.scope.initializers:
                delete_named(body.initializer, name)
        if isinstance(body, GraphProto) and model.proto.ir_version >= 4:
            body.initializer.append(tensor)
        else:
            body.node.insert(places[0], constant_node(tensor))
        return True

    def leaving(self, nodes: Sequence[NodeProto]) -> tuple[list[int], list[str]]:
        """What nothing needs once the value is there by itself.

        Args:
            nodes: those of the parts, and others that leave with them.

        Returns:
            The places of nodes in the body, and the names of constants; what else reads them keeps them.
        """
        makers = [self.scope.producers[name] for name in self.constants if name in self.scope.producers]
        own = {id(node): node for node in [*nodes, *makers]}
        inner = {name for node in own.values() for name in node.output} - self.written | set(self.constants)
        body = self.scope.body
        read = {name for node in body.node if id(node) not in own for name in node.input if name in inner}
        kept: set[int] = set()
        while staying := {key for key, node in own.items() if not read.isdisjoint(node.output)} - kept:
            kept |= staying
            read |= {name for key in staying for name in own[key].input}
        places = [index for index, node in enumerate(body.node) if id(node) in own.keys() - kept]
        return places, [name for name in self.constants if name not in read]


@dataclass(frozen=True)
class PartsAtReaders(ConstantParts):
    """The parts of a weight that no node writes: the nodes between constants and what its readers wrote.

    Attributes:
        marked: the nodes that write that now.
    """

    marked: list[NodeProto]

    @property
    @override
    def written(self) -> set[str]:
        return {node.output[0] for node in self.marked}

    @abstractmethod
    def restore(self) -> None:
        """Let the readers read the weight again, and write what they wrote; the marked nodes still do, too."""


def free_name(scope: Scope, name: str) -> str:
    """The name, or with a number behind it where another value has it by now: a weight that no node writes has none."""
    free, number = name, 0
    while scope.owner(free) is not None or scope.shadows(free):
        number += 1
        free = f"{name}_{number}"
    return free


def computed_from(
    scope: Scope, values: Sequence[str], given: Iterable[str] = ()
) -> tuple[dict[str, TensorProto], list[NodeProto]] | None:
    """The constants and the nodes of a body that values are computed from, the writer of the first of them first.

    Args:
        scope: the body.
        values: names.
        given: names that are there by other means.

    Returns:
        None where that is more than constants of the same body and what is given.
    """
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    waiting, seen = list(reversed(values)), {*values, *given, ""}
    while waiting:
        name = waiting.pop()
        producer = scope.producers.get(name)
        tensor = scope.initializers.get(name) if producer is None else constant_value(producer)
        if tensor is not None and name not in scope.inputs:
            constants[name] = tensor
        elif producer is None or domain(producer) or any(a.HasField("g") for a in producer.attribute):
            return None
        else:
            nodes.append(producer)
            new = [read for read in producer.input if read not in seen]
            waiting += new
            seen.update(new)
    return constants, nodes


_SCATTERS = frozenset({"Scatter", "ScatterElements"})
_PLACES = frozenset({"CumSum", "NonZero"})  # what makes places of gaps, and of bits
_LEVELS = FLOATS | QUANTISED  # what a codebook holds; no shapes


def unmarked(model: Model) -> Iterator[ConstantParts]:
    """Tensors that nodes without a mark of ours compute from packed constants, as those of an encoded weight do.

    They are scattered to places that were packed too, or looked up in a codebook with fewer entries than codes. A
    scatter to places that are there as they are is how exporters write an assignment to a part of a constant.
    """
    for scope in (inner for top in scopes_of(model.proto) for inner in top.inner()):
        found: dict[str, ConstantParts] = {}
        for node in scope.body.node:
            parts = ConstantParts.of(scope, node.output[0]) if _unpacks(scope, node) else None
            if parts is not None and not any(Mark.parse(each.name) for each in parts.nodes):
                whole = _whole(parts)
                found[whole.value] = whole
        inside = {each.output[0] for parts in found.values() for each in parts.nodes[1:]}
        yield from (parts for value, parts in found.items() if value not in inside)


def _unpacks(scope: Scope, node: NodeProto) -> bool:
    """Whether a node scatters to places that were packed, or looks codes up in a codebook."""
    if domain(node):
        return False
    if node.op_type in _SCATTERS:
        places = computed_from(scope, [node.input[1]])
        return places is not None and any(each.op_type in _PLACES for each in places[1])
    if node.op_type != "Gather":
        return False
    codebook = scope.constant(node.input[0])
    return codebook is not None and codebook.data_type in _LEVELS and len(codebook.dims) == 1


def _whole(parts: ConstantParts) -> ConstantParts:
    """The furthest value that is computed from the same constants and is alone in reading what comes before it."""
    while True:
        readers = parts.scope.readers.get(parts.value, [])
        further = ConstantParts.of(parts.scope, readers[0][0].output[0]) if len(readers) == 1 else None
        if further is None:
            return parts
        parts = further
