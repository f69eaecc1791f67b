"""magnitude in patterns: 2:4, blocks, and weights whose readers disagree."""

import numpy as np
import pytest

from onnxprune_passes import Magnitude
from tests.helpers import builders
from tests.helpers.builders import info, matmul, model, node, normal, smallest
from tests.helpers.running import load, prune
from tests.passes.pruned import values


def check_2_of_4(before: np.ndarray, after: np.ndarray) -> None:
    """Inputs lie along the last axis."""
    groups, kept = before.reshape(-1, 4), after.reshape(-1, 4)
    np.testing.assert_array_equal(kept, np.stack([smallest(g, 2) for g in groups]))


@pytest.mark.parametrize("trans", [0, 1])
def test_2_of_4_for_gemm(trans):
    array = normal(32, 64) if trans else normal(64, 32)
    proto = model(
        [node("Gemm", ["x", "w"], ["y"], transB=trans)], [info("x", ["N", 64])], [info("y", ["N", 32])], {"w": array}
    )
    got = values(prune(proto, pattern="2:4"))
    check_2_of_4(array if trans else array.T, got if trans else got.T)


def test_2_of_4_for_matmul_and_behind_a_transpose():
    array = normal(64, 32)
    check_2_of_4(array.T, values(prune(matmul(array), pattern="2:4")).T)
    before = load(builders.behind())
    check_2_of_4(values(before), values(prune(builders.behind(), pattern="2:4")))


def test_2_of_4_for_conv():
    proto = builders.conv_net()
    array = values(load(proto), "c1")
    got = values(prune(proto, pattern="2:4"), "c1")
    check_2_of_4(array.transpose(0, 2, 3, 1), got.transpose(0, 2, 3, 1))


def test_blocks_of_one_output_by_four_inputs():
    array = normal(64, 32)
    got = values(prune(matmul(array), pattern="1x4", sparsity=0.75)).T.reshape(-1, 4)
    blocks = array.T.reshape(-1, 4)
    gone = np.zeros(512, bool)
    gone[np.argsort(np.abs(blocks).mean(axis=1), kind="stable")[:384]] = True
    np.testing.assert_array_equal(got, np.where(gone[:, None], 0, blocks))


def test_a_pattern_leaves_a_weight_alone_whose_readers_disagree():
    opened = load(builders.shared())
    assert Magnitude(pattern="2:4").run(opened).modified  # both read [in, out]
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Gemm", ["h", "w"], ["y"], transB=1)]
    proto = model(nodes, [info("x", ["N", 48])], [info("y", ["N", 48])], {"w": normal(48, 48)})
    opened = load(proto)
    change = Magnitude(pattern="2:4").run(opened)
    assert "disagree" in change.skipped["w"].text
    assert not change.modified
