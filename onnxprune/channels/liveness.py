"""Liveness: dead channel groups, which can be removed without changing what a graph computes.

A channel group is live if it is protected, if something other than a weight reads its values, or if a live group reads
it through a nonzero weight and its value varies with the input. All others are dead (Han et al. 2015, section 3.5).

A channel without a nonzero incoming weight has the same value for every input. Such constants are propagated through
the graph, and folded into the bias of the layer that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune.channels.coupling import Coupling, RemovableAxis
from onnxprune.channels.coupling.removable_axes import (
    Concatenated,
    Filled,
    Flow,
    LinearLayer,
    Mapped,
    Moved,
    Narrowed,
    Product,
    ZeroState,
)
from onnxprune.core import threads
from onnxprune.core.chunked import CHUNK_ELEMENTS, ChunkedArray, RowRange, ranges
from onnxprune.core.dtypes import ONES, Array
from onnxprune.errors import RuntimeFailure
from onnxprune.runtime.session import evaluate


@dataclass(frozen=True)
class SparsityPattern:
    """Which entries of a matrix [groups, outputs, inputs] are nonzero.

    Attributes:
        shape: of the matrix.
        bits: [groups, outputs, ceil(inputs / 8)], a bit for each entry: all weights of a model are held at once.
    """

    shape: tuple[int, int, int]
    bits: Array

    @classmethod
    def of(cls, nonzero: Array) -> SparsityPattern:
        """The pattern of a boolean view [groups, outputs, inputs, rest]; any entry of `rest` counts."""
        groups, outputs, inputs, rest = nonzero.shape
        step = max(1, CHUNK_ELEMENTS // max(1, groups * inputs * rest))

        def packed(rows: RowRange) -> Array:
            part = nonzero[:, slice(*rows)]
            return _packed(part[..., 0] if rest == 1 else np.logical_or.reduce(part, axis=-1))

        bits = list(threads.run(packed, ranges(0, outputs, step)))
        none = np.zeros((groups, outputs, -(-inputs // 8)), np.uint8)
        return cls((groups, outputs, inputs), np.concatenate(bits, axis=1) if bits else none)

    @classmethod
    def of_weight(cls, nonzero: ChunkedArray, view: Callable[[Array], Array]) -> SparsityPattern:
        """The pattern of a weight: of a large matrix, whose view is itself or its transpose, chunk by chunk.

        Args:
            nonzero: bool, in the shape of the weight.
            view: makes of it what `of` takes.
        """
        if nonzero.ndim != 2 or len(nonzero.rows) == 1:
            return cls.of(view(nonzero.whole()))
        rows_are_outputs = view(np.empty((2, 1), bool)).shape[1] == 2
        bits = [part.bits for part in nonzero.each(lambda _, part: cls.of(view(part)))]  # of whole bytes of inputs
        shape = nonzero.shape if rows_are_outputs else nonzero.shape[::-1]
        return cls((1, shape[0], shape[1]), np.concatenate(bits, axis=1 if rows_are_outputs else 2))

    def outputs(self, mask: Array | None = None) -> Array:
        """Which outputs have a nonzero entry, [groups, outputs]; `mask` limits the inputs that count."""
        groups, _, inputs = self.shape
        bits = self.bits if mask is None else self.bits & np.packbits(mask.reshape(groups, 1, inputs), axis=-1)
        return np.asarray(bits.any(axis=2))

    def inputs(self, mask: Array | None = None) -> Array:
        """Which inputs have a nonzero entry, [groups, inputs]; `mask` limits the outputs that count."""
        groups, outputs, inputs = self.shape
        every = np.ones((groups, outputs), bool) if mask is None else mask.reshape(groups, outputs)
        read = [np.bitwise_or.reduce(part[own], axis=0) for part, own in zip(self.bits, every, strict=True)]
        return np.unpackbits(np.stack(read), axis=-1, count=inputs).astype(bool)

    @property
    def nonzeros(self) -> int:
        """How many entries are nonzero."""
        return int(ONES[self.bits].sum())


def _packed(nonzero: Array) -> Array:
    """`np.packbits` of [groups, outputs, inputs] along the inputs, contiguous reads also of a transposed view."""
    if nonzero.strides[1] != 1:
        return np.packbits(nonzero, axis=-1)
    groups, outputs, inputs = nonzero.shape
    whole = inputs // 8 * 8
    eights = nonzero[..., :whole].transpose(0, 2, 1).reshape(groups, whole // 8, 8, outputs).view(np.uint8)
    bits = np.zeros((groups, -(-inputs // 8), outputs), np.uint8)
    for place in range(8):
        bits[:, : whole // 8] |= eights[:, :, place] << (7 - place)
    if whole < inputs:
        bits[:, -1] = np.packbits(nonzero[..., whole:], axis=-1)[..., 0]
    return np.ascontiguousarray(bits.transpose(0, 2, 1))


@dataclass
class Liveness:
    """Constant channels and dead channel groups of one graph.

    Attributes:
        coupling: the graph's groups.
        multiple: dead outputs of a layer stay until the kept count is a multiple of this, or all of them stay.
        convolutions: the same of convolutions, where it is more.
    """

    coupling: Coupling
    multiple: int = 1
    convolutions: int = 1
    _patterns: dict[int, SparsityPattern] = field(default_factory=dict, repr=False)

    # constants -------------------------------------------------------------------------------------------------

    @cached_property
    def constants(self) -> dict[RemovableAxis, Array]:
        """Removable axis -> the value of each entry, in float64; NaN where it varies with the input or is unknown."""
        found: dict[RemovableAxis, Array] = {}
        for flow in self.coupling.flows:
            values = self._follow(flow, found)
            if values is not None and not np.isnan(values).all():
                found[flow.target] = values
        return found

    def _follow(self, flow: Flow, found: dict[RemovableAxis, Array]) -> Array | None:
        """The constants of a flow's target; None where none is known."""
        if self.coupling.is_constant(flow.target.value):  # its values can be read
            return None
        match flow:
            case Filled():
                return np.full(flow.target.channels.shape, flow.value)
            case Product():
                return _product(self._known(factor, found) for factor in flow.factors)
            case Moved():
                values = self._known(flow.source, found)
                if values is None:
                    return None
                moved = values.reshape(-1)[flow.index] if flow.index is not None else values
                return np.where(moved == 0, 0.0, np.nan) if flow.zero_only else moved
            case Narrowed():
                values = self._known(flow.source, found)
                if values is None:
                    return None
                at = flow.source.axes.index(flow.target.axes[0])
                rows = np.moveaxis(values, at, 0).reshape(values.shape[at], -1)
                return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)
            case Concatenated():
                parts = [self._part(p, found) for p in flow.parts]
                return np.concatenate(parts)
            case Mapped():
                return self._mapped(flow, found)
            case LinearLayer():
                return None if flow.recurrent else self._weighted_sums(flow, found)
            case ZeroState():
                return self._zero_state(flow, found)

    def _part(self, part: RemovableAxis | int, found: dict[RemovableAxis, Array]) -> Array:
        if isinstance(part, int):
            return np.full(part, np.nan)
        values = self._known(part, found)
        return np.full(part.channels.shape, np.nan) if values is None else values

    def _known(self, removable: RemovableAxis, found: dict[RemovableAxis, Array]) -> Array | None:
        """The constants of an axis; of a constant tensor, entries that are equal along all its other axes."""
        if removable in found or not self.coupling.is_constant(removable.value):
            return found.get(removable)
        array = self.coupling.array(removable.value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            return None
        rows = np.moveaxis(array, removable.axes, range(len(removable.axes)))
        rows = rows.reshape(*removable.channels.shape, -1).astype(np.float64)
        return np.where((rows == rows[..., :1]).all(axis=-1), rows[..., 0], np.nan)

    def _mapped(self, flow: Mapped, found: dict[RemovableAxis, Array]) -> Array | None:
        """The constants of an elementwise operator, computed by ONNX Runtime."""
        known = [None if removable is None else self._known(removable, found) for removable in flow.operands]
        zero = _product(known) if flow.node.op_type == "Mul" else None
        if any(operand is not None and values is None for operand, values in zip(flow.operands, known, strict=True)):
            return zero
        valid = np.logical_and.reduce([~np.isnan(v) for v in known if v is not None])
        if not valid.any():
            return zero
        arrays: list[Array | None] = []
        for name, removable, values in zip(flow.node.input, flow.operands, known, strict=True):
            array = self._operand(name, removable, values)
            if name and array is None:
                return zero
            arrays.append(array)
        try:
            result = evaluate(flow.node, arrays, self.coupling.model.proto)[0]
        except RuntimeFailure:  # an operator that needs more than one number along the other axes: nothing is known
            return zero
        if result.size != flow.target.channels.size:
            return zero
        values = np.where(valid, result.astype(np.float64).reshape(flow.target.channels.shape), np.nan)
        return values if zero is None else np.where(np.isnan(values), zero, values)

    def _operand(self, name: str, removable: RemovableAxis | None, values: Array | None) -> Array | None:
        """An input: the known values along the removable axes with size 1 along others, or a constant of one number."""
        if not name:
            return None
        value = self.coupling.shapes.values.get(name)
        if removable is not None and values is not None:
            if value is None or value.shape is None or value.dtype is None:
                return None
            shape = [1] * len(value.shape)
            for axis, size in zip(removable.axes, removable.channels.shape, strict=True):
                shape[axis] = size
            return np.nan_to_num(values).reshape(shape).astype(value.dtype)
        if self.coupling.is_constant(name):
            array = self.coupling.array(name)
            return array if array.size == 1 else None
        return None

    def _weighted_sums(self, layer: LinearLayer, found: dict[RemovableAxis, Array]) -> Array | None:
        """The outputs of a layer that read constants only."""
        foldable = self.foldable_constants(layer, found)
        bias = self._bias(layer)
        reads = self.pattern(layer)
        varies = reads.outputs(None if foldable is None else np.isnan(foldable))
        if bias is None or varies.all():
            return None
        groups, outputs, inputs = reads.shape
        values = np.zeros(groups * inputs) if foldable is None else np.nan_to_num(foldable)
        rows = np.flatnonzero(~varies.all(axis=0))
        sums = _summed(layer.view(self.coupling.array(layer.weight))[:, rows])
        total = np.full((groups, outputs), np.nan)
        total[:, rows] = layer.scale * (sums @ values.reshape(groups, inputs, 1))[..., 0]
        return np.where(varies, np.nan, total + bias.reshape(groups, outputs)).reshape(-1)

    def foldable_constants(self, layer: LinearLayer, found: dict[RemovableAxis, Array] | None = None) -> Array | None:
        """The constants among a layer's inputs that its bias can take over; NaN for other inputs."""
        found = self.constants if found is None else found
        values = None if layer.source is None else self._known(layer.source, found)
        if values is None:
            return None
        values = np.where(np.isfinite(values), values, np.nan)
        return values if self._bias_takes_constants(layer) else np.where(values == 0, 0.0, np.nan)

    def _bias_takes_constants(self, layer: LinearLayer) -> bool:
        """Whether a constant other than zero may be folded into the bias."""
        if layer.padded or layer.recurrent:
            return False
        name = layer.node.input[layer.bias] if layer.bias is not None and layer.bias < len(layer.node.input) else ""
        return not name or self.coupling.tensor(name) is not None

    def _bias(self, layer: LinearLayer) -> Array | None:
        """The bias of each output, [outputs]; None where it is not a constant."""
        size = layer.target.channels.size
        name = layer.node.input[layer.bias] if layer.bias is not None and layer.bias < len(layer.node.input) else ""
        if not name:
            return np.zeros(size)
        if not self.coupling.is_constant(name):
            return None
        array = self.coupling.array(name).astype(np.float64) * layer.bias_scale
        rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
        row = np.where((rows == rows[:1]).all(axis=0), rows[0], np.nan)
        return np.broadcast_to(row, size)

    def _zero_state(self, flow: ZeroState, found: dict[RemovableAxis, Array]) -> Array | None:
        """Zero for hidden units whose state has no input: f(0) = 0 for the default activations."""
        for state in flow.states:
            values = self._known(state, found)
            if values is None or values.any():  # NaN counts
                return None
        hidden = flow.target.channels.size
        fed = np.zeros(hidden, bool)
        for position in (1, 2, 3):
            name = flow.node.input[position] if position < len(flow.node.input) else ""
            if name and not self.coupling.is_constant(name):
                return None
            if name:
                array = self.coupling.array(name)  # [directions, gates * hidden, ...], biases twice as many gates
                gates = array.reshape(array.shape[0], -1, flow.gates, hidden, *array.shape[2:])[:, :, flow.gate]
                fed |= (gates != 0).any(axis=tuple(a for a in range(gates.ndim) if a != 2))
        return np.where(fed, np.nan, 0.0)

    # weights ---------------------------------------------------------------------------------------------------

    def pattern(self, layer: LinearLayer) -> SparsityPattern:
        """The sparsity pattern of the layer's weight."""
        key = id(layer)
        if key not in self._patterns:
            self._patterns[key] = SparsityPattern.of_weight(self.coupling.nonzero(layer.weight), layer.view)
        return self._patterns[key]

    def bias_update(self, layer: LinearLayer, dead: Array) -> Array:
        """What the bias of each output takes over from dead inputs, [outputs], before `scale`."""
        values = self.foldable_constants(layer)
        if values is None or layer.source is None:
            return np.zeros(layer.target.channels.size)
        constants = np.where(dead[self.coupling.groups(layer.source)], np.nan_to_num(values), 0.0)
        weight = layer.view(self.coupling.array(layer.weight))
        constants = constants.reshape(len(weight), -1, 1)
        columns = np.flatnonzero(constants.any(axis=(0, 2)))
        return (_summed(weight[:, :, columns]) @ constants[:, columns])[..., 0].reshape(-1)

    # dead groups ----------------------------------------------------------------------------------------------

    @cached_property
    def dead(self) -> Array:
        """Group -> whether it is removed: that changes nothing of what the graph computes."""
        live = self._needed.copy()
        for layer in self.coupling.layers:
            self._round_up(layer, live, layer.block(self.multiple, self.convolutions))
        return ~live

    @cached_property
    def _needed(self) -> Array:
        """Group -> whether what the graph computes would change without it."""
        coupling = self.coupling
        live = coupling.protected | coupling.used
        self._reach(live)
        while emptied := coupling.emptied(~live):
            for removable in emptied:
                live[coupling.groups(removable).reshape(-1)[0]] = True
            self._reach(live)
        return live

    def _round_up(self, layer: LinearLayer, live: Array, multiple: int) -> None:
        """Mark the first dead outputs of a layer as live until the number of live ones is a multiple."""
        groups = self.coupling.groups(layer.target).reshape(-1)
        while missing := min(-np.count_nonzero(live[groups]) % multiple, np.count_nonzero(~live[groups])):
            live[np.unique(groups[~live[groups]])[: max(missing // _widest(groups), 1)]] = True

    def blocked_by_padding(self) -> dict[str, int]:
        """Nodes -> how many constant channels they keep because their padding reads zeros in place of the constant."""
        found = {}
        for layer in self.coupling.layers:
            if layer.padded and layer.source is not None:
                values = self._known(layer.source, self.constants)
                if values is None:
                    continue
                read = self.pattern(layer).inputs(self._needed[self.coupling.groups(layer.target)]).reshape(-1)
                count = int(np.count_nonzero(read & np.isfinite(values) & (values != 0)))
                if count:
                    found[layer.node.name or layer.node.output[0]] = count
        return found

    def _reach(self, live: Array) -> None:
        """Mark every group that a live group reads, until none is added."""
        before = -1
        while before != (before := int(np.count_nonzero(live))):
            for layer in reversed(self.coupling.layers):
                if layer.source is None:
                    continue
                source = self.coupling.groups(layer.source)
                if live[source].all():
                    continue
                read = self.pattern(layer).inputs(live[self.coupling.groups(layer.target)]).reshape(-1)
                foldable = self.foldable_constants(layer)
                live[source[read if foldable is None else read & np.isnan(foldable)]] = True


def _product(factors: Iterable[Array | None]) -> Array | None:
    """The constants of a product: zero wherever a factor is zero, else unknown."""
    zeros = [values == 0 for values in factors if values is not None]
    return np.where(np.logical_or.reduce(zeros), 0.0, np.nan) if zeros else None


def _summed(weight: Array) -> Array:
    """[groups, outputs, inputs, rest] without the rest, in float64."""
    return weight.sum(axis=-1, dtype=np.float64)


def _widest(groups: Array) -> int:
    """How many outputs of a layer the largest group holds."""
    return int(np.unique(groups, return_counts=True)[1].max())
