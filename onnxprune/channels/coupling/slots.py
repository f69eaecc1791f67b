"""What coupling is made of: places of values that can be removed, what is known of them, what to rewrite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import NodeProto

from onnxprune.core.dtypes import Array


@dataclass(eq=False)
class Slot:
    """The places of a value that can be removed: `ids`, an atom for each, spans the value's `axes`."""

    value: str
    axes: tuple[int, ...]
    ids: Array


# How what is known of a slot follows from other slots; a graph has them in its own order ---------------------


@dataclass(eq=False)
class Moved:
    """The same numbers in other places: entry k of the target is entry `index[k]` of the source, flattened.

    zero_only: holds for zeros only, not for other constants (padding, sums).
    """

    target: Slot
    source: Slot
    index: Array | None = None
    zero_only: bool = False


@dataclass(eq=False)
class Joined:
    """The entries of several slots one after the other; a number stands for so many that nothing is known of."""

    target: Slot
    parts: list[Slot | int]


@dataclass(eq=False)
class Narrowed:
    """A slot seen along one of its axes."""

    target: Slot
    source: Slot


@dataclass(eq=False)
class Mapped:
    """Entry by entry what `node` computes; `operands` has a slot for each input that varies with the target."""

    target: Slot
    node: NodeProto
    operands: list[Slot | None]


@dataclass(eq=False)
class Mix:
    """A weight that sums what it reads: target = scale * matrix @ reader + bias_scale * bias.

    Attributes:
        view: the weight as [groups, outputs, inputs, rest]; the target's entries go by groups and outputs, the
            reader's by groups and inputs.
        reader: what it reads; None where that can not be removed.
        bias: position of the input that holds a number for each output; None where the operator takes none.
        padded: borders meet fewer inputs, so that of all constants only zero passes.
        recurrent: the target is a state: the sum is not its value.
    """

    node: NodeProto
    weight: str
    view: Callable[[Array], Array]
    reader: Slot | None
    target: Slot
    bias: int | None = None
    scale: float = 1.0
    bias_scale: float = 1.0
    padded: bool = False
    recurrent: bool = False


@dataclass(eq=False)
class Silent:
    """Hidden units of a recurrent layer that stay 0: nothing feeds gate `gate` of so many, and they start at 0."""

    target: Slot
    node: NodeProto
    gates: int
    gate: int
    states: tuple[Slot, ...]


@dataclass(eq=False)
class Filled:
    """One number everywhere."""

    target: Slot
    value: float


@dataclass(eq=False)
class Product:
    """Zero where one of the factors is, whatever the others are."""

    target: Slot
    factors: list[Slot]


Flow = Filled | Product | Moved | Joined | Narrowed | Mapped | Mix | Silent


# What has to be rewritten when places go ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Size:
    """The size of a slot's axis stands in a node: in input `place`, element `index`, or in the attribute `place`."""

    node: NodeProto
    place: int | str
    index: int
    slot: Slot
    axis: int


@dataclass(frozen=True, eq=False)
class SplitSizes:
    """The sizes of a Split's outputs."""

    node: NodeProto
    slots: tuple[Slot, ...]


@dataclass(frozen=True, eq=False)
class Bounds:
    """A Slice from `start` to `stop` of a slot's only axis, entry `index` of the node's bounds."""

    node: NodeProto
    index: int
    slot: Slot
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Indices:
    """Input `position` of a node, a constant, indexes an axis of a slot."""

    node: NodeProto
    position: int
    slot: Slot
    axis: int


Fix = Size | SplitSizes | Bounds | Indices
