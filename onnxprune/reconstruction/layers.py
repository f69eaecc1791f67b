"""Layers whose inputs can be recorded: where a weight's rows lie, and what they are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

from onnxprune.allocation.input_moments import WIDEST, reading_layers, vectors
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import RECURRENT, attribute, domain
from onnxprune.model.weight import Weight
from onnxprune.reconstruction.biases import FLOATS, Bias, bias_of

_SPREADING = "ConvTranspose"


@dataclass(frozen=True)
class Layer:
    """A weight with the nodes that multiply with it.

    Attributes:
        weight: the weight.
        nodes: its readers, all alike.
        position: the weight's among the inputs of a node.
        bias: what shifts the outputs, where that serves no other layer.
    """

    weight: Weight
    nodes: tuple[NodeProto, ...]
    position: int = 1
    bias: Bias | None = None

    @property
    def groups(self) -> int:
        """Groups of a convolution, directions of a recurrent layer."""
        return self.weight.shape[0] if self._recurrent else int(attribute(self.nodes[0], "group", 1))

    @property
    def key(self) -> str:
        """What layers have in common that read the same vectors."""
        operator = self.nodes[0].op_type
        conv = operator == "Conv"
        alike = [(*self.reads(node), *(sorted(map(str, node.attribute)) if conv else ())) for node in self.nodes]
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

    def reads(self, node: NodeProto) -> tuple[str, ...]:
        """The values whose vectors the weight is multiplied with."""
        if self._recurrent and self.position == 2:
            start = node.input[5] if len(node.input) > 5 else ""
            return tuple(filter(None, (hidden(node), start)))
        return (node.input[0],)

    def vectors(self, values: Mapping[str, Array], node: NodeProto, most: int, seed: int) -> Array:
        """Up to `most` of them, drawn: float32 [groups, vectors, inputs]."""
        rng = np.random.default_rng(seed)
        if node.op_type == _SPREADING:
            x = values[node.input[0]]
            return vectors(np.moveaxis(x, 1, -1), node, self.weight.shape, most, rng)
        if not self._recurrent:
            return vectors(values[node.input[0]], node, self.weight.shape, most, rng)
        if self.position == 1:
            x = values[node.input[0]]
            found = np.broadcast_to(x.reshape(1, -1, x.shape[-1]), (self.groups, x.shape[0] * x.shape[1], x.shape[-1]))
        else:
            found = _states(values[hidden(node)], values.get(self.reads(node)[-1]), node)
        if found.shape[1] > most:
            found = found[:, rng.choice(found.shape[1], most, replace=False)]
        return found.astype(np.float32, copy=False)


def hidden(node: NodeProto) -> str:
    """What the outputs of all steps of a recurrent layer are called, also where the graph has no use for them."""
    return node.output[0] or f"{next(filter(None, node.output))} of all steps"


def _states(steps: Array, start: Array | None, node: NodeProto) -> Array:
    """The state that each step of a recurrent layer reads: [directions, steps * batch, hidden].

    Args:
        steps: the states that they give, [steps, directions, batch, hidden].
        start: the first one read, [directions, batch, hidden]; None or of another shape: 0.
        node: the layer.
    """
    first = start if start is not None and start.shape == steps.shape[1:] else np.zeros_like(steps[0])
    way = attribute(node, "direction", b"forward").decode()
    found = []
    for direction in range(steps.shape[1]):
        own, begin = steps[:, direction], first[direction][None]
        backward = way == "reverse" or direction == 1
        read = np.concatenate([own[1:], begin] if backward else [begin, own[:-1]])
        found.append(read.reshape(-1, steps.shape[-1]))
    return np.stack(found)


def layer_of(weight: Weight, constants: Mapping[str, Weight]) -> Layer | None:
    """The layer of a weight; None where what it reads cannot be recorded.

    Args:
        weight: the weight.
        constants: of the main graph, by value.
    """
    nodes = reading_layers(weight)
    if _spreading(weight):
        return Layer(weight, (weight.scope.readers[weight.value][0][0],))
    if nodes:
        return Layer(weight, tuple(nodes), 1, bias_of(weight, nodes[0], constants) if len(nodes) == 1 else None)
    return _recurrent_layer(weight, constants)


def _spreading(weight: Weight) -> bool:
    """Whether one ConvTranspose without groups reads it: a matrix of each place's channels, then sums.

    Where windows overlap, the error of the products stands for that of the sums.
    """
    main = not weight.scope.path and isinstance(weight.scope.body, GraphProto)
    readers = weight.scope.readers.get(weight.value, [])
    if not main or len(readers) != 1 or weight.scope.reads(weight.value) != 1:
        return False
    node, position = readers[0]
    alone = node.op_type == _SPREADING and not domain(node) and position == 1 and attribute(node, "group", 1) == 1
    return alone and weight.out_axis == 1 and weight.element in FLOATS and weight.shape[0] <= WIDEST


def _recurrent_layer(weight: Weight, constants: Mapping[str, Weight]) -> Layer | None:
    main = not weight.scope.path and isinstance(weight.scope.body, GraphProto)
    readers = weight.scope.readers.get(weight.value, [])
    if not main or weight.kind not in RECURRENT or len(readers) != 1 or weight.scope.reads(weight.value) != 1:
        return None
    node, position = readers[0]
    late = node.op_type != "GRU" or position == 1 or attribute(node, "linear_before_reset", 0)
    lengths = len(node.input) > 4 and node.input[4]
    known = not domain(node) and position in (1, 2) and weight.element in FLOATS and weight.in_axes == (2,)
    if not known or not late or lengths or attribute(node, "layout", 0) or weight.shape[2] > WIDEST:
        return None
    return Layer(weight, (node,), position, bias_of(weight, node, constants))
