"""The parts of a coupling: removable axes, how constant values flow between them, which sizes to rewrite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import NodeProto

from onnxprune.core.dtypes import Array


@dataclass(eq=False)
class RemovableAxis:
    """An axis of a value from which indices can be removed, or several that a Reshape made of one.

    Attributes:
        value: the value's name; "" for an intermediate one that the graph does not name.
        axes: the axes, ascending.
        channels: the channel index of each entry, one dimension for each of `axes`.
    """

    value: str
    axes: tuple[int, ...]
    channels: Array


# Flows: how constants propagate to a target from other removable axes; a graph lists them in its own order ----------


@dataclass(eq=False)
class Moved:
    """The same numbers at other indices: entry k of the target is entry `index[k]` of the flattened source.

    Attributes:
        index: None for the same order.
        zero_only: holds for zeros only, not for other constants (padding, sums).
    """

    target: RemovableAxis
    source: RemovableAxis
    index: Array | None = None
    zero_only: bool = False


@dataclass(eq=False)
class Concatenated:
    """The entries of several axes one after the other; a number stands for that many entries of unknown value."""

    target: RemovableAxis
    parts: list[RemovableAxis | int]


@dataclass(eq=False)
class Narrowed:
    """The view of `source` along one of its axes."""

    target: RemovableAxis
    source: RemovableAxis


@dataclass(eq=False)
class Mapped:
    """Elementwise: what `node` computes; `operands` has an axis for each input that varies along the target's."""

    target: RemovableAxis
    node: NodeProto
    operands: list[RemovableAxis | None]


@dataclass(eq=False)
class LinearLayer:
    """A weighted sum: target = scale * weight @ source + bias_scale * bias.

    Attributes:
        node: the Conv, Gemm, MatMul, LSTM ...
        weight: the name of the weight.
        view: the weight as [groups, outputs, inputs, rest]; the target's entries are [groups, outputs], flattened,
            the source's [groups, inputs].
        source: the axis that is summed over; None where it cannot be removed.
        target: the axis of the outputs.
        bias: position of the input that holds a number for each output; None where the operator takes none.
        padded: windows at the border see fewer inputs, so that zero is the only constant that stays one.
        recurrent: the target is a state, and the sum is not its value.
    """

    node: NodeProto
    weight: str
    view: Callable[[Array], Array]
    source: RemovableAxis | None
    target: RemovableAxis
    bias: int | None = None
    scale: float = 1.0
    bias_scale: float = 1.0
    padded: bool = False
    recurrent: bool = False

    def block(self, multiple: int, convolutions: int) -> int:
        """What the number of outputs that stay is a multiple of; `convolutions` counts for these where it is more."""
        return max(multiple, convolutions) if self.node.op_type == "Conv" else multiple


@dataclass(eq=False)
class ZeroState:
    """Hidden units of a recurrent layer that stay 0: they start at 0, and gate `gate` of `gates` has no input."""

    target: RemovableAxis
    node: NodeProto
    gates: int
    gate: int
    states: tuple[RemovableAxis, ...]


@dataclass(eq=False)
class Filled:
    """One number everywhere."""

    target: RemovableAxis
    value: float


@dataclass(eq=False)
class Product:
    """Zero wherever one of the factors is zero."""

    target: RemovableAxis
    factors: list[RemovableAxis]


Flow = Filled | Product | Moved | Concatenated | Narrowed | Mapped | LinearLayer | ZeroState


# Rewrites: numbers in the graph that depend on the length of a removable axis ---------------------------------------


@dataclass(frozen=True, eq=False)
class Size:
    """The length of an axis, written in a node: in input `place`, element `index`, or in the attribute `place`."""

    node: NodeProto
    place: int | str
    index: int
    removable: RemovableAxis
    axis: int


@dataclass(frozen=True, eq=False)
class SplitSizes:
    """The sizes of a Split's outputs."""

    node: NodeProto
    removables: tuple[RemovableAxis, ...]


@dataclass(frozen=True, eq=False)
class SliceBounds:
    """A Slice from `start` to `stop` of an axis, element `index` of the node's bounds."""

    node: NodeProto
    index: int
    removable: RemovableAxis
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class GatherIndices:
    """Input `position` of a node, a constant, holds indices into an axis."""

    node: NodeProto
    position: int
    removable: RemovableAxis
    axis: int


Rewrite = Size | SplitSizes | SliceBounds | GatherIndices
