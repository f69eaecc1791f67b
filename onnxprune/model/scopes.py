"""The graphs inside a model: the main one, the bodies of If/Loop/Scan, and model-local functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

DEFAULT_DOMAIN = ("", "ai.onnx")  # one domain, spelt in two ways


@dataclass(eq=False)
class Scope:
    """One graph or function body, and what encloses it.

    `path` is empty for the main graph and otherwise ends in "/", so that `path + name` names a
    value without ambiguity in the whole model.
    """

    body: GraphProto | FunctionProto
    path: str = ""
    parent: Scope | None = None
    children: dict[int, list[Scope]] = field(default_factory=dict)  # index of a node -> its bodies

    @cached_property
    def readers(self) -> dict[str, list[tuple[NodeProto, int]]]:
        """Value name -> the nodes of this body that read it, with the input's position."""
        found: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in self.body.node:
            for position, name in enumerate(node.input):
                if name:
                    found.setdefault(name, []).append((node, position))
        return found

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """Value name -> the node of this body that writes it."""
        return {name: node for node in self.body.node for name in node.output if name}

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """Name -> dense initializer of this body; functions have none."""
        return {t.name: t for t in self.body.initializer} if isinstance(self.body, GraphProto) else {}

    @cached_property
    def sparse_initializers(self) -> dict[str, SparseTensorProto]:
        """Name -> sparse initializer of this body."""
        body = self.body
        return {s.values.name: s for s in body.sparse_initializer} if isinstance(body, GraphProto) else {}

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names that this body receives."""
        body = self.body
        return frozenset(body.input if isinstance(body, FunctionProto) else (v.name for v in body.input))

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names that this body hands out."""
        body = self.body
        return frozenset(body.output if isinstance(body, FunctionProto) else (v.name for v in body.output))

    def defines(self, name: str) -> bool:
        """Whether the name is bound in this very body."""
        return any(
            name in table for table in (self.producers, self.initializers, self.sparse_initializers, self.inputs)
        )

    def shadows(self, name: str) -> bool:
        """Whether an enclosing or an enclosed body binds the name too."""
        outer = self.parent is not None and self.parent.owner(name) is not None
        return outer or any(scope is not self and scope.defines(name) for scope in self.inner())

    def owner(self, name: str) -> Scope | None:
        """The innermost scope, from here outwards, that binds the name."""
        scope: Scope | None = self
        while scope is not None and not scope.defines(name):
            scope = scope.parent
        return scope

    def holder(self) -> tuple[NodeProto, list[Scope]] | None:
        """The node of the parent whose body this is, and all of its bodies; None for the main graph and functions."""
        if self.parent is None:
            return None
        return next(
            (self.parent.body.node[index], bodies)
            for index, bodies in self.parent.children.items()
            if any(body is self for body in bodies)
        )

    def branches(self) -> Iterator[tuple[Scope, list[Scope]]]:
        """For each If around this body, outwards: its branch that leads here, and all of its branches."""
        scope = self
        while scope.parent is not None and (held := scope.holder()) is not None:
            if held[0].op_type == "If":
                yield scope, held[1]
            scope = scope.parent

    def inner(self) -> Iterator[Scope]:
        """This scope and every body below it."""
        yield self
        for bodies in self.children.values():
            for body in bodies:
                yield from body.inner()

    def reads(self, name: str) -> int:
        """How many inputs of nodes read the name, in this body and in every one below it."""
        return sum(len(inner.readers.get(name, ())) for inner in self.inner())

    def constant(self, name: str) -> TensorProto | None:
        """The tensor that `name` stands for, looked up outwards, when it is a constant."""
        scope = self.owner(name)
        if scope is None:
            return None
        node = scope.producers.get(name)
        if node is not None:
            return constant_value(node)
        return scope.initializers.get(name)


CONSTANT_NODE = 26  # bytes that a `Constant` node takes around its tensor, without the name of its output


def key_of(node: NodeProto) -> str:
    """What tells a node from the others of its body, whatever becomes of its name."""
    return next(filter(None, node.output), f"{node.op_type}:{node.name}")


def constant_value(node: NodeProto) -> TensorProto | None:
    """The dense tensor that a `Constant` node holds."""
    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAIN:
        return None
    found = (a for a in node.attribute if a.name == "value" and a.type == AttributeProto.TENSOR)
    return next((a.t for a in found if not a.ref_attr_name), None)  # a function may leave the value to its caller


def _called(node: NodeProto, index: int, taken: Mapping[str, int]) -> str:
    """The node's name where no other has it, or what stays of it when nodes before it come or go."""
    alone = node.name and taken[node.name] == 1
    return node.name if alone else f"{node.op_type}({next(filter(None, node.output), index)})"


def _build(scope: Scope) -> Scope:
    holders = [
        (index, node, attribute)
        for index, node in enumerate(scope.body.node)
        for attribute in node.attribute
        if attribute.HasField("g") or attribute.graphs
    ]
    taken = Counter(node.name for node in scope.body.node) if holders else Counter()
    for index, node, attribute in holders:
        for number, graph in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
            tail = f"[{number}]" if attribute.graphs else ""
            path = f"{scope.path}{_called(node, index, taken)}.{attribute.name}{tail}/"
            scope.children.setdefault(index, []).append(_build(Scope(graph, path, scope)))
    return scope


def scopes_of(proto: ModelProto) -> list[Scope]:
    """The top scopes, main graph first, then each function; their bodies hang below them."""
    functions = [Scope(f, f"{f.domain}::{f.name}/") for f in proto.functions]
    return [_build(scope) for scope in (Scope(proto.graph), *functions)]


# What an ONNX Runtime build brings by itself.
_KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)


def custom_domains(proto: ModelProto) -> set[str]:
    """Domains of operators that neither ONNX Runtime nor a function of the model defines."""
    functions = {(f.domain, f.name) for f in proto.functions}
    nodes = (n for top in scopes_of(proto) for scope in top.inner() for n in scope.body.node)
    return {n.domain for n in nodes if n.domain not in _KNOWN_DOMAINS and (n.domain, n.op_type) not in functions}


def tensors_of(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor in the model, wherever it lies."""
    graphs = [g for t in proto.training_info for g in (t.initialization, t.algorithm)]
    tops = [*scopes_of(proto), *(_build(Scope(g)) for g in graphs)]
    for scope in (inner for top in tops for inner in top.inner()):
        if isinstance(scope.body, GraphProto):
            yield from scope.body.initializer
            for sparse in scope.body.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in scope.body.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                sparse_values = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                for sparse in [*sparse_values, *attribute.sparse_tensors]:
                    yield from (sparse.values, sparse.indices)
