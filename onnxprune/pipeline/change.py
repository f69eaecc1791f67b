"""Change: what a pass did to a model, said honestly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.model.weight import Reason

_NAMED = 4  # weights in a note


def some_of(names: Sequence[str]) -> str:
    """The first of some weights, and how many more there are, as a note lists them."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


@dataclass(frozen=True)
class Removed:
    """An axis of a weight that became shorter: `indices` of it, ascending, are gone."""

    name: str
    axis: int
    before: int
    after: int
    indices: list[int]


@dataclass(frozen=True)
class WeightRecord:
    """What a pass says of a weight that it looked at; None is what it does not say.

    Attributes:
        valued: whether the pass set the values (by a rule, by masks): the result lists the weight in any case.
        requested: share of its entries that were asked to be zero.
        zeros: its entries that are zero (the zero point) after the pass.
        threshold: entries of smaller magnitudes were pruned.
        encoding: how it is stored after the pass: dense, coo, flat ...
        bytes_after: what it takes in the file after the pass.
    """

    valued: bool = False
    requested: float | None = None
    zeros: int | None = None
    threshold: float | None = None
    encoding: str | None = None
    bytes_after: int | None = None


@dataclass(frozen=True)
class Encoded:
    """What is known of an encoded weight without decoding it."""

    shape: tuple[int, ...]
    zeros: int


@dataclass
class Change:
    """What a pass did.

    Attributes:
        weights: name -> what it says of a weight that it looked at.
        skipped: name -> why it left a weight alone.
        notes: what a user should know, one sentence each.
        removed: what was cut out of weights.
        encoded: name -> what is known of a weight that it encoded.
        integers: names of the layers that compute with integers since.
        emptied: names of weights of which it left a channel without an entry.
        modified: whether the model differs from before.
    """

    weights: dict[str, WeightRecord] = field(default_factory=dict)
    skipped: dict[str, Reason] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    integers: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    modified: bool = False


def removals(changes: Sequence[Change]) -> list[Removed]:
    """What was cut out of each axis of each weight by all passes, counted in the original axis."""
    left: dict[tuple[str, int], tuple[int, Array]] = {}
    for cut in (cut for change in changes for cut in change.removed):
        size, kept = left.get((cut.name, cut.axis), (cut.before, np.arange(cut.before)))
        left[cut.name, cut.axis] = size, np.delete(kept, cut.indices)
    return [
        Removed(name, axis, size, len(kept), np.delete(np.arange(size), kept).tolist())
        for (name, axis), (size, kept) in left.items()
    ]
