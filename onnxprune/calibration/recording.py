"""Values of a model on samples, those inside bodies and functions too: made outputs of the main graph, and run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune.calibration.calibration_set import Calibration
from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import RECURRENT_OPERATORS, domain
from onnxprune.model.scopes import Scope, key_of, scopes_of
from onnxprune.runtime.session import open_session, run

_REPEATING = ("Loop", "Scan")
Recorded = Mapping[str, Sequence[Array]]  # by the key of a value, once for each time that it was computed


@dataclass(frozen=True, order=True)
class Value:
    """A value of a graph, body or function.

    Attributes:
        path: of its scope.
        name: its name there.
        element: its ONNX type, where the scope is not the main graph.
    """

    path: str
    name: str
    element: int = TensorProto.FLOAT

    @property
    def key(self) -> str:
        """What tells it from all others; its name where it is of the main graph."""
        return self.path + self.name


def hidden(node: NodeProto) -> str:
    """What the outputs of all steps of a recurrent layer are called, also where the graph has no use for them."""
    return node.output[0] or f"{key_of(node)} of all steps"


def recorded(
    model: Model, values: Sequence[Value], calibration: Calibration
) -> Iterator[tuple[int, int, dict[str, list[Array]]]]:
    """Run the model on samples, a few at a time: the number of a run, how many there are, and what was computed.

    A value of a branch that was not taken was computed no time, one of a loop's body as often as that ran.

    Args:
        model: the model.
        values: what is recorded beside the inputs.
        calibration: the samples.

    Raises:
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run, or values of a loop change their shape.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with model.edited() as proto:
            exposed = _Exposure(proto)
            places = {value.key: exposed.expose(value) for value in sorted(set(values))}
            model.write(path)
        session = open_session(path)
        pieces, _ = calibration.pieces(session)
        for number, piece in enumerate(pieces):
            found = {**piece, **run(session, piece)}
            taken = {
                key: [array for name, depth in names for array in _each(found[name], depth)]
                for key, names in places.items()
            }
            yield number, len(pieces), {**{name: [array] for name, array in piece.items()}, **taken}


def together(values: Recorded, keys: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Values as they were computed together; what was computed once goes with each time of the others.

    Nothing where it is not known which of them belong together.
    """
    times = {key: values[key] for key in keys}
    most = max(map(len, times.values()), default=0)
    if all(len(found) in (1, most) for found in times.values()):
        for number in range(most):
            yield {key: found[number if len(found) > 1 else 0] for key, found in times.items()}


def _each(array: Array, depth: int) -> list[Array]:
    """The iterations of a value that loops stacked along its first axes; nothing of an empty one."""
    return list(array.reshape(-1, *array.shape[depth:])) if depth and array.size else [array] * bool(array.size)


class _Exposure:
    """Makes values outputs of the main graph of a model, which is edited."""

    def __init__(self, proto: ModelProto) -> None:
        self._proto = proto
        self._scopes = {scope.path: scope for top in scopes_of(proto) for scope in top.inner()}
        self._outputs = {value.name for value in (*proto.graph.output, *proto.graph.input)}
        self._made = 0
        for scope in self._scopes.values():
            for node in scope.body.node:
                if node.op_type in RECURRENT_OPERATORS and not domain(node) and any(node.output):
                    node.output[0] = hidden(node)

    def expose(self, value: Value) -> list[tuple[str, int]]:
        """The outputs of the main graph that hand out a value, and how many of their first axes count iterations."""
        return self._out(self._scopes[value.path], value.name, value.element)

    def _out(self, scope: Scope, name: str, element: int) -> list[tuple[str, int]]:
        body = scope.body
        if isinstance(body, FunctionProto):
            body.output.append(self._copied(body, name))
            found = []
            for caller, node in self._calls(body):
                node.output.extend([""] * (len(body.output) - 1 - len(node.output)))
                node.output.append(self._fresh())
                found += self._out(caller, node.output[-1], element)
            return found
        held = scope.holder()
        if held is None or scope.parent is None:
            if name not in self._outputs:
                self._outputs.add(name)
                body.output.append(ValueInfoProto(name=name))
            return [(name, 0)]
        node, bodies = held
        for each in bodies:
            assert isinstance(each.body, GraphProto)  # no function is the body of a node
            handed = self._copied(each.body, name) if each is scope else self._empty(each.body, element)
            each.body.output.append(ValueInfoProto(name=handed))
        given = len(body.output) - (1 if node.op_type == "Loop" else 0)  # a Loop keeps its condition
        node.output.extend([""] * (given - 1 - len(node.output)))
        node.output.append(self._fresh())
        for axes in node.attribute:
            if axes.name in ("scan_output_axes", "scan_output_directions"):
                axes.ints.append(0)
        deeper = node.op_type in _REPEATING
        return [(out, depth + deeper) for out, depth in self._out(scope.parent, node.output[-1], element)]

    def _calls(self, function: FunctionProto) -> Iterator[tuple[Scope, NodeProto]]:
        for scope in self._scopes.values():
            for node in scope.body.node:
                if (node.domain, node.op_type) == (function.domain, function.name):
                    yield scope, node

    def _fresh(self) -> str:
        self._made += 1
        return f"recorded value {self._made}"

    def _copied(self, body: GraphProto | FunctionProto, name: str) -> str:
        """A copy: an input of a body may not be its output."""
        fresh = self._fresh()
        body.node.append(helper.make_node("Identity", [name], [fresh]))
        return fresh

    def _empty(self, body: GraphProto, element: int) -> str:
        """A tensor of no elements, for the branches of an If that do not have a value."""
        fresh = self._fresh()
        tensor = TensorProto(dims=[0], data_type=element)
        body.node.append(helper.make_node("Constant", [], [fresh], value=tensor))
        return fresh
