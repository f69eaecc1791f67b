"""Families: the channel groups that layers produce in common."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from onnxprune.channels.coupling.coupling import Coupling
from onnxprune.channels.coupling.removable_axes import LinearLayer
from onnxprune.core.dtypes import Array


@dataclass(frozen=True)
class Family:
    """Removable channel groups of layers that share some of them: residual branches, attention heads.

    Attributes:
        groups: their numbers in the coupling, ascending.
        layers: those that make them.
        width: how many outputs of a layer go with each group: those of a head; a divisor of all where they differ.
    """

    groups: Array
    layers: tuple[LinearLayer, ...]
    width: int

    @property
    def weights(self) -> tuple[str, ...]:
        """The layers' weights."""
        return tuple(dict.fromkeys(layer.weight for layer in self.layers))

    def step(self, multiple: int, convolutions: int) -> int:
        """How many groups go at once for the number of outputs to stay a multiple, see `LinearLayer.block`."""
        asked = max(layer.block(multiple, convolutions) for layer in self.layers)
        return asked // gcd(asked, self.width)


def families_of(coupling: Coupling) -> list[Family]:
    """Families of two removable groups and more: layers that share a group are in one family."""
    parent: dict[int, int] = {}

    def root(group: int) -> int:
        while parent.setdefault(group, group) != group:
            parent[group] = group = parent[parent[group]]
        return group

    made: list[tuple[LinearLayer, Array]] = []
    widths: dict[int, int] = {}
    for layer in coupling.layers:
        groups, outputs = np.unique(coupling.groups(layer.target), return_counts=True)
        made.append((layer, groups))
        for group, width in zip(groups.tolist(), outputs.tolist(), strict=True):
            widths[group] = gcd(widths.get(group, 0), width)
    for _, groups in made:
        for group in groups[1:].tolist():
            parent[root(group)] = root(int(groups[0]))
    found: dict[int, list[int]] = {}
    for group in sorted(parent):
        if not coupling.protected[group]:
            found.setdefault(root(group), []).append(group)
    makers: dict[int, list[LinearLayer]] = {}
    for layer, groups in made:
        if len(groups):
            makers.setdefault(root(int(groups[0])), []).append(layer)
    return [
        Family(
            np.array(groups),
            tuple(makers[at]),
            gcd(*map(widths.__getitem__, groups)),
        )
        for at, groups in found.items()
        if len(groups) > 1
    ]
