"""magnitude: exact counts, thresholds, and which weights are pruned."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from onnxprune.errors import WeightError
from onnxprune.model.discovery import find
from onnxprune_passes import Magnitude
from tests.helpers import builders
from tests.helpers.builders import info, matmul, mlp, model, node, normal, smallest
from tests.helpers.running import load, outputs, prune, serialise
from tests.passes.pruned import values, weights, zeros

MLP = mlp((32, 64, 16))

# exact counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.5, 0.9, 0.999])
def test_layer_scope_prunes_exactly_the_share_of_each_weight(case, sparsity):
    proto, names = case
    before = load(proto)
    had = zeros(before)
    opened = load(proto)
    change = Magnitude(sparsity=sparsity).run(opened)
    assert set(change.weights) == names
    assert set(change.skipped) == {w.name for w in find(before)} - names
    for name, weight in weights(opened).items():
        wanted = max(round(sparsity * weight.size), had[name]) if name in names else had[name]
        assert weight.zeros(weight.array(opened)) == wanted, name
        if name in names:
            record = change.weights[name]
            assert (record.requested, record.zeros) == (sparsity, wanted)
    outputs(serialise(opened))


def test_zero_sparsity_changes_nothing(case):
    proto, _ = case
    opened = load(proto)
    assert not Magnitude(sparsity=0.0).run(opened).modified
    assert opened.proto == proto


@given(st.floats(0, 0.999), st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]))
def test_equal_values_lose_their_lowest_indices(sparsity, dtype):
    opened = prune(matmul(np.full((64, 32), -2, dtype)), sparsity=sparsity)
    count = round(sparsity * 2048)
    np.testing.assert_array_equal(values(opened).reshape(-1) == 0, np.arange(2048) < count)


@given(st.floats(0, 0.999), st.integers(1, 4))
def test_the_smallest_go_ties_by_index(sparsity, levels):
    array = np.random.default_rng(levels).integers(-levels, levels + 1, (64, 32)).astype(np.float32)
    opened = prune(matmul(array), sparsity=sparsity)
    np.testing.assert_array_equal(values(opened), smallest(array, round(sparsity * 2048)))


@given(st.floats(0, 0.999), st.integers(1, 4))
def test_global_scope_cuts_all_weights_as_one(sparsity, levels):
    """Ties run on from one weight to the next, in the order of the model."""
    rng = np.random.default_rng(levels)
    first, second = (rng.integers(-levels, levels + 1, s).astype(np.float32) for s in ((32, 64), (64, 16)))
    opened = prune(two(first, second), sparsity=sparsity, scope="global")
    whole = np.concatenate([first.reshape(-1), second.reshape(-1)])
    got = np.concatenate([values(opened, n).reshape(-1) for n in ("a", "b")])
    np.testing.assert_array_equal(got, smallest(whole, round(sparsity * whole.size)))


def two(first, second):
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    return model(nodes, [info("x", ["N", 32])], [info("y", ["N", 16])], {"a": first, "b": second})


def test_global_scope_compares_types_by_value():
    first = normal(64, 64).astype(np.float16)
    nodes = [
        node("Cast", ["a"], ["a64"], to=TensorProto.DOUBLE),
        node("MatMul", ["x", "a64"], ["h"]),
        node("MatMul", ["h", "b"], ["y"]),
    ]
    double = TensorProto.DOUBLE
    second = normal(64, 16, seed=1, dtype=np.float64)
    proto = model(nodes, [info("x", ["N", 64], double)], [info("y", ["N", 16], double)], {"a": first, "b": second})
    opened = prune(proto, sparsity=0.7, scope="global")
    whole = np.concatenate([first.reshape(-1).astype(np.float64), second.reshape(-1)])
    got = np.concatenate([values(opened, n).reshape(-1).astype(np.float64) for n in ("a", "b")])
    np.testing.assert_array_equal(got, smallest(whole, round(0.7 * whole.size)))


def test_channel_scope_prunes_each_output_alike():
    array = normal(64, 32) * np.arange(1, 33, dtype=np.float32)  # MatMul: outputs are columns
    opened = prune(matmul(array), sparsity=0.3, scope="channel")
    np.testing.assert_array_equal((values(opened) == 0).sum(axis=0), round(0.3 * 64))
    opened = prune(builders.conv_net(), sparsity=0.3, scope="channel")
    np.testing.assert_array_equal((values(opened, "c1") == 0).sum(axis=(1, 2, 3)), round(0.3 * 144))


def test_quality_is_the_papers_rule():
    array = normal(64, 32) + np.float32(0.5)
    got = values(prune(matmul(array), quality=0.8))
    np.testing.assert_array_equal(got, np.where(np.abs(array) < 0.8 * array.astype(np.float64).std(), 0, array))


def test_threshold_is_strict():
    array = np.resize(np.float32([0.5, -0.25, 0.1, -0.75]), (64, 32))
    got = values(prune(matmul(array), threshold=0.25))
    np.testing.assert_array_equal(got, np.where(array == np.float32(0.1), 0, array))


# which weights --------------------------------------------------------------------------------------


def test_set_and_skip():
    opened = prune(MLP, sparsity=0.5, set=("fc*=0.7", "fc1.weight=0.25"))
    assert zeros(opened) == {"fc0.weight": 1434, "fc0.bias": 0, "fc1.weight": 256, "fc1.bias": 0}
    opened = prune(MLP, set=("fc0.*=0.5",))
    assert zeros(opened)["fc0.weight"] == 1024
    assert zeros(opened)["fc1.weight"] == 0
    opened = prune(MLP, sparsity=0.5, skip=("fc0*",))
    assert zeros(opened)["fc0.weight"] == 0
    assert zeros(opened)["fc1.weight"] == 512


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_include_prunes_biases_with_the_others(scope):
    opened = prune(left_alone(), sparsity=0.5, scope=scope, include=("b*",))
    found = zeros(opened)
    assert found["bias"] == 150 if scope == "layer" else 0 < found["bias"] < 300
    assert found["bias"] + found["w"] == (300 + 300 * 300) // 2
    assert found["shift"] == found["table"] == 0
    assert zeros(prune(left_alone(), sparsity=0.5, include=("b*",), skip=("bias",)))["bias"] == 0


@pytest.mark.parametrize("options", [{"set": ("nothing*=0.5",)}, {"skip": ("nothing",)}, {"include": ("nothing",)}])
def test_a_pattern_that_matches_nothing_is_an_error(options):
    with pytest.raises(WeightError, match="no weight matches 'nothing"):
        prune(MLP, sparsity=0.5, **options)


def left_alone():
    nodes = [
        node("Gather", ["table", "i"], ["e"]),
        node("LayerNormalization", ["e", "norm"], ["n"]),
        node("Gemm", ["n", "w", "bias"], ["h"]),
        node("Add", ["h", "shift"], ["y"]),
    ]
    held = {
        "table": normal(40, 300), "norm": normal(300), "w": normal(300, 300), "bias": normal(300), "shift": normal(300),
    }  # fmt: skip
    return model(nodes, [info("i", ["N"], TensorProto.INT64)], [info("y", ["N", 300])], held)


def test_biases_norms_and_embeddings_are_left_alone_unless_named_in_full():
    change_of = load(left_alone())
    change = Magnitude(sparsity=0.5).run(change_of)
    assert {name: reason.text for name, reason in change.skipped.items()} == {
        "table": "is an embedding", "norm": "is a norm", "bias": "is a bias", "shift": "is a bias",
    }  # fmt: skip
    for name in change.skipped:
        assert zeros(prune(left_alone(), sparsity=0.5, set=(f"{name[:2]}*=0.5",)))[name] == 0
        opened = prune(left_alone(), set=(f"{name}=0.5",))
        assert zeros(opened)[name] == weights(opened)[name].size // 2
        assert zeros(opened)["w"] == 0


def test_small_weights_are_left_alone_unless_named():
    proto = mlp((8, 16, 4))
    assert not any(zeros(prune(proto, sparsity=0.5)).values())
    assert zeros(prune(proto, set=("fc0.weight=0.5",)))["fc0.weight"] == 64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.5},
        {"sparsity": 0.0},
        {"sparsity": 0.5, "scope": "global"},
        {"sparsity": 0.5, "scope": "channel"},
        {"quality": 1.0},
        {"threshold": 0.1},
        {"threshold": 0.0},
        {"pattern": "2:4"},
        {"pattern": "1x4", "sparsity": 0.5},
    ],
    ids=str,
)
def test_nan_and_inf_are_an_error_that_names_the_weight(options, dtype, bad):
    array = normal(64, 32, dtype=dtype)
    array[40, 3] = bad
    with pytest.raises(WeightError, match="weight 'w' holds NaN or Inf"):
        prune(matmul(array), **options)
