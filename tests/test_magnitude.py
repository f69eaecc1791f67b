import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from onnxprune.errors import OptionError, WeightError
from onnxprune.model.discovery import find
from onnxprune.pipeline import base, registry
from onnxprune_passes import Encode, Magnitude
from tests.helpers import builders
from tests.helpers.builders import info, matmul, mlp, model, node, normal, smallest, tensor
from tests.helpers.running import arrays, load, outputs, prune, serialise

PASSES = registry.table()
MLP = mlp((32, 64, 16))


def weights(opened) -> dict:
    return {w.name: w for w in find(opened)}


def values(opened, name="w") -> np.ndarray:
    return weights(opened)[name].array(opened)


def zeros(opened) -> dict[str, int]:
    return {w.name: w.zeros(w.array(opened)) for w in find(opened)}


# exact counts --------------------------------------------------------------------------------------


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


# which weights -------------------------------------------------------------------------------------


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


# patterns ------------------------------------------------------------------------------------------


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


# quantised weights ---------------------------------------------------------------------------------


def test_quantised_weights_are_pruned_to_their_zero_point():
    proto = builders.qdq((-5, 5))
    before = load(proto)
    array, scale, zero = (values(before, n) for n in ("w", "scale", "zero"))
    score = np.abs(array.astype(np.float32) - zero.astype(np.float32)) * scale
    mask = np.zeros(2048, bool)
    mask[np.argsort(score.reshape(-1), kind="stable")[:1024]] = True
    expected = np.where(mask.reshape(64, 32), zero, array)
    got = values(prune(proto, sparsity=0.5))
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, expected)


def test_an_unsigned_weight_with_zero_point_128():
    array = values(load(builders.qlinear()))
    got = values(prune(builders.qlinear(), sparsity=0.5))
    assert set(got[got != array]) == {128}
    assert np.count_nonzero(got == 128) == 1024
    assert np.abs(got[got != 128].astype(int) - 128).min() >= np.abs(array[got == 128].astype(int) - 128).max()


def test_quality_of_a_quantised_weight_uses_dequantised_values():
    array = values(load(builders.qlinear())).astype(np.float32)
    real = (array - 128) * np.float32(0.05)
    got = values(prune(builders.qlinear(), quality=0.7))
    np.testing.assert_array_equal(got == 128, (np.abs(real) < 0.7 * real.std()) | (array == 128))


def test_a_quantised_weight_without_a_known_zero_point_is_left_alone():
    proto = matmul(np.ones((64, 32), np.int8), [node("Cast", ["w"], ["v"], to=TensorProto.FLOAT)])
    opened = load(proto)
    assert "without a known zero point" in Magnitude(sparsity=0.5).run(opened).skipped["w"].text


def test_a_sparse_initializer_is_pruned_as_its_dense_tensor():
    array = smallest(normal(64, 32), 1500)
    proto = matmul(array)
    kept = np.flatnonzero(array)
    del proto.graph.initializer[:]
    sparse = proto.graph.sparse_initializer.add(dims=[64, 32])
    sparse.values.CopyFrom(tensor("w", array.reshape(-1)[kept]))
    sparse.indices.CopyFrom(tensor("w_at", kept))
    np.testing.assert_array_equal(values(prune(proto, sparsity=0.8)), smallest(array, round(0.8 * 2048)))


# every pass ----------------------------------------------------------------------------------------

EXAMPLES = {
    "magnitude": [
        {"sparsity": 0.5},
        {"sparsity": 0.9, "scope": "global"},
        {"sparsity": 0.9, "scope": "channel"},
        {"threshold": 0.3},
        {"pattern": "2:4"},
        {"sparsity": 0.5, "pattern": "1x4", "skip": ("bias*", 'quote"d')},
        {"sparsity": 0.5, "set": ("*=0.25", "a b=0.1")},
    ],
    "channels": [{"sparsity": 0.0, "score": "l2", "multiple": 8}],  # a share is one of what is there
    "encode": [{}, {"encoding": "graph"}, {"encoding": "rows", "values": "half"}],
    "apply_masks": [{"masks": "m.safetensors"}, {"masks": 'a "b"', "names_from": "w.npz"}],
    "update": [{"source": "w.pt", "masks": "m.npz"}],
}
FROM_FILES = {"apply_masks", "update"}  # test_retrain.py runs these


INSTALLED = [
    pytest.param(base.create(PASSES[name], options), id=f"{name}{options}")
    for name in PASSES
    for options in EXAMPLES.get(name, [{}])
]


@pytest.mark.parametrize("item", INSTALLED)
def test_a_pass_is_recreated_by_its_text(item):
    assert base.parse(str(item), PASSES) == item


NAMELESS = [
    p
    for p in INSTALLED
    if not getattr(p.values[0], "skip", ())
    and not getattr(p.values[0], "set", ())
    and p.values[0].name not in FROM_FILES
]


@pytest.mark.parametrize("item", NAMELESS)
def test_a_pass_run_twice_changes_nothing_the_second_time(case, item):
    opened = prune(case[0], sparsity=0.8)
    item.run(opened)
    once = serialise(opened)
    change = item.run(opened)
    assert not change.modified
    assert serialise(opened) == once
    assert outputs(once)
    again = load(onnx.load_from_string(once))
    assert not item.run(again).modified
    assert arrays(again) == {w.name: (w.dtype, w.shape, w.array(opened).tobytes()) for w in find(opened)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"sparsity": float("nan")},
        {"sparsity": True},
        {"sparsity": "x"},
        {"sparsity": 0.5, "quality": 1.0},
        {"sparsity": 0.5, "scope": "tensor"},
        {"quality": 1.0, "scope": "global"},
        {"sparsity": 0.5, "pattern": "2:4"},
        {"pattern": "5:4"},
        {"pattern": "2:4x"},
        {"pattern": "1x4"},
        {"pattern": "0x4", "sparsity": 0.5},
        {"set": ("w",)},
        {"set": ("w=x",)},
        {"set": ("w=1",)},
        {"colour": "red"},
    ],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(OptionError):
        base.create(Magnitude, options)


def test_encoded_weights_are_named_and_their_parts_are_not():
    opened = prune(mlp((32, 64, 16)), sparsity=0.9)
    Encode().run(opened)
    change = Magnitude(sparsity=0.95).run(opened)
    assert not change.modified
    assert {name: reason.text for name, reason in change.skipped.items()} == {
        "fc0.bias": "is a bias",
        "fc1.bias": "is a bias",
        "fc0.weight": "is encoded: decode the model first",
        "fc1.weight": "is encoded: decode the model first",
    }
