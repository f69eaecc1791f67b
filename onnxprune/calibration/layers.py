"""Layers whose inputs can be recorded: where a weight's rows lie, and what they are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.calibration.biases import FLOATS, Bias, bias_of
from onnxprune.calibration.recording import Value, hidden
from onnxprune.calibration.vectors import states, vectors, within
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import RECURRENT, attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight

WIDEST = 4096  # inputs of a layer up to which their moments (the square) are held
_SPREADING = "ConvTranspose"
_PASSING = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity"})


@dataclass(frozen=True)
class Use:
    """A node that multiplies with a weight, and the scope it stands in."""

    node: NodeProto
    scope: Scope

    def value(self, name: str, element: int) -> Value:
        """A value that the node reads."""
        owner = self.scope.owner(name)
        return Value(owner.path if owner else "", name, element)


@dataclass(frozen=True)
class Layer:
    """A weight with the nodes that multiply with it.

    Attributes:
        weight: the weight.
        uses: its readers, all alike.
        position: the weight's among the inputs of a node.
        bias: what shifts the outputs, where that serves no other layer.
    """

    weight: Weight
    uses: tuple[Use, ...]
    position: int = 1
    bias: Bias | None = None

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        """Those of the uses."""
        return tuple(use.node for use in self.uses)

    @property
    def in_main_graph(self) -> bool:
        """Whether the weight and all that multiplies with it stand in the main graph."""
        return not self.weight.scope.path and not any(use.scope.path for use in self.uses)

    @property
    def groups(self) -> int:
        """Groups of a convolution, directions of a recurrent layer."""
        return self.weight.shape[0] if self._recurrent else int(attribute(self.nodes[0], "group", 1))

    @property
    def key(self) -> str:
        """What layers have in common that read the same vectors."""
        operator = self.nodes[0].op_type
        conv = operator == "Conv"
        alike = [(*self.reads(use), *(sorted(map(str, use.node.attribute)) if conv else ())) for use in self.uses]
        kind = conv or (operator if operator == _SPREADING else False)
        return f"{kind} {self.groups} {self.weight.shape[2:] if conv else self.position} {alike}"

    @property
    def inputs(self) -> int:
        """What an output of a group sums over."""
        return math.prod(self.weight.shape[axis] for axis in self.in_axes)

    @property
    def in_axes(self) -> tuple[int, ...]:
        """The weight's axes along which those lie."""
        return (0,) if self.nodes[0].op_type == _SPREADING else self.weight.in_axes

    @property
    def reads_states(self) -> bool:
        """Whether it reads what a recurrent layer gave at the step before."""
        return self._recurrent and self.position == 2

    @property
    def _recurrent(self) -> bool:
        return self.weight.kind in RECURRENT

    @property
    def _axes(self) -> tuple[int, ...]:
        """The weight's axes with outputs before inputs."""
        weight = self.weight
        assert weight.out_axis is not None
        first = [a for a in range(len(weight.shape)) if a != weight.out_axis and a not in self.in_axes]
        return (*first, weight.out_axis, *self.in_axes)

    def rows(self, array: Array) -> Array:
        """The weight, or something of its shape, as [groups, outputs, inputs]."""
        return np.ascontiguousarray(array.transpose(self._axes)).reshape(self.groups, -1, self.inputs)

    def array(self, rows: Array) -> Array:
        """The inverse of `rows`."""
        shape = [self.weight.shape[axis] for axis in self._axes]
        return np.ascontiguousarray(rows.reshape(shape).transpose(np.argsort(self._axes)))

    def reads(self, use: Use) -> tuple[Value, ...]:
        """What the vectors of a use are taken from."""
        element, node = self.weight.element, use.node
        if not self._recurrent:
            return (use.value(node.input[0], element),)
        lengths, start = (node.input[at] if len(node.input) > at else "" for at in (4, 5))
        first = [use.value(node.input[0], element)]
        if self.reads_states:
            first = [Value(use.scope.path, hidden(node), element)]
            first += [use.value(start, element)] if start else []
        return (*first, *([use.value(lengths, TensorProto.INT32)] if lengths else []))

    def vectors(self, values: Mapping[str, Array], use: Use, most: int, seed: int) -> Array:
        """Up to `most` of the vectors, drawn: float32 [groups, vectors, inputs].

        Args:
            values: what the use reads, by key.
            use: of the layer.
            most: how many.
            seed: of what is drawn.
        """
        rng, node = np.random.default_rng(seed), use.node
        read = [values[value.key] for value in self.reads(use)]
        if not self._recurrent:
            x = np.moveaxis(read[0], 1, -1) if node.op_type == _SPREADING else read[0]
            return vectors(x, node, self.weight.shape, most, rng)
        lengths = read.pop() if len(node.input) > 4 and node.input[4] else None
        if self.position == 1:
            count, batch, width = read[0].shape
            valid = within(lengths, count, batch).reshape(-1)
            found = np.broadcast_to(read[0].reshape(1, -1, width), (self.groups, count * batch, width))
        else:
            way = attribute(node, "direction", b"forward").decode()
            found, valid = states(read[0], read[1] if len(read) > 1 else None, lengths, way)
        if lengths is not None:
            found = found[:, valid]
        if found.shape[1] > most:
            found = found[:, rng.choice(found.shape[1], most, replace=False)]
        return found.astype(np.float32, copy=False)


def layers_of(weights: Sequence[Weight], constants: Sequence[Weight]) -> dict[str, Layer]:
    """The layers among some weights, by name.

    Args:
        weights: of the model.
        constants: all of them, biases included.
    """
    main = {weight.value: weight for weight in constants if not weight.scope.path}
    found = {weight.name: layer_of(weight, main) for weight in weights}
    return {name: layer for name, layer in found.items() if layer is not None}


def layer_of(weight: Weight, constants: Mapping[str, Weight]) -> Layer | None:
    """The layer of a weight; None where what it reads cannot be recorded.

    Args:
        weight: the weight.
        constants: of the main graph, by value.
    """
    if weight.element not in FLOATS or not weight.size or weight.out_axis is None:
        return None
    uses = [
        (use, position) for scope in weight.scope.inner() if scope.owner(weight.value) is weight.scope
        for use, position in _uses(scope, weight.value)
    ]  # fmt: skip
    alike = {(use.node.op_type, attribute(use.node, "group", 1), position) for use, position in uses}
    if len(alike) != 1 or not all(_known(weight, use.node, position) for use, position in uses):
        return None
    ((operator, _, position),) = alike
    alone, spreading = len(uses) == 1, operator == _SPREADING
    found = Layer(weight, tuple(use for use, _ in uses), position)
    if found.inputs > WIDEST or (not alone and (spreading or weight.kind in RECURRENT)):
        return None
    shifted = alone and not spreading and found.in_main_graph
    return replace(found, bias=bias_of(weight, found.nodes[0], constants)) if shifted else found


def _uses(scope: Scope, value: str) -> Iterator[tuple[Use, int]]:
    """The nodes that read a value, behind nodes that round it, or that pass it on to one of several layers."""
    waiting = [(scope, value)]
    while waiting:
        scope, value = waiting.pop(0)
        for node, position in scope.readers.get(value, ()):
            if position == 0 and node.op_type in _PASSING and not domain(node):
                output = node.output[0]
                waiting += [(inner, output) for inner in scope.inner() if inner.owner(output) is scope]
            else:
                yield Use(node, scope), position


def _known(weight: Weight, node: NodeProto, position: int) -> bool:
    """Whether it is known what a node multiplies a weight with."""
    if domain(node) or node.input[0] == weight.value:
        return False
    if weight.kind in RECURRENT:
        late = node.op_type != "GRU" or position == 1 or attribute(node, "linear_before_reset", 0)
        return bool(late) and position in (1, 2) and weight.in_axes == (2,) and not attribute(node, "layout", 0)
    if position != 1:
        return False
    if node.op_type == _SPREADING:
        # A matrix of each place's channels, then sums: where windows overlap, the error of the products stands for
        # that of the sums.
        return attribute(node, "group", 1) == 1 and weight.out_axis == 1
    if node.op_type == "Conv":
        return len(weight.in_axes) == len(weight.shape) - 1
    return (
        len(weight.shape) == 2
        and bool(weight.in_axes)
        and (node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transA", 0)))
    )
