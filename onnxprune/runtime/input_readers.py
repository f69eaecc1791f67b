"""What the first operators say about an input of a model: tables that it indexes, filters, preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import NodeProto, numpy_helper

from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute
from onnxprune.model.scopes import DEFAULT_DOMAIN, Scope

_PASSED = frozenset(
    {
        "Cast",
        "Identity",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Flatten",
        "Transpose",
        "Slice",
        "Split",
        "Gather",
        "Expand",
    }
)
_PREPARING = _PASSED | {
    "Pad", "Resize", "Concat", "BatchNormalization", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"
}  # fmt: skip
# Of what decodes a table: operators that give their first input's shape, and those that take theirs as an input.
_KEPT = frozenset({"Cast", "Identity", "DequantizeLinear", "Mul", "ScatterElements", "ScatterND"})
_GIVEN = {"Reshape": 1, "ConstantOfShape": 0}
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_COMPUTED = frozenset({"Add", "Sub", "Mul", "Where"})  # with indices
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}  # where the filters are
_DOMAINS = (*DEFAULT_DOMAIN, "com.microsoft")
_HOPS = 12
# Where the table is that an input indexes, by operator and the position of the indices.
_TABLES: dict[str, dict[int, int]] = {
    "Gather": {1: 0}, "GatherBlockQuantized": {1: 0}, "EmbedLayerNormalization": {0: 2, 1: 4, 8: 3},
    "QEmbedLayerNormalization": {0: 2, 1: 4},
}  # fmt: skip
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # where a recurrence takes states
_LENGTHS = 4  # where it takes the lengths of its sequences
_BYTES = 100.0  # divisors from here on, such as 127.5 and 255, are those of bytes
_NEVER = -1000.0  # what a Softmax makes zero of
_MEANS = 50.0  # likewise of means that are subtracted


@dataclass(frozen=True)
class Pixels:
    """The numbers that stand for black and for white, and the two in words."""

    low: float
    high: float
    words: str


BYTES = Pixels(0, 255, "0 to 255")
UNIT = Pixels(0, 1, "0 to 1")
NORMALISED = Pixels(-2, 2, "normalised")


class Readers:
    """The operators that read an input, directly or through others that move or prepare its values.

    Args:
        model: the model.
        scope: its main graph.
        name: of the input.
    """

    def __init__(self, model: Model, scope: Scope, name: str) -> None:
        self._model, self._scope, self._name = model, scope, name
        self._moved = list(readers_of(scope, name, prepared=False))
        self._prepared = list(readers_of(scope, name, prepared=True))

    @cached_property
    def rows(self) -> int | None:
        """How many rows the smallest table has whose indices the input holds; None where it holds no such."""
        return self._rows(self._moved)

    @cached_property
    def computed_rows(self) -> int | None:
        """The same of indices that are computed with: exporters write a count from the end as a sum and products."""
        return self._rows(list(readers_of(self._scope, self._name, prepared=False, computed=True)))

    def _rows(self, reached: list[tuple[Scope, NodeProto, int]]) -> int | None:
        found = []
        for scope, node, position in reached:
            table = _TABLES.get(node.op_type, {}).get(position)
            if table is not None:
                shape = table_shape(scope, node.input[table])
                axis = attribute(node, "gather_axis", attribute(node, "axis", 0))
                if shape and -len(shape) <= axis < len(shape):
                    found.append(shape[axis])
            if node.op_type == "OneHot" and position == 0:
                depth = self._constant(scope, node.input[1])
                found += [] if depth is None else [int(depth.reshape(-1)[0])]
            if node.op_type == "Equal":  # with 0, 1, 2 ...: a OneHot in parts
                other = self._constant(scope, node.input[1 - position])
                if other is not None and other.size > 2 and np.array_equal(other.reshape(-1), np.arange(other.size)):
                    found.append(other.size)
        return min(found, default=None)

    @cached_property
    def compared(self) -> Array | None:
        """The single number that the input is compared with."""
        for scope, node, position in self._moved:
            if node.op_type == "Equal":
                other = self._constant(scope, node.input[1 - position])
                if other is not None and other.size == 1:
                    return other.reshape(-1)
        return None

    @cached_property
    def hides(self) -> bool:
        """Whether it is a mask whose true entries are left out, those of padding."""
        found = [_left_out(self._constant, *reader) for reader in self._moved]
        for scope, node, _ in self._moved:
            if node.op_type == "Not":
                behind = readers_of(scope, node.output[0], prepared=False)
                opposite = [_left_out(self._constant, *reader) for reader in behind]
                found += [None if each is None else not each for each in opposite]
        return next((each for each in found if each is not None), False)

    @cached_property
    def is_state(self) -> bool:
        """Whether a recurrence starts with it."""
        return any(position in _STATES.get(node.op_type, ()) for _, node, position in self._moved)

    @cached_property
    def counts(self) -> bool:
        """Whether a recurrence reads it as the lengths of its sequences."""
        return any(node.op_type in _STATES and position == _LENGTHS for _, node, position in self._moved)

    @cached_property
    def transformed(self) -> bool:
        """Whether a Fourier transform reads it."""
        return any(node.op_type in ("STFT", "DFT") and position == 0 for _, node, position in self._moved)

    @cached_property
    def filters(self) -> tuple[int, ...]:
        """The shape of the first convolution's filters, [out, in / groups, ...]; empty without one."""
        for scope, node, position in self._prepared:
            place = _CONVOLUTIONS.get(node.op_type)
            if place is not None and position == 0 and len(node.input) > place:
                return table_shape(scope, node.input[place])
        return ()

    @cached_property
    def trailing(self) -> tuple[int, ...]:
        """Sizes of the last axes that the first product, recurrence or arithmetic with constants takes; 1: any."""
        for scope, node, position in self._moved:
            if node.op_type in _ARITHMETIC:
                shape = table_shape(scope, node.input[1 - position])
                if max(shape, default=1) > 1:
                    return shape
            if position == 0 and node.op_type in ("MatMul", "Gemm", *_STATES) and len(node.input) > 1:
                shape = table_shape(scope, node.input[1])
                if len(shape) > 1:
                    last = node.op_type in _STATES or attribute(node, "transB", 0)
                    return shape[-1:] if last else shape[-2:-1]
        return ()

    @cached_property
    def channels_last(self) -> bool:
        """Whether the first Transpose brings the last of four axes to the place of channels."""
        found = (node for _, node, _ in self._moved if node.op_type == "Transpose")
        return next((list(attribute(node, "perm", [])) == [0, 3, 1, 2] for node in found), False)

    @cached_property
    def pixels(self) -> Pixels | None:
        """What the first operator that says so takes for black and white."""
        for scope, node, position in self._prepared:
            found = self._quantised(scope, node, position) or self._scaled(scope, node, position)
            if found is not None:
                return found
        return None

    def _quantised(self, scope: Scope, node: NodeProto, position: int) -> Pixels | None:
        """The range of a QuantizeLinear, which was calibrated on real inputs."""
        if node.op_type != "QuantizeLinear" or position != 0:
            return None
        scale = self._constant(scope, node.input[1])
        zero = self._constant(scope, node.input[2]) if len(node.input) > 2 else np.zeros(1, np.uint8)
        if scale is None or scale.size != 1 or zero is None or zero.dtype not in (np.uint8, np.int8):
            return None
        limits = np.iinfo(zero.dtype)
        low, high = (
            (end - float(zero.reshape(-1)[0])) * float(scale.reshape(-1)[0]) for end in (limits.min, limits.max)
        )
        return Pixels(low, high, f"{low:.3g} to {high:.3g}")

    def _scaled(self, scope: Scope, node: NodeProto, position: int) -> Pixels | None:
        """What arithmetic with constants, or a batch norm by its means, expects."""
        if node.op_type == "BatchNormalization" and position == 0:
            means = self._constant(scope, node.input[3])
            return BYTES if means is not None and np.abs(means).max(initial=0) >= _MEANS else None
        if node.op_type not in _ARITHMETIC:
            return None
        other = self._constant(scope, node.input[1 - position])
        if other is None or not other.size:
            return None
        size = float(np.abs(other).max())
        if node.op_type in ("Add", "Sub"):
            return BYTES if size >= _MEANS else UNIT if 0 < size <= 1 else None
        if node.op_type == "Div" and position == 1:
            return None
        divisor = size if node.op_type == "Div" else 1 / size if size else 1.0
        return BYTES if divisor >= _BYTES else UNIT if divisor < 1 else None

    def _constant(self, scope: Scope, name: str) -> Array | None:
        found = scope.constant(name)
        return None if found is None else self._model.array(found)


def _left_out(
    constant: Callable[[Scope, str], Array | None], scope: Scope, node: NodeProto, position: int
) -> bool | None:
    """Whether a reader of a mask leaves out what is true, or what is false; None where it does not tell."""
    if node.op_type == "Mul":
        return False
    if node.op_type != "Where" or position != 0:
        return None
    held = [constant(scope, name) for name in node.input[1:3]]
    values = [float(value.reshape(-1)[0]) if value is not None and value.size == 1 else np.nan for value in held]
    if values[0] <= _NEVER or values[1] <= _NEVER:
        return values[0] <= _NEVER
    return values[0] == 0 if 0 in values else None


def readers_of(
    scope: Scope, name: str, *, prepared: bool, computed: bool = False
) -> Iterator[tuple[Scope, NodeProto, int]]:
    """(scope, node, position) of the readers, and of those of what they pass on; `prepared` goes on behind arithmetic.

    `computed` goes on behind what indices are computed with, whatever the other operand is. Nodes that the input
    reaches on several ways come once.
    """
    waiting, seen = [(scope, name, _HOPS)], {name}
    while waiting:
        scope, name, left = waiting.pop(0)
        for inner in scope.inner():
            for node, position in inner.readers.get(name, ()):
                if node.domain not in _DOMAINS:
                    continue
                yield inner, node, position
                passes = node.op_type in (_PREPARING if prepared else _PASSED) and (
                    position == 0 or node.op_type == "Concat"
                )
                if prepared and node.op_type in _ARITHMETIC:
                    passes = inner.constant(node.input[1 - position]) is not None
                if computed and node.op_type in _COMPUTED:
                    passes = node.op_type != "Where" or position > 0
                outputs = node.output if node.op_type == "Split" else node.output[:1]
                new = [output for output in outputs if output and output not in seen] if passes and left else []
                seen.update(new)
                waiting += [(inner, output, left - 1) for output in new]


def table_shape(scope: Scope, name: str) -> tuple[int, ...]:
    """Shape of the constant behind `name`, through operators that keep or turn it, or give it a fixed one."""
    turned: list[list[int]] = []

    def seen(shape: tuple[int, ...]) -> tuple[int, ...]:
        for order in reversed(turned):
            shape = tuple(shape[axis] for axis in order or range(len(shape))[::-1])
        return shape

    for _ in range(_HOPS):
        tensor = scope.constant(name)
        if tensor is not None:
            return seen(tuple(tensor.dims))
        owner = scope.owner(name)
        node = owner.producers.get(name) if owner is not None else None
        if node is not None and node.op_type in _GIVEN:
            target = scope.constant(node.input[_GIVEN[node.op_type]])
            shape = () if target is None else tuple(numpy_helper.to_array(target).tolist())
            return seen(shape) if all(size > 0 for size in shape) else ()
        if node is not None and node.op_type == "Transpose":
            turned.append(list(attribute(node, "perm", ())))
        elif node is None or node.op_type not in _KEPT:
            return ()
        name = node.input[0]
    return ()
