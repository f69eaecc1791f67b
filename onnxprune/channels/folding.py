"""Weights that nodes compute from constants alone, as a weight norm leaves them: the result takes their place.

Such a weight is read by what normalises it, so that nothing may change it by itself. What nodes merely move, scale or
dequantise is a weight as it stands: no more than what needs it is folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.operators import LINEAR, TABLES, domain, draws
from onnxprune.model.quantization import REARRANGED
from onnxprune.model.scopes import Scope, constant_value, scopes_of
from onnxprune.model.weight import SMALL
from onnxprune.runtime.session import as_written, open_session, run

_FOLLOWED = REARRANGED | {"Identity", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear", "Transpose"}
_NODES = 256  # that compute a weight, at the most
_BYTES = 1 << 30  # that they compute it from, at the most: one message holds them
_TYPES = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})  # that ONNX Runtime hands out in Python


@dataclass
class _Group:
    """Weights that are computed from the same constants, and so can only be held together."""

    weights: list[str]
    nodes: list[NodeProto]
    constants: dict[str, TensorProto]
    arrays: dict[str, Array] = field(default_factory=dict)

    def large(self) -> set[str]:
        """The constants that are more than factors and shapes."""
        return {name for name, tensor in self.constants.items() if prod(tensor.dims) >= SMALL}

    def merge(self, other: _Group) -> None:
        """Take in what shares a constant."""
        known = set(map(id, self.nodes))
        self.weights += other.weights
        self.nodes += [node for node in other.nodes if id(node) not in known]
        self.constants |= other.constants


def fold_weights(model: Model) -> list[str]:
    """Hold the weights that nodes compute from constants, where those constants then go and are no fewer bytes.

    A weight that has the shape of the largest of these constants takes its name: checkpoints and masks know that one.

    Returns:
        The names of the new weights.
    """
    if model.proto.ir_version < 4:
        return []  # every initializer is an input there
    alone = {(w.scope.path, w.value) for w in find(model) if w.size >= SMALL and w.reason is not None and w.consumers}
    if not alone:
        return []
    scopes = [scope for scope in scopes_of(model.proto)[0].inner() if isinstance(scope.body, GraphProto)]
    return [scope.path + name for scope in scopes for name in _Folding(model, scope).fold(alone)]


class _Folding:
    """The weights of one graph."""

    def __init__(self, model: Model, scope: Scope) -> None:
        self.model, self.scope = model, scope
        self.computed: dict[str, NodeProto] = {}
        for node in scope.body.node:
            if self._computable(node):
                self.computed |= {name: node for name in node.output if name}
        self.nodes = set(map(id, self.computed.values()))

    def fold(self, alone: set[tuple[str, str]]) -> list[str]:
        """Hold what can be held; `alone` are the constants, by path and name, that are changed only if named."""
        groups: list[_Group] = []
        for name in self._read_as_weights():
            group = self._behind(name)
            if group is None or not any(self._is_of(each, alone) for each in group.large()):
                continue
            for other in [other for other in groups if other.large() & group.large()]:
                group.merge(other)
                groups.remove(other)
            groups.append(group)
        return [name for group in groups for name in self._hold(group)]

    def _computable(self, node: NodeProto) -> bool:
        """Whether a node reads constants alone, or what is computed from such, and gives the same at each run."""
        if (
            domain(node)
            or constant_value(node) is not None
            or draws(node)
            or any(a.HasField("g") for a in node.attribute)
        ):
            return False
        read = [name for name in node.input if name]
        return bool(read or node.op_type == "Constant") and all(
            name in self.computed or self._constant(name) is not None for name in read
        )

    def _constant(self, name: str) -> TensorProto | None:
        """The constant of a name, where no caller may give another."""
        owner = self.scope.owner(name)
        given = owner is not None and name in owner.inputs
        return None if given else self.scope.constant(name)

    def _is_of(self, name: str, places: set[tuple[str, str]]) -> bool:
        owner = self.scope.owner(name)
        return owner is not None and (owner.path, name) in places

    def _read_as_weights(self) -> Iterator[str]:
        """The computed values that a layer reads where its weight stands."""
        for name in self.computed:
            for _, node, position in self._readers(self.scope, name):
                table = node.op_type in TABLES and position == 0
                if id(node) not in self.nodes and (position in LINEAR.get((domain(node), node.op_type), {}) or table):
                    yield name
                    break

    @staticmethod
    def _readers(owner: Scope, name: str) -> Iterator[tuple[Scope, NodeProto, int]]:
        """What reads a value of a graph, in its bodies too."""
        for inner in owner.inner():
            if name in inner.readers and inner.owner(name) is owner:
                for node, position in inner.readers[name]:
                    yield inner, node, position

    def _behind(self, name: str) -> _Group | None:
        """What computes a value; None where discovery sees through all of it, or it is too much."""
        waiting, makers, constants = [name], {}, {}
        while waiting:
            wanted = waiting.pop()
            maker = self.computed.get(wanted)
            if maker is None:
                tensor = self._constant(wanted)
                assert tensor is not None  # of a node that reads constants alone
                constants[wanted] = tensor
            elif id(maker) not in makers:
                makers[id(maker)] = maker
                waiting += filter(None, maker.input)
                if len(makers) > _NODES:
                    return None
        nodes = [node for node in self.scope.body.node if id(node) in makers]
        if all(node.op_type in _FOLLOWED for node in nodes):
            return None
        return _Group([name], nodes, constants)

    def _hold(self, group: _Group) -> list[str]:
        """Put the weights of a group into the place of what computes them; nothing where that saves no bytes."""
        gone = self._going(group)
        freed = {name: tensor for name, tensor in group.constants.items() if self._only_read_by(name, gone)}
        makers = {id(self.computed[name]) for name in group.weights}
        if not makers <= gone or not self._compute(group):
            return []
        if sum(array.nbytes for array in group.arrays.values()) > sum(self.model.nbytes(t) for t in freed.values()):
            return []
        names = self._named(group, freed)
        self._remove(gone, freed)
        body = self.scope.body
        assert isinstance(body, GraphProto)
        for value, name in names.items():
            for _, node, position in list(self._readers(self.scope, value)):
                node.input[position] = name
            array = group.arrays[value]
            body.initializer.append(self.model.tensor(name, array, helper.np_dtype_to_tensor_dtype(array.dtype)))
        alive = {name for node in body.node for name in node.output}
        for place in reversed([n for n, each in enumerate(body.value_info) if each.name not in alive]):
            del body.value_info[place]
        return list(names.values())

    def _going(self, group: _Group) -> set[int]:
        """The nodes that nothing needs once the weights are held."""
        gone: set[int] = set()
        for node in reversed(group.nodes):
            names = [name for name in node.output if name and name not in group.weights]
            if all(self._only_read_by(name, gone) for name in names) and not self._handed_out(node.output):
                gone.add(id(node))
        return gone

    def _only_read_by(self, name: str, nodes: set[int]) -> bool:
        owner = self.scope.owner(name)
        if owner is None or owner is not self.scope:
            return False
        return not self._handed_out([name]) and all(id(node) in nodes for _, node, _ in self._readers(owner, name))

    def _handed_out(self, names: Iterable[str]) -> bool:
        return any(name in inner.outputs for inner in self.scope.inner() for name in names)

    def _compute(self, group: _Group) -> bool:
        """Hold the values of a group's weights; False where ONNX Runtime does not compute them as floats."""
        if sum(self.model.nbytes(tensor) for tensor in group.constants.values()) > _BYTES:
            return False
        held = [numpy_helper.from_array(self.model.array(tensor), name) for name, tensor in group.constants.items()]
        outputs = [ValueInfoProto(name=name) for name in group.weights]
        graph = helper.make_graph(group.nodes, "weights", [], outputs, held)
        proto = self.model.proto
        made = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
        try:
            session = open_session(made.SerializeToString(), "what computes a weight", as_written())
            if any(output.type not in _TYPES for output in session.get_outputs()):
                return False
            group.arrays = run(session, {})
        except RuntimeFailure:
            return False
        return True

    def _named(self, group: _Group, freed: dict[str, TensorProto]) -> dict[str, str]:
        """The names of the weights: that of the constant which a weight was before it was normalised, or its own."""
        names = {name: name for name in group.weights}
        largest = sorted(freed.items(), key=lambda pair: -prod(pair[1].dims))[:1]
        for name, tensor in largest:
            fitting = [value for value in names if group.arrays[value].shape == tuple(tensor.dims)]
            if len(fitting) == 1 and not self.scope.shadows(name):
                names[fitting[0]] = name
        return names

    def _remove(self, gone: set[int], freed: dict[str, TensorProto]) -> None:
        """Take nodes and constants out of the graph."""
        body = self.scope.body
        assert isinstance(body, GraphProto)
        for place in reversed(range(len(body.node))):
            node = body.node[place]
            if id(node) in gone or (constant_value(node) is not None and node.output[0] in freed):
                for attribute in node.attribute:
                    self.model.drop(attribute.t)
                del body.node[place]
        for place in reversed(range(len(body.initializer))):
            if body.initializer[place].name in freed:
                self.model.drop(body.initializer[place])
                del body.initializer[place]
