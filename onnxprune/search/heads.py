"""What the outputs of a model are, by the operators that make them: scores of classes, states of recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto

from onnxprune.model.model import Model
from onnxprune.model.operators import LINEAR, RECURRENT_OPERATORS, domain, linear_role
from onnxprune.model.scopes import Scope, scopes_of
from onnxprune.runtime.input_readers import table_shape

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
    steady = _Steady(main)
    for name in (value.name for value in model.proto.graph.output):
        made = _origins(main, name, _BEHIND, steady)
        if all(_linear(origin.node) for origin in made):
            widths = {_width(origin) for origin in made}
            scores[name] = widths.pop() if len(widths) == 1 else None
        if any(_state(origin) for origin in _origins(main, name, _PARTS, steady)):
            states.add(name)
    return Heads(scores, frozenset(states))


class _Steady:
    """What depends on no input, in a graph and the bodies below it; scales that follow what goes in are scales too.

    Args:
        main: the graph.
    """

    def __init__(self, main: Scope) -> None:
        self._names = {
            scope.path: {*scope.initializers, *scope.sparse_initializers} - scope.inputs for scope in main.inner()
        }
        for scope in main.inner():  # from outside inwards, and nodes are in order: a chain of any length takes one pass
            for index, node in enumerate(scope.body.node):
                if node.op_type == "DynamicQuantizeLinear":
                    self._names[scope.path].update(node.output[1:])
                elif index not in scope.children and all(self(scope, name) for name in node.input):
                    self._names[scope.path].update(node.output)

    def __call__(self, scope: Scope, name: str) -> bool:
        """Whether a value, as a body names it, is one of these; an input that is left out is."""
        owner = scope.owner(name)
        return not name if owner is None else name in self._names[owner.path]


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
    """How many outputs a linear layer has; None where its weight is no constant, whole or quantised."""
    for position in LINEAR.get((domain(origin.node), origin.node.op_type), ()):
        shape = table_shape(origin.scope, origin.node.input[position])
        role = linear_role(origin.node, position, len(shape)) if shape else None
        if role is not None and role.out_axis is not None:
            return shape[role.out_axis]
    return None


def _state(origin: _Origin) -> bool:
    return origin.node.op_type in RECURRENT_OPERATORS and origin.place > 0


def _origins(main: Scope, name: str, through: frozenset[str], steady: _Steady) -> list[_Origin]:
    """The nodes that make a value, behind others that are gone through; both branches of an If are.

    What several ways lead to is gone through once.
    """
    found: list[_Origin] = []
    waiting, seen = [(main, name)], set()
    while waiting:
        scope, name = waiting.pop()
        owner = scope.owner(name)
        node = owner.producers.get(name) if owner is not None else None
        if owner is None or node is None or (owner.path, name) in seen:
            continue
        seen.add((owner.path, name))
        place = list(node.output).index(name)
        if node.op_type == "If":
            index = next(number for number, each in enumerate(owner.body.node) if each is node)
            waiting += [(branch, branch.body.output[place].name) for branch in owner.children[index]]
            continue
        values = node.input if node.op_type in (*_SCALED, "Concat") else node.input[:1]
        inputs = [value for value in values if not steady(owner, value)]
        if node.op_type in through and (node.op_type not in _SCALED or len(inputs) == 1):
            waiting += [(owner, read) for read in inputs]
        else:
            found.append(_Origin(owner, node, place))
    return found
