"""Families: the channel groups that layers produce in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.channels.coupling.coupling import Coupling
from onnxprune.core.dtypes import Array


@dataclass(frozen=True)
class Family:
    """Removable channel groups of layers that share some of them: residual branches, attention heads.

    Attributes:
        groups: their numbers in the coupling, ascending.
        weights: the layers' weights.
    """

    groups: Array
    weights: tuple[str, ...]


def families_of(coupling: Coupling) -> list[Family]:
    """Families of two removable groups and more: layers that share a group are in one family."""
    parent: dict[int, int] = {}

    def root(group: int) -> int:
        while parent.setdefault(group, group) != group:
            parent[group] = group = parent[parent[group]]
        return group

    made = [(layer.weight, np.unique(coupling.groups(layer.target))) for layer in coupling.layers]
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
        Family(np.array(groups), tuple(dict.fromkeys(makers[at]))) for at, groups in found.items() if len(groups) > 1
    ]
