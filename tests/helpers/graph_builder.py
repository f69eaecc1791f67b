"""A network under construction that knows its own channel groups, without the code under test.

Every channel of every value has a channel index, its *unit*. Units that must go together (both sides of an Add, the
same channel of every group of a grouped convolution) are united by hand, operator by operator. `finish` makes units
dead by zeroing the weights that feed them, the weights that read them, or both, and says which shape each weight must
have once they are removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from tests.helpers.builders import info, model
from tests.helpers.running import feeds_of, run

EITHER = "either"  # what the semantics leave open
MODES = ("alive", "alive", "in", "in and bias", "out", "both")


@dataclass
class Val:
    """A value: the units along its channel axis, and its other static sizes in order (the batch is left out)."""

    name: str
    units: list[int]
    axis: int = 1
    space: tuple[int, ...] = ()


@dataclass
class Read:
    """A weight that sums over units. hard: of a constant only zero passes; soft: others may or may not."""

    value: str
    hard: bool = False
    soft: bool = False


@dataclass
class Net:
    """Nodes, weights, and the units of each axis of each weight."""

    draw: object
    opset: int
    batch: int | str = "N"
    nodes: list = field(default_factory=list)
    weights: dict = field(default_factory=dict)
    axes: dict = field(default_factory=dict)  # weight -> axis -> units
    values: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    parents: list = field(default_factory=list)
    feeds: list = field(default_factory=list)  # (unit, weight, axis, index)
    reads: list = field(default_factory=list)  # (unit, weight, axis, index, Read)
    biases: list = field(default_factory=list)  # (unit, weight, axis, index)
    protected: set = field(default_factory=set)
    unsure: set = field(default_factory=set)  # values at which a constant that is not zero may or may not get through
    states: set = field(default_factory=set)  # units that are constant only where their biases are zero too
    spare: set = field(default_factory=set)  # units that are read in ways that no zero in a weight stops
    told: list = field(default_factory=list)  # shapes that have to be declared
    zeros: dict = field(default_factory=dict)  # weight -> the number that stands for zero, where it is not 0
    counter: int = 0

    def __post_init__(self):
        self.rng = np.random.default_rng(self.draw(st.integers(0, 999)))

    # units ------------------------------------------------------------------------------------------------------

    def fresh(self, count: int) -> list[int]:
        start = len(self.parents)
        self.parents += range(start, start + count)
        return list(range(start, start + count))

    def find(self, unit: int) -> int:
        while self.parents[unit] != unit:
            unit = self.parents[unit]
        return unit

    def unite(self, *sides) -> None:
        for a, b in pairwise(sides):
            for left, right in zip(a, b, strict=True):
                x, y = self.find(left), self.find(right)
                self.parents[max(x, y)] = min(x, y)

    def protect(self, units) -> None:
        self.protected |= set(units)

    # pieces -----------------------------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        self.counter += 1
        return f"{stem}{self.counter}"

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def emit(self, kind: str, inputs, count: int = 1, **attributes):
        outputs = [self.name(kind.lower() + "_") for _ in range(count)]
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=f"n_{outputs[0]}", domain=domain, **attributes))
        return outputs[0] if count == 1 else outputs

    def val(self, name: str, units, axis: int = 1, space=()) -> Val:
        made = Val(name, list(units), axis, tuple(space))
        self.values.append(made)
        return made

    def like(self, x: Val, kind: str, *more, **attributes) -> Val:
        """An operator that leaves the shape as it is."""
        return self.val(self.emit(kind, [x.name, *more], **attributes), x.units, x.axis, x.space)

    def const(self, stem: str, array, axes=None) -> str:
        """A constant; `axes` gives the units of some of its axes."""
        name = self.name(stem)
        self.weights[name] = np.asarray(array)
        self.axes[name] = {axis: list(units) for axis, units in (axes or {}).items()}
        return name

    def ints(self, *numbers) -> str:
        return self.const("shape", np.array(numbers, np.int64))

    def random(self, *shape: int, fan: int = 1) -> np.ndarray:
        values = self.rng.standard_normal(shape) / np.sqrt(fan)
        return np.where(values == 0, 0.5, values).astype(np.float32)

    def fed(self, units, weight: str, axis: int) -> None:
        self.feeds += [(unit, weight, axis, index) for index, unit in enumerate(units)]

    def read(self, units, weight: str, axis: int, what: Read) -> None:
        self.reads += [(unit, weight, axis, index, what) for index, unit in enumerate(units)]

    def biased(self, units, weight: str, axis: int = 0) -> None:
        self.biases += [(unit, weight, axis, index) for index, unit in enumerate(units)]

    def bias(self, units, stem: str = "bias") -> str:
        made = self.const(stem, self.random(len(units)), {0: units})
        self.biased(units, made)
        return made

    def axed(self, kind: str, name: str, axes, since: int = 13, **attributes) -> str:
        """An operator whose axes are an attribute before opset `since`, and an input from then on."""
        if self.opset < since:
            return self.emit(kind, [name], axes=list(axes), **attributes)
        return self.emit(kind, [name, self.ints(*axes)], **attributes)

    def input(self, channels: int, *space: int, name: str = "x", axis: int = 1) -> Val:
        """[N, channels, *space], or the channels at another axis."""
        shape = [self.batch, *space]
        shape.insert(axis, channels)
        self.inputs.append(info(name, shape))
        made = self.val(name, self.fresh(channels), axis, space)
        self.protect(made.units)
        return made

    # the end ----------------------------------------------------------------------------------------------------

    def groups(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for unit in range(len(self.parents)):
            found.setdefault(self.find(unit), []).append(unit)
        return found

    def finish(self, *outputs: Val, kills: bool = True, told: bool | None = None, **kw):
        """(the model, weight -> shape once stripped, for those whose shape is clear).

        kills: whether to kill units; told: whether inner shapes are declared (drawn by default).
        """
        for out in outputs:
            self.protect(out.units)
        fixed = {self.find(u) for u in self.protected | self.spare}
        unread = set(self.groups()) - fixed - {self.find(r[0]) for r in self.reads}
        modes = self._modes(fixed, unread) if kills else {}
        self._zero(modes)
        proto = model(self.nodes, self.inputs, [self.declared(o) for o in outputs], self.weights, self.opset,
                      10 if self.opset > 18 else 8, **kw)  # fmt: skip
        proto.graph.value_info.extend(self.told)
        if self.flag() if told is None else told:
            proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        fates = dict.fromkeys(unread, "gone") | self._fates(proto, modes)
        return proto, self._expected(fates, self._live(o.name for o in outputs))

    def declared(self, out: Val) -> onnx.ValueInfoProto:
        shape = [self.batch, *out.space]
        shape.insert(out.axis, len(out.units))
        return info(out.name, shape)

    def _modes(self, fixed: set[int], unread: set[int]) -> dict[int, str]:
        free = sorted(set(self.groups()) - fixed - unread)
        modes = {g: self.pick(*MODES) for g in free}
        for value in self.values:  # one of each value has to live
            groups = {self.find(u) for u in value.units} - unread
            if groups and all(modes.get(g, "alive") != "alive" for g in groups):
                modes[min(groups)] = "alive"
        return {g: mode for g, mode in modes.items() if mode != "alive"}

    def _zero(self, modes: dict[int, str]) -> None:
        def clear(unit, weight, axis, index):
            self.weights[weight][(slice(None),) * axis + (index,)] = self.zeros.get(weight, 0)

        states = {self.find(u) for u in self.states}
        for unit, *place in self.feeds:
            if modes.get(self.find(unit), "out") != "out":
                clear(unit, *place)
        for unit, *place in self.biases:
            mode = modes.get(self.find(unit))
            if mode == "in and bias" or (mode in ("in", "both") and self.find(unit) in states):
                clear(unit, *place)
        for unit, *place, _ in self.reads:
            if modes.get(self.find(unit)) in ("out", "both"):
                clear(unit, *place)

    def _fates(self, proto: onnx.ModelProto, modes: dict[int, str]) -> dict[int, str]:
        """What becomes of each killed group: unread ones go, constant ones where the constant gets through."""
        fates = {g: "gone" for g, mode in modes.items() if mode in ("out", "both")}
        quiet = set(modes) - set(fates)
        if not quiet:
            return fates
        seen = self._observed(proto)
        varies, shows, torn = set(), set(), set()  # (value, group), per group
        for value in self.values:
            for index, unit in enumerate(value.units):
                group = self.find(unit)
                if group not in quiet or value.name not in seen:
                    continue
                numbers = seen[value.name].take(index, value.axis)
                if np.ptp(numbers) > 1e-6 * max(1, np.abs(numbers).max()):
                    varies.add((value.name, group))
                elif numbers.any():
                    shows.add((value.name, group))
        for unit, _, _, _, read in self.reads:
            at = read.value, self.find(unit)
            if at in varies or (at in shows and read.hard):
                torn.add(at[1])
        for group in quiet:
            doubtful = any(g == group for _, g in varies) or any((v, group) in shows for v in self.unsure)
            doubtful |= any((r.value, group) in shows for u, *_, r in self.reads if r.soft and self.find(u) == group)
            fates[group] = EITHER if doubtful and group not in torn else "stays" if group in torn else "gone"
        return fates

    def _observed(self, proto: onnx.ModelProto) -> dict[str, np.ndarray]:
        """Every value that has units, for random inputs."""
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        names = [v.name for v in self.values]
        del copy.graph.output[:]
        copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
        return dict(zip(names, run(copy, feeds_of(proto)), strict=True))

    def _live(self, outputs) -> set[str]:
        """Values that something on the way to an output reads."""
        live = set(outputs)
        for node in reversed(self.nodes):
            if live & set(node.output):
                live |= set(node.input)
        return live

    def _expected(self, fates: dict[int, str], live: set[str]) -> dict[str, tuple[int, ...]]:
        expected = {}
        for name, array in self.weights.items():
            if name.startswith("shape") or name not in live:
                continue
            shape = list(array.shape)
            clear = True
            for axis, units in self.axes[name].items():
                left = [fates.get(self.find(u), "stays") for u in units]
                clear &= EITHER not in left
                shape[axis] = left.count("stays")
            if clear and 0 not in shape:
                expected[name] = tuple(shape)
        return expected
