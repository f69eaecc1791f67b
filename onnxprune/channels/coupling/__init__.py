"""Which slices of which tensors live and die together.

Every constant has one *atom* for each index of each of its axes. Walking the graph, the rules of
`table.py` carry atoms from the constants to the values that are computed from them (the outputs
of a Conv are the atoms of its weight's first axis), and unite atoms wherever two slices must go
together (the channels that a Conv reads and its weight's second axis; both sides of an Add). What
is united is a *group*. Whatever no rule answers for is pinned: it can never be removed.

An axis of a value that has no slot is one along which nothing can be removed.
"""

from __future__ import annotations

from onnxprune.channels.coupling.coupling import Coupling, couplings
from onnxprune.channels.coupling.families import Family, families_of
from onnxprune.channels.coupling.slots import Slot

__all__ = ["Coupling", "Family", "Slot", "couplings", "families_of"]
