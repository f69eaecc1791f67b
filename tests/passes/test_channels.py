"""channels: the least channels go, everywhere at once, and what is left is a valid model."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import OptionError, WeightError
from onnxprune_passes import Channels, DeadNeurons
from tests.helpers import graph_checks as checks
from tests.helpers.builders import info, mlp, model, node, normal, tensor
from tests.helpers.graphs import FAMILIES
from tests.helpers.running import feeds_of, load, put, run, serialise

every_family = pytest.mark.parametrize("family", FAMILIES)


def stack(widths=(16, 24, 10), bias: bool = True, seed: int = 0) -> onnx.ModelProto:
    """Convolutions with batch norm between them, then a classifier."""
    nodes, weights, last, ins = [], {}, "x", 3
    for i, width in enumerate(widths):
        weights[f"w{i}"] = normal(width, ins, 3, 3, seed=seed + i)
        inputs = [last, f"w{i}"]
        if bias:
            weights[f"b{i}"] = normal(width, seed=seed + 10 + i)
            inputs.append(f"b{i}")
        nodes.append(node("Conv", inputs, [f"c{i}"], pads=[1, 1, 1, 1]))
        for j, part in enumerate(("scale", "shift", "mean", "var")):
            values = normal(width, seed=seed + 20 + 4 * i + j)
            weights[f"{part}{i}"] = np.abs(values) + np.float32(0.1) if part == "var" else values
        nodes.append(node("BatchNormalization", [f"c{i}", *(f"{p}{i}" for p in ("scale", "shift", "mean", "var"))],
                          [f"n{i}"]))  # fmt: skip
        nodes.append(node("Relu", [f"n{i}"], [f"r{i}"]))
        last, ins = f"r{i}", width
    weights["fc"] = normal(ins, 5, seed=seed + 50)
    nodes += [node("GlobalAveragePool", [last], ["p"]), node("Flatten", ["p"], ["f"])]
    nodes.append(node("MatMul", ["f", "fc"], ["y"]))
    return model(nodes, [info("x", ["N", 3, 8, 8])], [info("y", ["N", 5])], weights)


@every_family
@settings(max_examples=6)
@given(data=st.data())
def test_any_network_stays_a_valid_one(family, data):
    proto, _ = data.draw(FAMILIES[family](kills=False))
    step = Channels(
        sparsity=data.draw(st.sampled_from([0.3, 0.5, 0.9])),
        multiple=data.draw(st.sampled_from([1, 1, 4])),
        score=data.draw(st.sampled_from(["l1", "l2"])),
        scope=data.draw(st.sampled_from(["layer", "global"])),
    )
    after, change = checks.stripped(proto, step)
    checks.assert_valid(after)
    checks.assert_names_kept(proto, after)
    before = checks.shapes(proto)
    emptied = [n for n, shape in checks.shapes(after).items() if 0 in shape and 0 not in before.get(n, ())]
    assert not emptied, "at least one channel of every tensor stays"
    wanted, given_ = (run(m, feeds_of(proto)) for m in (proto, after))
    assert [a.shape for a in wanted] == [a.shape for a in given_]
    assert change.modified == bool(change.removed)
    checks.assert_record(proto, after, change, ("conv", "fc", "w", "r", "norm", "in", "slope", "gamma", "bias", "b"))
    again = load(proto)
    assert step.run(again) == change
    assert onnx.load_from_string(serialise(again)) == after


@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("score", ["l1", "l2", "batchnorm"])
def test_counts_of_a_chain(sparsity, score):
    after, _ = checks.stripped(stack(), Channels(sparsity=sparsity, score=score))
    found = checks.shapes(after)
    kept = [max(n - round(sparsity * n), 1) for n in (16, 24, 10)]
    for i, (count, ins) in enumerate(zip(kept, [3, *kept[:2]], strict=True)):
        assert found[f"w{i}"] == (count, ins, 3, 3)
        assert {found[f"{part}{i}"] for part in ("b", "scale", "shift", "mean", "var")} == {(count,)}
    assert found["fc"] == (kept[2], 5)


COUNTS = {1: [11, 17, 7], 4: [12, 20, 8], 8: [16, 24, 8], 64: [16, 24, 10]}


@pytest.mark.parametrize(("multiple", "kept"), COUNTS.items())
def test_multiples(multiple, kept):
    found = checks.shapes(checks.stripped(stack(), Channels(sparsity=0.3, multiple=multiple))[0])
    assert [found[f"w{i}"][0] for i in range(3)] == kept


def test_what_convolutions_keep_is_rounded_by_itself():
    kept = [checks.shapes(checks.stripped(stack(), Channels(sparsity=0.3, **rule))[0]) for rule in (
        {"convolutions": 4}, {"convolutions": 4, "multiple": 8}, {"convolutions": 8, "multiple": 4})]  # fmt: skip
    assert [[found[f"w{i}"][0] for i in range(3)] for found in kept] == [[12, 20, 8], [16, 24, 8], [16, 24, 8]]


def test_what_no_convolution_makes_is_rounded_where_it_is_asked(tmp_path):
    """The default of `strip` and `compress` leaves the units of matrices as they are."""
    path = put(tmp_path / "m.onnx", mlp((8, 30, 4)))
    for options, kept in (({}, 21), ({"multiple": 1}, 21), ({"multiple": 4}, 24), ({"multiple": 8}, 24)):
        onnxprune.strip(path, tmp_path / "o.onnx", channels=0.3, verify=False, **options)
        assert checks.shapes(onnx.load(tmp_path / "o.onnx"))["fc0.weight"] == (kept, 8)
    path = put(tmp_path / "c.onnx", stack())
    for options, widths in (({}, [12, 20, 8]), ({"multiple": 1}, [11, 17, 7])):
        onnxprune.strip(path, tmp_path / "o.onnx", channels=0.3, verify=False, **options)
        found = checks.shapes(onnx.load(tmp_path / "o.onnx"))
        assert [found[f"w{i}"][0] for i in range(3)] == widths


def test_single_families_have_shares_of_their_own():
    """A glob on any weight that makes the family; the last match counts, and the share of all is for the others."""
    step = Channels(sparsity=0.25, set=("w*=0.5", "w1=0.75", "w2=0"))
    found = checks.shapes(checks.stripped(stack(), step)[0])
    assert [found[f"w{i}"][0] for i in range(3)] == [8, 6, 10]
    found = checks.shapes(checks.stripped(stack(), Channels(sparsity=0.25, set=("w1=0.75",)))[0])
    assert [found[f"w{i}"][0] for i in range(3)] == [12, 6, 8]


def test_a_share_of_what_makes_no_channels_is_refused():
    with pytest.raises(WeightError, match="'w7' matches no weight whose channels can go"):
        Channels(sparsity=0.0, set=("w1=0.5", "w7=0.5")).run(load(stack()))


def test_no_sparsity_changes_nothing():
    opened = load(stack())
    change = Channels(sparsity=0.0).run(opened)
    assert not change.modified
    assert serialise(opened) == serialise(load(stack()))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_no_layer_collapses(scope):
    """One layer of tiny numbers beside others: it is scored against its own, or has a floor."""
    proto = stack()
    for held in proto.graph.initializer:
        if held.name in ("w1", "b1"):
            held.CopyFrom(tensor(held.name, numpy_helper.to_array(held) * np.float32(1e-6)))
    found = checks.shapes(checks.stripped(proto, Channels(sparsity=0.6, scope=scope))[0])
    assert all(found[f"w{i}"][0] >= max(1, n // 10) for i, n in enumerate((16, 24, 10)))


@pytest.mark.parametrize("score", ["l1", "l2"])
def test_the_channels_of_least_norm_go(score):
    """Norms of rows and columns together order the units alike where they grow in step."""
    proto = mlp((6, 12, 4))
    order = np.random.default_rng(5).permutation(12)
    for held in proto.graph.initializer:
        array = numpy_helper.to_array(held).copy()
        size = (1 + order).astype(np.float32)
        if held.name == "fc0.weight":
            array = size[:, None] * np.sign(array)
        elif held.name == "fc1.weight":
            array = size * np.sign(array)
        elif held.name == "fc0.bias":
            array = size
        held.CopyFrom(tensor(held.name, array))
    _, change = checks.stripped(proto, Channels(sparsity=0.5, score=score))
    least = sorted(int(i) for i in np.argsort(order)[:6])
    assert {(r.name, r.axis): list(r.indices) for r in change.removed} == {
        ("fc0.weight", 0): least,
        ("fc0.bias", 0): least,
        ("fc1.weight", 1): least,
    }


def test_the_batch_norm_scale_decides_where_it_is_the_score():
    proto = stack((8,))
    scale = np.array([3, -0.1, 2, 0.2, -5, 0.05, 4, 1], np.float32)
    next(t for t in proto.graph.initializer if t.name == "scale0").CopyFrom(tensor("scale0", scale))
    _, change = checks.stripped(proto, Channels(sparsity=0.4, score="batchnorm"))
    assert {tuple(r.indices) for r in change.removed} == {(1, 3, 5)}


def test_channels_that_are_zero_altogether_change_nothing():
    proto = stack((10, 10), bias=False)
    dead = [1, 4, 7]
    for held in proto.graph.initializer:
        array = numpy_helper.to_array(held).copy()
        if held.name[:-1] in ("w", "scale", "shift", "mean"):
            array[dead] = 0
        if held.name == "w1":
            array[:, dead] = 0
        if held.name == "fc":
            array[dead] = 0
        held.CopyFrom(tensor(held.name, array))
    after, _ = checks.stripped(proto, Channels(sparsity=0.3))
    assert checks.shapes(after)["w1"] == (7, 7, 3, 3)
    checks.assert_equal_outputs(proto, after)
    assert not checks.stripped(after, DeadNeurons())[1].modified


def test_a_residual_sum_is_one_family():
    nodes = [
        node("Conv", ["x", "a"], ["h"]), node("Conv", ["h", "b"], ["g"]), node("Relu", ["g"], ["r"]),
        node("Conv", ["r", "c"], ["k"]), node("Add", ["h", "k"], ["s"]), node("Conv", ["s", "d"], ["y"]),
    ]  # fmt: skip
    weights = {"a": normal(10, 3, 1, 1), "b": normal(20, 10, 1, 1, seed=1), "c": normal(10, 20, 1, 1, seed=2),
               "d": normal(4, 10, 1, 1, seed=3)}  # fmt: skip
    proto = model(nodes, [info("x", ["N", 3, 4, 4])], [info("y", ["N", 4, 4, 4])], weights)
    found = checks.shapes(checks.stripped(proto, Channels(sparsity=0.3))[0])
    assert found == {"a": (7, 3, 1, 1), "b": (14, 7, 1, 1), "c": (7, 14, 1, 1), "d": (4, 7, 1, 1)}


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": -0.1},
        {"sparsity": 1.0},
        *({"sparsity": 0.3} | o for o in ({"multiple": 0}, {"score": "l3"})),
        {"sparsity": 0.0, "set": ("w=1",)},
        {"sparsity": 0.0, "set": ("w",)},
        {"sparsity": 0.3, "scope": "global", "set": ("w=0.1",)},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(OptionError):
        Channels(**options)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_each_part_of_a_split_keeps_a_channel(scope):
    w = normal(8, 3, 1, 1)
    w[4:] *= np.float32(0.01)
    nodes = [
        node("Conv", ["x", "w"], ["h"]), node("Split", ["h"], ["a", "b"], axis=1), node("Conv", ["a", "u"], ["c"]),
        node("Conv", ["b", "v"], ["d"]), node("Add", ["c", "d"], ["y"]),
    ]  # fmt: skip
    weights = {"w": w, "u": normal(4, 4, 1, 1, seed=1), "v": normal(4, 4, 1, 1, seed=2)}
    proto = model(nodes, [info("x", ["N", 3, 4, 4])], [info("y", ["N", 4, 4, 4])], weights)
    found = checks.shapes(checks.stripped(proto, Channels(sparsity=0.5, scope=scope))[0])
    assert found["u"][1] > 0
    assert found["v"][1] > 0
