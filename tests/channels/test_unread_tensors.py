"""Tensors that nothing reads: they go, with a word, and those that something may read stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from onnxprune_passes import DeadNeurons
from tests.helpers import graph_checks as checks
from tests.helpers.builders import if_branches, info, mlp, model, node, normal, tensor


def test_what_a_quantiser_left_behind_is_not_stored(tmp_path):
    """onnxsim 0.8.1 puts weights beside the originals (findings/onnxsim_quantises_beside_the_originals.sh)."""
    proto = mlp((64, 400, 80))
    clean, held = tmp_path / "clean.onnx", tmp_path / "held.onnx"
    onnx.save(proto, clean)
    proto.graph.initializer.append(tensor("left", normal(64, 400, seed=9)))
    onnx.save(proto, held)
    for path in (clean, held):
        onnxprune.compress(path, path.with_suffix(".small.onnx"))
    sizes = [path.with_suffix(".small.onnx").stat().st_size for path in (clean, held)]
    assert 0 <= sizes[1] - sizes[0] < 100  # the metadata name the pass
    after, change = checks.stripped(proto, DeadNeurons())
    assert change.notes == ["1 tensors that nothing reads are gone"]
    checks.assert_equal_outputs(proto, after)


def test_sparse_ones_and_those_of_branches_go_too():
    proto = if_branches()
    branches = [each.g for each in proto.graph.node[-1].attribute if each.HasField("g")]
    branches[0].initializer.append(tensor("inside", normal(3)))
    sparse = onnx.SparseTensorProto(values=tensor("sparse", normal(2)), indices=tensor("", np.array([0, 5])), dims=[9])
    proto.graph.sparse_initializer.append(sparse)
    after, change = checks.stripped(proto, DeadNeurons())
    assert change.notes == ["2 tensors that nothing reads are gone"]
    assert not after.graph.sparse_initializer
    checks.assert_equal_outputs(proto, after)


@pytest.mark.parametrize("reason", ["an input's default", "an output", "an annotation", "a branch"])
def test_what_something_may_read_stays(reason):
    proto = model([node("Relu", ["x"], ["y"])], [info("x", [4])], [info("y", [4])], {"w": normal(4)})
    if reason == "an input's default":
        proto.graph.input.append(info("w", [4]))
    elif reason == "an output":
        proto.graph.output.append(info("w", [4]))
    elif reason == "an annotation":
        entry = onnx.StringStringEntryProto(key="SCALE_TENSOR", value="w")
        proto.graph.quantization_annotation.append(
            onnx.TensorAnnotation(tensor_name="y", quant_parameter_tensor_names=[entry])
        )
    else:
        inner = [
            helper.make_graph([node("Identity", ["w"], [name])], name, [], [info(name, [4])]) for name in ("a", "b")
        ]
        proto.graph.node.append(node("If", ["c"], ["z"], then_branch=inner[0], else_branch=inner[1]))
        proto.graph.initializer.append(tensor("c", np.array(True)))
        proto.graph.output.append(info("z", [4]))
    after, change = checks.stripped(proto, DeadNeurons())
    assert not change.notes
    assert "w" in {each.name for each in after.graph.initializer}
