"""dead_neurons on graphs that have one difficulty each: what goes, and what is said of it."""

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune_passes import DeadNeurons
from tests.channels.dead_channels import check, image, layers, untouched
from tests.helpers import graph_checks as checks
from tests.helpers.builders import conv_net, info, mlp, model, node, normal, tensor
from tests.helpers.running import feeds_of, load


def test_the_record_names_what_went():
    _, change = check(layers(), a=(6, 6), b=(6, 3))
    assert [(r.name, r.axis, r.before, r.after, list(r.indices)) for r in change.removed] == [
        ("a", 1, 8, 6, [2, 5]),
        ("b", 0, 8, 6, [2, 5]),
    ]
    assert change.modified


def test_a_damaged_matrix_of_one_axis_is_left_alone():
    proto = mlp((16, 40, 10))
    weight = next(t for t in proto.graph.initializer if t.name == "fc0.weight")
    del weight.dims[:]
    weight.dims.append(640)
    assert not DeadNeurons().run(load(proto)).removed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_element_types(dtype):
    check(layers(dtype=dtype), 1e-2 if dtype == np.float16 else 1e-5, a=(6, 6), b=(6, 3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_constant_goes_into_a_bias_that_was_not_there(dtype):
    proto = layers(node("Sigmoid", ["h"], ["k"]), dtype=dtype)
    a, b = (next(t for t in proto.graph.initializer if t.name == n) for n in "ab")
    zeroed = normal(6, 8)
    zeroed[:, 1] = 0
    a.CopyFrom(tensor("a", zeroed.astype(dtype)))
    b.CopyFrom(tensor("b", normal(8, 3, seed=1).astype(dtype)))
    check(proto, 1e-2 if dtype == np.float16 else 1e-5, a=(6, 7), b=(7, 3))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_layer_that_is_dead_altogether_keeps_a_channel(axis):
    proto = layers(node("Softplus", ["h"], ["k"]))
    name, shape = ("ab"[axis], (6, 8) if axis == 0 else (8, 3))
    next(t for t in proto.graph.initializer if t.name == name).CopyFrom(tensor(name, np.zeros(shape, np.float32)))
    after, _ = check(proto)
    assert all(min(shape) >= 1 for shape in checks.shapes(after).values())
    assert checks.shapes(after)["a"][1] == 1


def test_it_goes_on_until_nothing_is_dead():
    """Only dead units read unit 1 of the first layer; only it reads ..."""
    proto = mlp((4, 5, 5, 5, 3))
    held = {t.name: t for t in proto.graph.initializer}
    w1, w2, w3 = (onnx.numpy_helper.to_array(held[f"fc{i}.weight"]).copy() for i in (1, 2, 3))
    w3[:, 4] = 0
    w2[:4, 3] = 0
    w1[[0, 1, 2, 4], 1] = 0
    for name, array in (("fc1.weight", w1), ("fc2.weight", w2), ("fc3.weight", w3)):
        held[name].CopyFrom(tensor(name, array))
    check(proto, **{"fc0.weight": (4, 4), "fc1.weight": (4, 4), "fc2.weight": (4, 4), "fc3.weight": (3, 4)})


@pytest.mark.parametrize("ways", ["one", "both"])
def test_a_unit_of_a_recurrent_layer_goes_in_both_directions_or_not_at_all(ways):
    w, r, fc = normal(2, 20, 4), normal(2, 20, 5, seed=1), normal(10, 3, seed=2)
    for way in range(2 if ways == "both" else 1):
        r[way, :, 3] = 0
        fc[5 * way + 3] = 0
    nodes = [
        node("LSTM", ["x", "w", "r"], ["all", "last"], hidden_size=5, direction="bidirectional"),
        node("Transpose", ["last"], ["t"], perm=[1, 0, 2]),
        node("Reshape", ["t", "shape"], ["f"]),
        node("MatMul", ["f", "fc"], ["y"]),
    ]
    weights = {"w": w, "r": r, "fc": fc, "shape": np.array([-1, 10], np.int64)}
    proto = model(nodes, [info("x", [7, "N", 4])], [info("y", ["N", 3])], weights)
    if ways == "one":
        untouched(proto)
    else:
        check(proto, w=(2, 16, 4), r=(2, 16, 4), fc=(8, 3))


def test_convolutions_of_one_and_three_dimensions():
    for rank in (1, 3):
        w, v = normal(5, 3, *[3] * rank), normal(2, 5, *[3] * rank, seed=1)
        w[1] = 0
        v[:, 3] = 0
        nodes = [node("Conv", ["x", "w"], ["h"], pads=[1] * 2 * rank), node("Conv", ["h", "v"], ["y"])]
        inputs, outputs = [info("x", ["N", 3, *[5] * rank])], [info("y", ["N", 2, *[3] * rank])]
        check(model(nodes, inputs, outputs, {"w": w, "v": v}), w=(3, 3, *[3] * rank), v=(2, 3, *[3] * rank))


def test_a_model_without_dead_neurons():
    for proto in (conv_net(), mlp()):
        assert feeds_of(proto)
        untouched(proto)


@pytest.mark.parametrize(("multiple", "kept"), [(1, 5), (2, 6), (4, 8), (8, 8), (3, 6), (16, 8)])
def test_dead_channels_stay_up_to_a_multiple(multiple, kept):
    proto = layers()
    read = np.where(np.arange(8)[:, None] < 5, normal(8, 3), 0)
    proto.graph.initializer[1].CopyFrom(tensor("b", read.astype(np.float32)))
    after, _ = checks.stripped(proto, DeadNeurons(multiple=multiple))
    assert checks.shapes(after) == {"a": (6, kept), "b": (kept, 3)}
    checks.assert_equal_outputs(proto, after)
    assert not checks.stripped(after, DeadNeurons(multiple=multiple))[1].modified


def test_dead_channels_of_convolutions_stay_up_to_a_multiple_of_their_own():
    a, b = normal(8, 3, 1, 1), normal(6, 8, 1, 1, seed=1)
    b[:, 5:] = 0
    proto = image(node("Conv", ["x", "a"], ["h"]), node("Conv", ["h", "b"], ["y"]), weights={"a": a, "b": b}, out=6)
    for rule, kept in (({}, 5), ({"convolutions": 4}, 8), ({"convolutions": 2}, 6), ({"multiple": 6}, 6)):
        after, _ = checks.stripped(proto, DeadNeurons(**rule))
        assert checks.shapes(after)["a"] == (kept, 3, 1, 1)
        checks.assert_equal_outputs(proto, after)
    assert checks.shapes(checks.stripped(layers(), DeadNeurons(convolutions=4))[0]) == {"a": (6, 6), "b": (6, 3)}


def test_what_both_passes_remark_is_said_once(tmp_path):
    unknown = node("Einsum", ["h"], ["k"], equation="ij->ij")
    (tmp_path / "m.onnx").write_bytes(layers(unknown).SerializeToString())
    notes = onnxprune.strip(tmp_path / "m.onnx", tmp_path / "o.onnx", channels=0.5).notes
    assert sum("Einsum" in note for note in notes) == 1
    assert len(set(notes)) == len(notes)


def test_a_multiple_in_a_later_layer_brings_back_nothing_before_it():
    """The neurons that stay for it are read by nobody: what they alone read goes all the same."""
    proto = mlp((24, 40, 30, 8))
    _, second, third = (t for t in proto.graph.initializer if t.name.endswith("weight"))
    read, own = normal(8, 30), normal(30, 40, seed=1)
    read[:, 20:] = 0  # ten neurons of the second layer that nobody reads
    own[:20, 17:] = 0  # what only those read of the first one
    for tensor_of, array in ((second, own), (third, read)):
        tensor_of.CopyFrom(onnx.numpy_helper.from_array(array, tensor_of.name))
    after, _ = checks.stripped(proto, DeadNeurons(multiple=8))
    shapes = [tuple(t.dims) for t in after.graph.initializer if t.name.endswith("weight")]
    assert shapes == [(24, 24), (24, 24), (8, 24)]
    assert not checks.stripped(after, DeadNeurons(multiple=8))[1].modified
