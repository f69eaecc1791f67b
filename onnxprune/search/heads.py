"""What the outputs of a model are, by the operators that make them: scores of classes, states of recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from onnxprune.model.model import Model
from onnxprune.model.operators import LINEAR, RECURRENT_OPERATORS, domain, linear_role
from onnxprune.model.scopes import Scope, scopes_of

_SHAPES = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_SCALED = frozenset({"Add", "Sub", "Mul", "Div"})  # with a constant: a bias, a temperature
# What may stand behind the last layer of a classifier. No norm and no Concat do: those of features, boxes and their
# scores side by side.
_BEHIND = _SHAPES | _SCALED | frozenset({
    "Softmax", "LogSoftmax", "Sigmoid", "Relu", "Clip", "Dropout", "QuantizeLinear", "DequantizeLinear",
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean", "ReduceMax",
})  # fmt: skip
_PARTS = _SHAPES | frozenset({"Concat", "Slice", "Gather"})  # what puts the states of several layers into one


@dataclass(frozen=True)
class Heads:
    """What outputs are.

    Attributes:
        scores: those that a linear layer makes, up to what `_BEHIND` says, and those of unknown operators: how many
            outputs the layer has, of which the last axis may be the classes; None where that is not known.
        states: those that end as the state of a recurrent layer.
    """

    scores: Mapping[str, int | None]
    states: frozenset[str]


def heads_of(model: Model) -> Heads:
    """What the outputs of a model are."""
    main, scores, states = scopes_of(model.proto)[0], {}, set()
    for name in (value.name for value in model.proto.graph.output):
        made = list(_origins(main, name, _BEHIND))
        if all(_linear(origin.node) for origin in made):
            widths = {_width(origin) for origin in made}
            scores[name] = widths.pop() if len(widths) == 1 else None
        if any(_state(origin) for origin in _origins(main, name, _PARTS)):
            states.add(name)
    return Heads(scores, frozenset(states))


@dataclass(frozen=True)
class _Origin:
    """A node that makes a value, in its scope, and which of its outputs it is."""

    scope: Scope
    node: NodeProto
    place: int


def _linear(node: NodeProto) -> bool:
    known = domain(node) in ("", "com.microsoft")
    return not known or ((domain(node), node.op_type) in LINEAR and node.op_type not in RECURRENT_OPERATORS)


def _width(origin: _Origin) -> int | None:
    """How many outputs a linear layer has; None where its weight is no constant."""
    for position in LINEAR.get((domain(origin.node), origin.node.op_type), ()):
        tensor = origin.scope.constant(origin.node.input[position])
        role = None if tensor is None else linear_role(origin.node, position, len(tensor.dims))
        if tensor is not None and role is not None and role.out_axis is not None:
            return int(tensor.dims[role.out_axis])
    return None


def _state(origin: _Origin) -> bool:
    return origin.node.op_type in RECURRENT_OPERATORS and origin.place > 0


def _origins(scope: Scope, name: str, through: frozenset[str]) -> Iterator[_Origin]:
    """The nodes that make a value, behind others that are gone through.

    Both branches of an If are.
    """
    owner = scope.owner(name)
    node = owner.producers.get(name) if owner is not None else None
    if owner is None or node is None:
        return
    place = list(node.output).index(name)
    if node.op_type == "If":
        index = next(number for number, each in enumerate(owner.body.node) if each is node)
        for branch in owner.children[index]:
            yield from _origins(branch, branch.body.output[place].name, through)
        return
    values = node.input if node.op_type in (*_SCALED, "Concat") else node.input[:1]
    inputs = [value for value in values if not _constant(owner, value)]
    if node.op_type in through and (node.op_type not in _SCALED or len(inputs) == 1):
        for read in inputs:
            yield from _origins(owner, read, through)
    else:
        yield _Origin(owner, node, place)


def _constant(scope: Scope, name: str) -> bool:
    """Whether a value depends on no input."""
    owner = scope.owner(name)
    if owner is None or name in owner.inputs:
        return not name
    node = owner.producers.get(name)
    return node is None or (node.op_type not in ("If", "Loop", "Scan") and all(_constant(owner, n) for n in node.input))
