"""Find the weights of a model wherever models keep them, and say why others are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

from onnxprune.core.dtypes import FLOATS, PACKED_INTEGERS, QUANTISED, numpy_dtype
from onnxprune.model.encoded_names import prefixes
from onnxprune.model.model import Model
from onnxprune.model.operators import (
    BLOCKS,
    PROCESSOR,
    Role,
    attribute,
    domain,
    linear_role,
    looks,
    other_role,
    scales,
)
from onnxprune.model.quantization import REARRANGED, Axes, Quantisation, quantisation_behind, quantisation_by, settle
from onnxprune.model.scopes import DEFAULT_DOMAIN, Scope, constant_value, scopes_of
from onnxprune.model.weight import SMALL, Kind, Reason, Store, Weight


def opset_of(model: Model, scope: Scope) -> int:
    """The default domain's version in a body: a function may import its own."""
    top = _top(scope)
    if isinstance(top, FunctionProto):
        versions = (o.version for o in top.opset_import if o.domain in DEFAULT_DOMAIN)
        return next(versions, model.opset)
    return model.opset


def in_function(scope: Scope) -> bool:
    """Whether a body belongs to a model-local function."""
    return isinstance(_top(scope), FunctionProto)


def _top(scope: Scope) -> GraphProto | FunctionProto:
    while scope.parent is not None:
        scope = scope.parent
    return scope.body


_SAME_AXES = frozenset({"Identity", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True)
class _Use:
    """One reader of a constant, in the constant's own axes."""

    node: str
    role: Role | None
    other: str = ""
    quant: Quantisation | None = None
    looks: bool = False  # at nothing but shape and type, which no pass changes without the readers


@dataclass
class _View:
    """How a constant looks after the pass-through nodes that were crossed so far."""

    axes: Axes  # for each axis of the view the constant's own one, where it is known
    shape: tuple[int, ...]  # of the constant
    quant: Quantisation | None = None
    seen: frozenset[int] = frozenset()  # calls of functions around it
    attributes: dict[str, AttributeProto] = field(default_factory=dict)  # of the function call that it is in
    states: frozenset[str] = frozenset()  # outputs of a body that hand it to the next iteration, and are no use of it


@dataclass
class _Step:
    """A value that a constant passes on the way to its readers."""

    scope: Scope
    name: str
    view: _View

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same for steps whose ways on are the same."""
        view = self.view
        return id(self.scope), self.name, view.axes, id(view.quant), view.seen, view.states


def find(model: Model) -> list[Weight]:
    """Every weight-like constant of the model, in the order of the file.

    Whole numbers (shapes, indices), scalars and the parts of encoded weights are not listed.
    """
    parts = prefixes(model.proto)
    tops = scopes_of(model.proto)
    functions = {(f.domain, f.name): s for f, s in zip(model.proto.functions, tops[1:], strict=True)}
    found = []
    for top in tops:
        for scope in top.inner():
            for weight in _constants(scope):
                if parts and weight.name.startswith(parts):
                    continue
                uses = list(_uses(model, functions, weight))
                weight.overridable = not scope.path and weight.value in scope.inputs and model.proto.ir_version >= 4
                _describe(weight, uses)
                found.append(weight)
    return found


def _constants(scope: Scope) -> Iterator[Weight]:
    def made(name: str, store: Store, tensor: TensorProto | SparseTensorProto, values: TensorProto) -> Iterator[Weight]:
        shape = tuple(tensor.dims)
        linear_type = values.data_type in FLOATS | QUANTISED or numpy_dtype(values.data_type) is None
        if linear_type and values.data_type != TensorProto.STRING and shape and np.prod(shape, dtype=np.int64) > 1:
            yield Weight(scope.path + name, name, scope, store, tensor, shape, values.data_type)

    for name, tensor in scope.initializers.items():
        yield from made(name, "initializer", tensor, tensor)
    for name, sparse in scope.sparse_initializers.items():
        yield from made(name, "sparse", sparse, sparse.values)
    for node in scope.body.node:
        value = constant_value(node)
        if value is not None:
            yield from made(node.output[0], "constant", value, value)


def label(scope: Scope, node: NodeProto) -> str:
    """What a node is called: its name with the path to its body, or its operator and first output."""
    return scope.path + (node.name or f"{node.op_type}({node.output[0] if node.output else ''})")


def _uses(model: Model, functions: dict[tuple[str, str], Scope], weight: Weight) -> Iterator[_Use]:
    """Follow a constant through bodies, functions and pass-through nodes to the nodes that use it.

    Where ways meet again they are followed once.
    """
    waiting: list[_Use | _Step] = [
        _Step(weight.scope, weight.value, _View(tuple(range(len(weight.shape))), weight.shape))
    ]
    seen: dict[tuple[object, ...], _Step] = {}
    while waiting:
        found = waiting.pop()
        if isinstance(found, _Use):
            yield found
        elif seen.setdefault(found.key, found) is found:
            waiting += reversed(list(_further(model, functions, found)))


def _further(model: Model, functions: dict[tuple[str, str], Scope], step: _Step) -> Iterator[_Use | _Step]:
    scope, name, view = step.scope, step.name, step.view
    if name in scope.outputs and scope.path + name not in view.states:
        yield _Use("graph output", None, "graph output")
    for inner in scope.inner():
        if inner is not scope and inner.owner(name) is not scope:
            continue
        if inner is not scope and name in inner.outputs and inner.path + name not in view.states:
            yield _Use(inner.path, None, "body output")
        for node, position in inner.readers.get(name, ()):
            yield from _use(model, functions, inner, node, position, view)


def _use(
    model: Model, functions: dict[tuple[str, str], Scope], scope: Scope, node: NodeProto, position: int, view: _View
) -> Iterator[_Use | _Step]:
    body = functions.get((node.domain, node.op_type))
    if body is not None and id(node) not in view.seen:
        given = {a.name: a for a in _bound(node, view).attribute}
        defaults = {a.name: a for a in getattr(body.body, "attribute_proto", ())}
        inside = _View(view.axes, view.shape, view.quant, view.seen | {id(node)}, defaults | given)
        yield _Step(body, body.body.input[position], inside)
        return
    node = _bound(node, view)
    standard = domain(node) == ""
    if (
        position == 0
        and (node.op_type in _SAME_AXES or node.op_type == "Transpose")
        and (standard or "Linear" in node.op_type)
    ):
        axes, quant = view.axes, view.quant
        if node.op_type == "Transpose" and axes:
            axes = tuple(axes[p] for p in attribute(node, "perm", range(len(axes))[::-1]))
        if node.op_type == "DequantizeLinear" and quant is None:
            quant = quantisation_by(model, scope, node, 1, 2, axes, attribute(node, "axis", 1))
        yield _Step(scope, node.output[0], replace(view, axes=axes, quant=quant))
        return
    sizes = tuple(None if axis is None else view.shape[axis] for axis in view.axes)
    if standard and scales(scope, node, position, sizes, prod(view.shape)):
        yield _Step(scope, node.output[0], view)
        return
    state = _unchanged(scope, node, position) if standard and opset_of(model, scope) > 8 else None  # Scan was another
    if state is not None:
        inside = replace(view, states=view.states | {state.body.path + name for name in state.names})
        yield _Step(state.body, state.name, inside)
        if state.result:
            yield _Step(scope, state.result, view)
        return
    if standard and node.op_type in REARRANGED and (position == 0 or node.op_type == "Concat"):
        for name in node.output:
            yield _Step(scope, name, replace(view, axes=()))
        return
    role = linear_role(node, position, len(view.axes))
    if role is None:
        other = other_role(node, position)
        rows = view.quant is None and other == "embedding" and position == 0
        quant = quantisation_behind(model, scope, node) if rows else view.quant
        yield _Use(label(scope, node), None, other, quant, looks(node, position))
        return
    try:
        mapped = _in_own_axes(role, view.axes)
    except IndexError:
        yield _Use(label(scope, node), None, f"{node.op_type} operand of an impossible rank")
        return
    quant = view.quant
    if quant is None and role.zero is not None:
        quant = quantisation_by(model, scope, node, role.scale, role.zero, view.axes, role.out_axis)
    yield _Use(label(scope, node), mapped, quant=quant)


@dataclass(frozen=True)
class _State:
    """A state that no iteration changes: its name in the body, what else it is called there, and what it ends as."""

    body: Scope
    name: str
    names: frozenset[str]
    result: str


def _unchanged(scope: Scope, node: NodeProto, position: int) -> _State | None:
    """The state of a Loop or a Scan that starts with an input, where the body hands it on as it is."""
    if node.op_type not in ("Loop", "Scan"):
        return None
    index = next(i for i, other in enumerate(scope.body.node) if other is node)
    (inner,) = scope.children[index]
    graph = inner.body
    assert isinstance(graph, GraphProto)  # no function is the body of a node
    scanned = attribute(node, "num_scan_inputs", 0)
    first = 2 if node.op_type == "Loop" else 0  # of the node's inputs that is a state
    if not first <= position < len(node.input) - scanned or position >= len(graph.input):
        return None
    name, place = graph.input[position].name, position - first
    handed = graph.output[place + first // 2].name
    names = {handed}
    while handed != name:
        maker = inner.producers.get(handed)
        if maker is None or maker.op_type != "Identity" or domain(maker):
            return None
        names.add(handed := maker.input[0])
    return _State(inner, name, frozenset(names), node.output[place] if place < len(node.output) else "")


def _bound(node: NodeProto, view: _View) -> NodeProto:
    """The node with the attributes that it takes from the function call around it."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    bound = NodeProto()
    bound.CopyFrom(node)
    del bound.attribute[:]
    for each in node.attribute:
        value = view.attributes.get(each.ref_attr_name) if each.ref_attr_name else each
        if value is not None:
            bound.attribute.add().CopyFrom(value)
            bound.attribute[-1].name = each.name
    return bound


def _in_own_axes(role: Role, axes: Axes) -> Role:
    """The role in the constant's own axes; without axes where a rearrangement hides them."""
    if not axes:
        return replace(role, out_axis=None, in_axes=())
    inward = [axes[a] for a in role.in_axes]
    return replace(
        role,
        out_axis=None if role.out_axis is None else axes[role.out_axis],
        in_axes=tuple(a for a in inward if a is not None),
    )


def _describe(weight: Weight, uses: list[_Use]) -> None:
    """Draw kind, axes and the reason to leave it alone from all readers together."""
    uses = [use for use in uses if not use.looks] or uses
    weight.consumers = tuple(dict.fromkeys(u.node for u in uses))
    linear = [u.role for u in uses if u.role is not None]
    others = list(dict.fromkeys(u.other for u in uses if u.role is None))
    weight.linear = bool(linear)
    if linear:
        weight.kind = linear[0].kind
        axes = {(r.out_axis, r.in_axes) for r in linear}
        if len(axes) == 1:
            weight.out_axis, weight.in_axes = next(iter(axes))
    elif others:
        weight.kind = others[0]
    else:
        weight.kind = "unused"
    if BLOCKS in others:
        weight.reason = Reason(Kind.QUANTIZATION, f"holds {BLOCKS}", BLOCKS)
    elif weight.element in QUANTISED | PACKED_INTEGERS:
        weight.reason = settle(weight, [use.quant for use in uses])
    if numpy_dtype(weight.element) is None:
        weight.reason = Reason(Kind.TYPE, f"its type {weight.dtype} is not pruned")
    weight.reason = weight.reason or _role_or_size(weight, others)


def _role_or_size(weight: Weight, others: list[str]) -> Reason | None:
    """Why a weight is pruned only if it is named; `others` is what it is beside the weight of a linear layer."""
    if not weight.consumers:
        return Reason(Kind.UNUSED, "nothing reads it")
    if others and weight.linear:
        return Reason(Kind.ROLE, f"also read as {others[0]}")
    if others and others[0] == PROCESSOR:
        return Reason(Kind.ROLE, f"is a {PROCESSOR}: compress the model before onnxruntime optimised it", PROCESSOR)
    if others:
        return Reason(Kind.ROLE, f"is {'an' if others[0] == 'embedding' else 'a'} {others[0]}", others[0])
    if weight.size < SMALL:
        return Reason(Kind.SMALL, f"is small: {weight.size} elements, fewer than {SMALL}", "small")
    return None
