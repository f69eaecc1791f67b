"""Constants and sizes that any number of nodes compute, on ways that part and meet."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnxprune.channels.coupling.constants import Constants
from onnxprune.model.scopes import scopes_of
from tests.channels.dead_channels import check, layers
from tests.helpers.builders import matmul, node
from tests.helpers.deep import LEVELS, chain, joined
from tests.helpers.running import load


def values(nodes, name: str) -> np.ndarray:
    proto = matmul(np.ones((64, 32), np.float32))
    proto.graph.node.extend(nodes)
    opened = load(proto)
    return Constants(opened, scopes_of(opened.proto)[0]).array(name)


def test_constants_are_computed_once_however_many_nodes_lead_to_them():
    names = [*(f"s{n}" for n in range(LEVELS)), "s"]
    branching = [
        made
        for read, added in pairwise(names)
        for made in (node("Relu", [read], [f"{added}r"]), node("Add", [f"{added}r", read], [added]))
    ]
    assert (values([node("Identity", ["w"], ["s0"]), *branching], "s") == 2.0**LEVELS).all()
    assert (values(chain("Relu", "w", "c"), "c") == 1).all()


def test_sizes_are_followed_once_on_all_ways():
    ends = {"zero": np.array([0]), "rank": np.array([2])}
    between = [node("Shape", ["h"], ["size"]), *joined("size", "shape", "zero", "rank", levels=28)]
    check(layers(*between, node("Reshape", ["h", "shape"], ["k"]), weights=ends), a=(6, 6), b=(6, 3))
