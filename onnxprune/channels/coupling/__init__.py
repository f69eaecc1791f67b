"""Structural coupling: which channels have to be removed together.

Removing an output channel of a convolution shortens an axis of its weight, of its bias, and of everything that is
computed from it: the next layer's weight loses an input, the other side of an Add loses a channel too. Three steps find
these groups in a graph (compare DepGraph, Fang et al. 2023):

1.  Every index along every axis of every constant gets a number, its *channel index*.
2.  The graph is walked in order. A rule for each operator (`rules.py`) says which channel indices the outputs have: the
    outputs of a Conv have those of the first axis of its weight. It also joins channel indices that must go together:
    the channels that a Conv reads and the second axis of its weight, both sides of an Add.
3.  What is joined is a *channel group*; groups are the connected components.

A channel group is *protected*, which means it is never removed, if it touches an input or output of the graph, or an
operator without a rule. A `RemovableAxis` names the channel indices along an axis of a value; an axis without one
cannot become shorter. A `Family` is the set of groups that layers produce in common.
"""

from __future__ import annotations

from onnxprune.channels.coupling.coupling import Coupling, couplings
from onnxprune.channels.coupling.families import Family, families_of
from onnxprune.channels.coupling.removable_axes import RemovableAxis

__all__ = ["Coupling", "Family", "RemovableAxis", "couplings", "families_of"]
