"""RuleContext: a node as its coupling rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxprune.channels.coupling.builder import CouplingBuilder
from onnxprune.channels.coupling.removable_axes import Moved, RemovableAxis, Rewrite, Size
from onnxprune.channels.shapes import ConstantEntry, Shape, SizeOf
from onnxprune.core.dtypes import Array
from onnxprune.model.operators import attribute


@dataclass
class RuleContext:
    """One node: a rule takes the removable axes of its inputs and emits those of its outputs.

    Axes of inputs that the rule does not take are protected.
    """

    builder: CouplingBuilder
    node: NodeProto
    taken: set[int] = field(default_factory=set)

    def name(self, position: int) -> str:
        """The input's name, or "" where it is left out."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def shape(self, position: int) -> Shape:
        """The input's shape.

        Raises:
            Unsupported: its rank is unknown.
        """
        return self._shape(self.name(position))

    def out_shape(self, position: int = 0) -> Shape:
        """The output's shape.

        Raises:
            Unsupported: its rank is unknown.
        """
        return self._shape(self.node.output[position])

    def _shape(self, name: str) -> Shape:
        shape = self.builder.shapes.shape(name)
        if shape is None:
            raise Unsupported
        return shape

    def shaped_like(self, position: int) -> None:
        """Give the first output the shape of an input: ONNX does not know that of other domains' operators."""
        name, value = self.node.output[0], self.builder.shapes.values.get(self.name(position))
        if self.builder.shapes.shape(name) is None and value is not None:
            self.builder.shapes.values[name] = value

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return attribute(self.node, name, default)

    def numbers(self, position: int) -> list[int] | None:
        """The whole numbers of a constant input."""
        return self.builder.shapes.numbers(self.name(position))

    def constant(self, position: int) -> bool:
        """Whether the input is a constant, or computed from constants alone."""
        name = self.name(position)
        return bool(name) and (name in self.builder.constants or self.builder.constant(name) is not None)

    @property
    def opset(self) -> int:
        """The version of the default domain."""
        return self.builder.model.opset

    # inputs ----------------------------------------------------------------------------------------------------------

    def take(self, position: int) -> list[RemovableAxis]:
        """All removable axes of an input."""
        removables = self.builder.axes_of_value(self.name(position))
        self.taken |= {id(removable) for removable in removables}
        return removables

    def take_axis(self, position: int, axis: int) -> RemovableAxis | None:
        """The removable axis at one axis of an input, narrowed to it."""
        axis %= len(self.shape(position))
        found = next((r for r in self.builder.axes_of_value(self.name(position)) if axis in r.axes), None)
        if found is None:
            return None
        self.taken.add(id(found))
        return self.builder.narrowed(found, axis)

    def release(self, *removables: RemovableAxis) -> None:
        """Undo `take`: these axes are protected after all."""
        self.taken -= {id(removable) for removable in removables}

    # outputs ---------------------------------------------------------------------------------------------------------

    def emit(self, axes: Iterable[int], channels: Array, output: int = 0) -> RemovableAxis:
        """A removable axis of an output; nobody reads it where the output is left out."""
        name = self.node.output[output]
        removable = RemovableAxis(name, tuple(axes), channels)
        if name:
            self.builder.removable_axes.setdefault(name, []).append(removable)
        return removable

    def propagate(
        self,
        removable: RemovableAxis,
        axes: Iterable[int],
        output: int = 0,
        *,
        index: Array | None = None,
        zero_only: bool = False,
        known: bool = True,
    ) -> RemovableAxis:
        """Emit the channel indices of an input's axis at axes of an output.

        Args:
            removable: the input's axis.
            axes: where it lies in the output.
            output: position of the output.
            index: which entries of the flattened `removable`, in the shape of `axes`; None for all in their order.
            zero_only: the operator passes zeros on, but no other constants.
            known: whether constants pass at all.
        """
        channels = removable.channels if index is None else removable.channels.reshape(-1)[index]
        target = self.emit(axes, channels, output)
        if known:
            self.builder.flows.append(Moved(target, removable, index, zero_only))
        return target

    def permute(self, removable: RemovableAxis, places: Sequence[int], *, zero_only: bool = False) -> None:
        """As `propagate`, with the input's axes at these places of the output, in any order."""
        index = np.arange(removable.channels.size).reshape(removable.channels.shape).transpose(np.argsort(places))
        self.propagate(removable, sorted(places), index=index, zero_only=zero_only)

    # sizes -----------------------------------------------------------------------------------------------------------

    def rewrite(self, rewrite: Rewrite) -> None:
        """Note a number that changes when indices are removed."""
        self.builder.rewrites.append(rewrite)

    def bind_size(
        self, position: int, index: int, removable: RemovableAxis | None, axis: int, *, copies: bool = False
    ) -> None:
        """Bind an element of a shape input to the length of an axis of the output.

        Args:
            position: the input that holds the shape.
            index: the element.
            removable: the output's removable axis there, if any.
            axis: the axis.
            copies: whether a 0 stands for the size of the same axis of input 0 (Reshape).
        """
        found = self.builder.shapes.sources(self.node, position)
        source = found[index] if found is not None and index < len(found) else None
        if copies and isinstance(source, ConstantEntry) and source.number == 0:
            source = SizeOf(self.name(0), index)
        if isinstance(source, SizeOf):
            other = next((r for r in self.builder.axes_of_value(source.value) if source.axis in r.axes), None)
            if removable is not None and other is not None:
                self.builder.equal_sizes.append((removable, axis, other, source.axis))
            else:
                self.builder.protect(r for r in (removable, other) if r is not None)
        elif isinstance(source, ConstantEntry):
            entry, elsewhere = source, source.node is not self.node
            if removable is None or (
                elsewhere and not self.builder.shapes.only_sizes(source.node, lambda other: other == entry)
            ):
                self.builder.fixed_sizes.add(source.key)
            if removable is not None and source.number > 0:
                self.rewrite(Size(source.node, source.position, source.index, removable, axis))
        elif removable is not None:
            self.builder.protect([removable])


class Unsupported(Exception):
    """A rule does not cover this node, or the graph does not say what it needs: what the node touches is protected.

    Its text completes the name of the operator.
    """

    def __init__(self, why: str = "of unknown shape") -> None:
        super().__init__(why)


Rule = Callable[[RuleContext], None]


def numbers(ctx: RuleContext, position: int, name: str = "") -> list[int]:
    """Whole numbers: an attribute in old opsets, a constant input in new ones.

    Raises:
        Unsupported: they are computed at run time.
    """
    given = ctx.attr(name) if name else None
    if given is None:
        given = ctx.numbers(position)
    if given is None:
        raise Unsupported
    return list(given)


def axes_of(ctx: RuleContext, position: int, rank: int) -> list[int] | None:
    """The attribute or the input `axes`, counted from 0; None where neither is given.

    Raises:
        Unsupported: they are computed at run time.
    """
    if ctx.attr("axes") is None and not ctx.name(position):
        return None
    return [a % rank for a in numbers(ctx, position, "axes")]
