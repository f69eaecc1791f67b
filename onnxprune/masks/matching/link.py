"""Link: which part of a framework's parameter lies where in an ONNX weight. numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pruning:
    """What pruned a parameter: the rule, the share that was asked for, and the magnitude below which entries went."""

    rule: str | None = None
    requested: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Parameter:
    """A framework's parameter and the ONNX weights that it fills; `pruning` is None where it has no mask."""

    shape: Shape
    links: tuple[Link, ...]
    aliases: tuple[str, ...] = ()
    pruning: Pruning | None = None


Array = np.ndarray
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """`start` to `stop` along one axis, and everything along the others."""

    axis: int
    start: int
    stop: int

    def of(self, array: Array) -> Array:
        """The part of the array, as a view."""
        return array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]

    def shape(self, whole: Shape) -> Shape:
        """The shape of that part.

        Raises:
            ValueError: the span does not lie within the shape.
        """
        if not (0 <= self.axis < len(whole) and 0 <= self.start < self.stop <= whole[self.axis]):
            raise ValueError(f"a span {self.start}:{self.stop} along axis {self.axis} of {list(whole)}")
        return (*whole[: self.axis], self.stop - self.start, *whole[self.axis + 1 :])


@dataclass(frozen=True)
class Fold:
    """A batch norm that the exporter folded: names in the checkpoint, gamma, beta and bias None where there is none.

    With scale = gamma / sqrt(variance + epsilon) the weight is the parameter times the scale along `axis` (of the
    weight); without an axis it is the layer's new bias, (bias - mean) * scale + beta.
    """

    variance: str
    mean: str
    epsilon: float
    gamma: str | None = None
    beta: str | None = None
    bias: str | None = None
    axis: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it reads."""
        return tuple(n for n in (self.variance, self.mean, self.gamma, self.beta, self.bias) if n is not None)

    def scale(self, parameters: Mapping[str, Array]) -> Array:
        """What each output channel is multiplied by, float64 [channels]."""
        gamma = 1.0 if self.gamma is None else parameters[self.gamma].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # a variance below zero: who uses the result says so
            return gamma / np.sqrt(parameters[self.variance].astype(np.float64) + self.epsilon)

    def applied(self, weight: Array, parameters: Mapping[str, Array]) -> Array:
        """The folded weight or bias, float64."""
        scale = self.scale(parameters)
        if self.axis is not None:
            return weight.astype(np.float64) * scale.reshape([-1 if a == self.axis else 1 for a in range(weight.ndim)])
        bias = 0.0 if self.bias is None else parameters[self.bias].astype(np.float64)
        beta = 0.0 if self.beta is None else parameters[self.beta].astype(np.float64)
        return (bias - parameters[self.mean].astype(np.float64)) * scale + beta


@dataclass(frozen=True)
class Link:
    """weight[into] = parameter[of].reshape(view).transpose(order), folded, in the shape of that part of the weight.

    Attributes:
        weight: the ONNX name.
        of, into: the parts of the parameter and of the weight; None for all of it.
        view: the shape in which the parameter's axes are permuted; None for its own.
        order: the permutation; empty for none.
    """

    weight: str
    of: Span | None = None
    into: Span | None = None
    view: Shape | None = None
    order: tuple[int, ...] = ()
    fold: Fold | None = None

    @property
    def transform(self) -> str:
        """In a few words, for people: identity, or slice, reshape, transpose and fold as they apply."""
        words = {"slice": self.of or self.into, "reshape": self.view, "transpose": self.order, "fold": self.fold}
        return "+".join(word for word, applies in words.items() if applies) or "identity"

    def check(self, parameter: Shape, weight: Shape) -> None:
        """Refuse what does not fit the two shapes.

        Raises:
            ValueError: saying what.
        """
        source = self.of.shape(parameter) if self.of else parameter
        target = self.into.shape(weight) if self.into else weight
        view = source if self.view is None else self.view
        if math.prod(view) != math.prod(source) or math.prod(source) != math.prod(target):
            raise ValueError(f"{list(source)} seen as {list(view)} for {list(target)}")
        if self.order and sorted(self.order) != list(range(len(view))):
            raise ValueError(f"the order {list(self.order)} of {len(view)} axes")
        if self.fold is not None and (self.of or self.into):
            raise ValueError("a fold of a part")
        if self.fold is not None and self.fold.axis is not None and not 0 <= self.fold.axis < len(weight):
            raise ValueError(f"a fold along axis {self.fold.axis} of {list(weight)}")

    def to_weight(self, parameter: Array, weight: Shape) -> Array:
        """The part of the weight of that shape which the parameter fills, without the fold."""
        part = self.of.of(parameter) if self.of else parameter
        part = part if self.view is None else part.reshape(self.view)
        part = part.transpose(self.order) if self.order else part
        return part.reshape(self.into.shape(weight) if self.into else weight)

    def to_parameter(self, weight: Array, parameter: Shape) -> Array:
        """The part of the parameter of that shape which the weight fills: the way back of `to_weight`."""
        part = self.into.of(weight) if self.into else weight
        source = self.of.shape(parameter) if self.of else parameter
        view = source if self.view is None else self.view
        if self.order:
            part = part.reshape([view[a] for a in self.order]).transpose(np.argsort(self.order))
        return part.reshape(source)
