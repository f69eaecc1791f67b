"""What a graph computes in vain: places that are the same for every input, and places that nothing reads.

A place whose incoming weights are all zero emits a constant, which is followed through what stands
behind it. A layer does not need to read a constant: its bias can hold it. So a group is alive only if
it is pinned, if something other than a weight uses it, or if a weight that is not zero carries what is
not a constant from it to a place that is alive (Han et al. 2015, section 3.5, with biases taken into
account). Starting from the pinned groups, what is never reached is dead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune.channels.coupling import Coupling, Slot
from onnxprune.channels.coupling.slots import Filled, Flow, Joined, Mapped, Mix, Moved, Narrowed, Product, Silent
from onnxprune.core import threads
from onnxprune.core.chunked import CHUNK_ELEMENTS, RowRange, ranges
from onnxprune.core.dtypes import ONES, Array
from onnxprune.errors import RuntimeFailure
from onnxprune.runtime.session import evaluate


@dataclass(frozen=True)
class Pattern:
    """Which entries of a matrix [groups, outputs, inputs] are not zero.

    Attributes:
        shape: of the matrix.
        bits: a bit for each entry, packed along the inputs: all weights of a model are held at once.
    """

    shape: tuple[int, int, int]
    bits: Array

    @classmethod
    def of(cls, filled: Array) -> Pattern:
        """Of a boolean view [groups, outputs, inputs, rest]."""
        groups, outputs, inputs, rest = filled.shape
        step = max(1, CHUNK_ELEMENTS // max(1, groups * inputs * rest))

        def packed(rows: RowRange) -> Array:
            part = filled[:, slice(*rows)]
            return _packed(part[..., 0] if rest == 1 else np.logical_or.reduce(part, axis=-1))

        bits = list(threads.run(packed, ranges(0, outputs, step)))
        none = np.zeros((groups, outputs, -(-inputs // 8)), np.uint8)
        return cls((groups, outputs, inputs), np.concatenate(bits, axis=1) if bits else none)

    def outputs(self, heard: Array | None = None) -> Array:
        """Which outputs [groups, outputs] read any of the inputs, or of those that the mask names."""
        groups, _, inputs = self.shape
        bits = self.bits if heard is None else self.bits & np.packbits(heard.reshape(groups, 1, inputs), axis=-1)
        return np.asarray(bits.any(axis=2))

    def inputs(self, heard: Array | None = None) -> Array:
        """Which inputs [groups, inputs] any of the outputs reads, or of those that the mask names."""
        groups, outputs, inputs = self.shape
        every = np.ones((groups, outputs), bool) if heard is None else heard.reshape(groups, outputs)
        read = [np.bitwise_or.reduce(part[own], axis=0) for part, own in zip(self.bits, every, strict=True)]
        return np.unpackbits(np.stack(read), axis=-1, count=inputs).astype(bool)

    @property
    def filled(self) -> int:
        """How many entries are not zero."""
        return int(ONES[self.bits].sum())


def _packed(filled: Array) -> Array:
    """`np.packbits` of [groups, outputs, inputs] along the inputs, not gathered where memory runs along the outputs."""
    if filled.strides[1] != 1:
        return np.packbits(filled, axis=-1)
    groups, outputs, inputs = filled.shape
    whole = inputs // 8 * 8
    eights = filled[..., :whole].transpose(0, 2, 1).reshape(groups, whole // 8, 8, outputs).view(np.uint8)
    bits = np.zeros((groups, -(-inputs // 8), outputs), np.uint8)
    for place in range(8):
        bits[:, : whole // 8] |= eights[:, :, place] << (7 - place)
    if whole < inputs:
        bits[:, -1] = np.packbits(filled[..., whole:], axis=-1)[..., 0]
    return np.ascontiguousarray(bits.transpose(0, 2, 1))


@dataclass
class Liveness:
    """Constants and dead groups of one graph; see the module.

    Attributes:
        multiple: so many dead places of a layer stay alive that what it keeps is a multiple of this, or all.
    """

    coupling: Coupling
    multiple: int = 1
    _patterns: dict[int, Pattern] = field(default_factory=dict, repr=False)

    # constants -------------------------------------------------------------------------------------------------

    @cached_property
    def constants(self) -> dict[Slot, Array]:
        """Slot -> the value of each entry that is the same whatever the input; NaN where it is not."""
        found: dict[Slot, Array] = {}
        for flow in self.coupling.flows:
            values = self._follow(flow, found)
            if values is not None and not np.isnan(values).all():
                found[flow.target] = values
        return found

    def _follow(self, flow: Flow, found: dict[Slot, Array]) -> Array | None:
        if self.coupling.is_constant(flow.target.value):  # its values are at hand
            return None
        match flow:
            case Filled():
                return np.full(flow.target.ids.shape, flow.value)
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
            case Joined():
                parts = [self._part(p, found) for p in flow.parts]
                return np.concatenate(parts)
            case Mapped():
                return self._mapped(flow, found)
            case Mix():
                return None if flow.recurrent else self._mixed(flow, found)
            case Silent():
                return self._silent(flow, found)

    def _part(self, part: Slot | int, found: dict[Slot, Array]) -> Array:
        if isinstance(part, int):
            return np.full(part, np.nan)
        values = self._known(part, found)
        return np.full(part.ids.shape, np.nan) if values is None else values

    def _known(self, slot: Slot, found: dict[Slot, Array]) -> Array | None:
        """What is known of a slot; of a constant tensor, the entries that are alike along its other axes."""
        if slot in found or not self.coupling.is_constant(slot.value):
            return found.get(slot)
        array = self.coupling.array(slot.value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            return None
        rows = np.moveaxis(array, slot.axes, range(len(slot.axes))).reshape(*slot.ids.shape, -1).astype(np.float64)
        return np.where((rows == rows[..., :1]).all(axis=-1), rows[..., 0], np.nan)

    def _mapped(self, flow: Mapped, found: dict[Slot, Array]) -> Array | None:
        """Entry by entry through the operator itself."""
        known = [None if slot is None else self._known(slot, found) for slot in flow.operands]
        zero = _product(known) if flow.node.op_type == "Mul" else None
        if any(slot is not None and values is None for slot, values in zip(flow.operands, known, strict=True)):
            return zero
        valid = np.logical_and.reduce([~np.isnan(v) for v in known if v is not None])
        if not valid.any():
            return zero
        arrays: list[Array | None] = []
        for name, slot, values in zip(flow.node.input, flow.operands, known, strict=True):
            array = self._operand(name, slot, values)
            if name and array is None:
                return zero
            arrays.append(array)
        try:
            result = evaluate(flow.node, arrays, self.coupling.model.proto)[0]
        except RuntimeFailure:  # an operator that needs more than one number along the other axes: nothing is known
            return zero
        if result.size != flow.target.ids.size:
            return zero
        values = np.where(valid, result.astype(np.float64).reshape(flow.target.ids.shape), np.nan)
        return values if zero is None else np.where(np.isnan(values), zero, values)

    def _operand(self, name: str, slot: Slot | None, values: Array | None) -> Array | None:
        """An input that has the known entries along the slot's axes and one along all others; or a single number."""
        if not name:
            return None
        value = self.coupling.shapes.values.get(name)
        if slot is not None and values is not None:
            if value is None or value.shape is None or value.dtype is None:
                return None
            shape = [1] * len(value.shape)
            for axis, size in zip(slot.axes, slot.ids.shape, strict=True):
                shape[axis] = size
            return np.nan_to_num(values).reshape(shape).astype(value.dtype)
        if self.coupling.is_constant(name):
            array = self.coupling.array(name)
            return array if array.size == 1 else None
        return None

    def _mixed(self, mix: Mix, found: dict[Slot, Array]) -> Array | None:
        """Outputs of a layer that read constants only."""
        carried = self.carried(mix, found)
        bias = self._bias(mix, found)
        reads = self.pattern(mix)
        varies = reads.outputs(None if carried is None else np.isnan(carried))
        if bias is None or varies.all():
            return None
        groups, outputs, inputs = reads.shape
        values = np.zeros(groups * inputs) if carried is None else np.nan_to_num(carried)
        rows = np.flatnonzero(~varies.all(axis=0))
        sums = _summed(mix.view(self.coupling.array(mix.weight))[:, rows])
        total = np.full((groups, outputs), np.nan)
        total[:, rows] = mix.scale * (sums @ values.reshape(groups, inputs, 1))[..., 0]
        return np.where(varies, np.nan, total + bias.reshape(groups, outputs)).reshape(-1)

    def carried(self, mix: Mix, found: dict[Slot, Array] | None = None) -> Array | None:
        """The constants that a layer reads and need not read: its bias can hold what they add; NaN for others."""
        found = self.constants if found is None else found
        values = None if mix.reader is None else self._known(mix.reader, found)
        if values is None:
            return None
        values = np.where(np.isfinite(values), values, np.nan)
        return values if self._foldable(mix) else np.where(values == 0, 0.0, np.nan)

    def _foldable(self, mix: Mix) -> bool:
        """Whether a constant other than zero may go into the bias."""
        if mix.padded or mix.recurrent:
            return False
        name = mix.node.input[mix.bias] if mix.bias is not None and mix.bias < len(mix.node.input) else ""
        return not name or self.coupling.tensor(name) is not None

    def _bias(self, mix: Mix, found: dict[Slot, Array]) -> Array | None:
        """The bias of each output; None where it is not a constant."""
        size = mix.target.ids.size
        name = mix.node.input[mix.bias] if mix.bias is not None and mix.bias < len(mix.node.input) else ""
        if not name:
            return np.zeros(size)
        if not self.coupling.is_constant(name):
            return None
        array = self.coupling.array(name).astype(np.float64) * mix.bias_scale
        rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
        row = np.where((rows == rows[:1]).all(axis=0), rows[0], np.nan)
        return np.broadcast_to(row, size)

    def _silent(self, flow: Silent, found: dict[Slot, Array]) -> Array | None:
        """Hidden units whose state nothing feeds: f(0) = 0 for the default activations."""
        for state in flow.states:
            values = self._known(state, found)
            if values is None or values.any():  # NaN counts
                return None
        hidden = flow.target.ids.size
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

    def pattern(self, mix: Mix) -> Pattern:
        """Where the weight is anything but zero."""
        key = id(mix)
        if key not in self._patterns:
            self._patterns[key] = Pattern.of(mix.view(self.coupling.filled(mix.weight)))
        return self._patterns[key]

    def folded(self, mix: Mix, dead: Array) -> Array:
        """What the bias of each output takes over from dead inputs, before `scale`."""
        values = self.carried(mix)
        if values is None or mix.reader is None:
            return np.zeros(mix.target.ids.size)
        gone = np.where(dead[self.coupling.groups(mix.reader)], np.nan_to_num(values), 0.0)
        weight = mix.view(self.coupling.array(mix.weight))
        gone = gone.reshape(len(weight), -1, 1)
        columns = np.flatnonzero(gone.any(axis=(0, 2)))
        return (_summed(weight[:, :, columns]) @ gone[:, columns])[..., 0].reshape(-1)

    # what is dead ----------------------------------------------------------------------------------------------

    @cached_property
    def dead(self) -> Array:
        """Group -> whether it can go without changing what the graph computes."""
        coupling = self.coupling
        live = coupling.pinned | coupling.used
        self._reach(live)
        while emptied := coupling.emptied(~live):
            for slot in emptied:
                live[coupling.groups(slot).reshape(-1)[0]] = True
            self._reach(live)
        if self.multiple > 1:
            for mix in coupling.layers:
                self._round_up(mix, live)
                self._reach(live)
        return ~live

    def _round_up(self, mix: Mix, live: Array) -> None:
        """Let the first dead outputs of a layer live, until their number is a multiple."""
        groups = self.coupling.groups(mix.target).reshape(-1)
        while missing := min(-np.count_nonzero(live[groups]) % self.multiple, np.count_nonzero(~live[groups])):
            live[np.unique(groups[~live[groups]])[: max(missing // _widest(groups), 1)]] = True

    def hampered(self) -> dict[str, int]:
        """Nodes that need constants which they read only because their padding meets zeros instead -> how many."""
        found = {}
        for mix in self.coupling.layers:
            if mix.padded and mix.reader is not None:
                values = self._known(mix.reader, self.constants)
                if values is None:
                    continue
                read = self.pattern(mix).inputs(~self.dead[self.coupling.groups(mix.target)]).reshape(-1)
                count = int(np.count_nonzero(read & np.isfinite(values) & (values != 0)))
                if count:
                    found[mix.node.name or mix.node.output[0]] = count
        return found

    def _reach(self, live: Array) -> None:
        """Mark what living places read, until nothing new comes to life."""
        before = -1
        while before != (before := int(np.count_nonzero(live))):
            for mix in reversed(self.coupling.layers):
                if mix.reader is None:
                    continue
                reader = self.coupling.groups(mix.reader)
                if live[reader].all():
                    continue
                read = self.pattern(mix).inputs(live[self.coupling.groups(mix.target)]).reshape(-1)
                carried = self.carried(mix)
                live[reader[read if carried is None else read & np.isnan(carried)]] = True


def _product(factors: Iterable[Array | None]) -> Array | None:
    """What is known of a product: it is zero where a factor is, whatever the others are."""
    zeros = [values == 0 for values in factors if values is not None]
    return np.where(np.logical_or.reduce(zeros), 0.0, np.nan) if zeros else None


def _summed(weight: Array) -> Array:
    """[groups, outputs, inputs, rest] without the rest, in float64."""
    return weight.sum(axis=-1, dtype=np.float64)


def _widest(groups: Array) -> int:
    """The most places that one group holds."""
    return int(np.unique(groups, return_counts=True)[1].max())
