"""Families: the channel groups that layers produce in common."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from onnxprune.channels.coupling.coupling import Coupling
from onnxprune.core.dtypes import Array


@dataclass(frozen=True)
class Family:
    """Removable channel groups of layers that share some of them: residual branches, attention heads.

    Attributes:
        groups: their numbers in the coupling, ascending.
        weights: the layers' weights.
        width: how many outputs of a layer go with each group: those of a head; a divisor of all where they differ.
        convolved: whether one of the layers is a convolution.
    """

    groups: Array
    weights: tuple[str, ...]
    width: int
    convolved: bool

    def step(self, multiple: int, convolutions: int) -> int:
        """How many groups go at once for the number of outputs to stay a multiple, of convolutions perhaps a larger."""
        asked = max(multiple, convolutions) if self.convolved else multiple
        return asked // gcd(asked, self.width)


def families_of(coupling: Coupling) -> list[Family]:
    """Families of two removable groups and more: layers that share a group are in one family."""
    parent: dict[int, int] = {}

    def root(group: int) -> int:
        while parent.setdefault(group, group) != group:
            parent[group] = group = parent[parent[group]]
        return group

    made: list[tuple[str, Array]] = []
    convolved = {layer.weight for layer in coupling.layers if layer.node.op_type == "Conv"}
    widths: dict[int, int] = {}
    for layer in coupling.layers:
        groups, outputs = np.unique(coupling.groups(layer.target), return_counts=True)
        made.append((layer.weight, groups))
        for group, width in zip(groups.tolist(), outputs.tolist(), strict=True):
            widths[group] = gcd(widths.get(group, 0), width)
    for _, groups in made:
        for group in groups[1:].tolist():
            parent[root(group)] = root(int(groups[0]))
    found: dict[int, list[int]] = {}
    for group in sorted(parent):
        if not coupling.protected[group]:
            found.setdefault(root(group), []).append(group)
    makers: dict[int, list[str]] = {}
    for weight, groups in made:
        if len(groups):
            makers.setdefault(root(int(groups[0])), []).append(weight)
    return [
        Family(
            np.array(groups),
            tuple(dict.fromkeys(makers[at])),
            gcd(*map(widths.__getitem__, groups)),
            not convolved.isdisjoint(makers[at]),
        )
        for at, groups in found.items()
        if len(groups) > 1
    ]
