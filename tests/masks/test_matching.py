"""Weights matched to parameters by value: every way in which exporters change them, and nothing by guess."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxprune.masks.matching.axis_order import fitting, oriented
from onnxprune.masks.matching.link import Span
from onnxprune.masks.matching.match import Matches, match
from tests.helpers.builders import info, model, node, normal, qdq, smallest
from tests.helpers.running import load

FLOAT, HALF, BFLOAT, DOUBLE = np.float32, np.float16, ml_dtypes.bfloat16, np.float64


def chain(weights, kind="MatMul") -> onnx.ModelProto:
    nodes, last = [], "x"
    for i, name in enumerate(weights):
        nodes.append(node(kind, [last, name], [f"h{i}"]))
        last = f"h{i}"
    return model(nodes, [info("x", None)], [info(last, None)], weights)


def matched(weights, checkpoint, kind="MatMul") -> Matches:
    return match(load(chain(weights, kind)), checkpoint)


def texts(found: Matches) -> dict[str, str]:
    """Why the weights without a parameter have none, as the user reads it."""
    return {name: reason.text for name, reason in found.unmatched.items()}


def only(weights, checkpoint, kind="MatMul"):
    """The one link of the one parameter."""
    found = matched(weights, checkpoint, kind)
    assert found.unmatched == {}
    ((name, entry),) = found.parameters.items()
    (link,) = entry.links
    np.testing.assert_array_equal(
        link.to_weight(checkpoint[name], weights[link.weight].shape).astype(weights[link.weight].dtype)[
            weights[link.weight] != 0
        ],
        weights[link.weight][weights[link.weight] != 0],
    )
    return name, link


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=5), data=st.data())
def test_any_order_and_any_reshape_is_found(shape, data):
    assume(np.prod(shape) >= 4)
    parameter = normal(*shape)
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    cut = data.draw(st.integers(0, len(shape)))
    moved = parameter.transpose(order)
    weight = np.ascontiguousarray(moved).reshape(-1, int(np.prod(moved.shape[cut:])))
    fits = fitting(parameter, weight)
    assert len(fits) == 1
    np.testing.assert_array_equal(oriented(parameter, fits[0], weight.shape), weight)


@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.99])
def test_a_pruned_weight_is_what_it_was(share):
    others = {f"p{i}": normal(64, 48, seed=i) for i in range(5)}
    name, link = only({"w": smallest(others["p3"].T.copy(), round(share * 64 * 48))}, others)
    assert (name, link.order) == ("p3", (1, 0))


@pytest.mark.parametrize("exported", [FLOAT, HALF, BFLOAT, DOUBLE])
@pytest.mark.parametrize("saved", [FLOAT, HALF, BFLOAT, DOUBLE])
def test_casts(saved, exported):
    """Compared in the lower precision, and only where one is the other rounded."""
    others = {f"p{i}": normal(20, 30, seed=i).astype(saved) for i in range(5)}
    assert only({"w": others["p2"].T.astype(exported)}, others)[0] == "p2"


def test_a_checkpoint_of_higher_precision_than_an_upcast_export():
    """fp32 weights that went through fp16 are not the fp32 parameter."""
    parameter = normal(20, 30)
    assert matched({"w": parameter.astype(HALF).astype(FLOAT)}, {"p": parameter}).parameters == {}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_merged(axis, turned):
    parts = {name: normal(24, 24, seed=i) for i, name in enumerate(("q", "k", "v", "o"))}
    merged = np.concatenate([parts[n] for n in "qkv"], axis)
    merged = merged.T.copy() if turned else merged
    found = matched({"qkv": merged}, parts)
    assert list(found.parameters) == ["q", "k", "v"]
    rebuilt = np.zeros_like(merged)
    for name, entry in found.parameters.items():
        (link,) = entry.links
        assert link.of is None
        link.into.of(rebuilt)[...] = link.to_weight(parts[name], merged.shape)
        np.testing.assert_array_equal(link.to_parameter(merged, (24, 24)), parts[name])
    np.testing.assert_array_equal(rebuilt, merged)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("share", [0, 0.9])
def test_split(axis, turned, share):
    merged = normal(24, 72) if axis else normal(72, 24)
    weights = {
        n: smallest(part, round(share * part.size)) for n, part in zip("qkv", np.split(merged, 3, axis), strict=True)
    }
    weights = {n: w.T.copy() if turned else w for n, w in weights.items()}
    found = matched(weights, {"in_proj": merged, "other": normal(72, 24, seed=5)})
    assert found.unmatched == {}
    assert {link.weight: link.of for link in found.parameters["in_proj"].links} == {
        n: Span(axis, 24 * i, 24 * i + 24) for i, n in enumerate("qkv")
    }


def test_merged_biases_and_gates_in_another_order():
    biases = {f"b{i}": normal(32, seed=i) for i in range(3)}
    gates = normal(128, 24, seed=9)
    i, f, g, o = np.split(gates, 4)
    found = matched(
        {"bias": np.concatenate(list(biases.values())), "W": np.concatenate([i, o, f, g])[None]}, biases | {"ih": gates}
    )
    assert found.unmatched == {}
    assert [link.into for link in found.parameters["ih"].links] == [Span(1, 0, 32), Span(1, 32, 64), Span(1, 64, 128)]
    assert [link.of for link in found.parameters["ih"].links] == [Span(0, 0, 32), Span(0, 96, 128), Span(0, 32, 96)]


def test_a_part_that_no_parameter_holds_leaves_the_whole_unmatched():
    parts = [normal(24, 24, seed=i) for i in range(3)]
    found = matched({"qkv": np.concatenate(parts)}, {"q": parts[0], "k": parts[1]})
    assert texts(found) == {"qkv": "no parameter holds its values"}


def test_convolutions_in_the_layout_of_keras():
    parameter = normal(3, 3, 8, 16)  # height, width, in, out
    name, link = only({"w": np.ascontiguousarray(parameter.transpose(3, 2, 0, 1))}, {"kernel": parameter}, "Conv")
    assert (name, link.order, link.transform) == ("kernel", (3, 2, 0, 1), "transpose")


# aliases, ambiguity, and what is never guessed ------------------------------------------------------


def test_equal_parameters_are_one_with_aliases():
    table = normal(50, 20)
    found = matched({"w": table.T.copy()}, {"head": table, "embed": table.copy(), "other": normal(50, 20, seed=1)})
    assert list(found.parameters) == ["head"]
    assert found.parameters["head"].aliases == ("embed",)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_constants_are_never_guessed_but_their_own_name_is_no_guess(value):
    flat = np.full((16, 16), value, FLOAT)
    found = matched({"w": flat}, {"a": flat, "b": flat})
    assert found.parameters == {}
    assert "one magnitude" in texts(found)["w"]
    found = matched({"a": flat}, {"a": flat, "b": flat})
    assert list(found.parameters) == ["a"]
    assert found.parameters["a"].aliases == ()


def test_zeros_under_the_name_of_other_values_are_not_those():
    found = matched({"w": np.zeros((16, 16), FLOAT)}, {"w": normal(16, 16)})
    assert found.parameters == {}


def test_arrays_that_are_no_weights_are_passed_over():
    parameter = normal(16, 16)
    others = {"text": np.array(["a", "b"]), "complex": parameter.astype(complex), "mask": parameter > 0}
    assert only({"w": parameter.T.copy()}, others | {"p": parameter})[0] == "p"


def test_a_symmetric_weight_has_several_orders():
    half = normal(16, 16)
    found = matched({"w": half + half.T}, {"p": half + half.T})
    assert texts(found) == {"w": "it could be p, in several orders of the axes"}
    assert list(matched({"p": half + half.T}, {"p": half + half.T}).parameters) == ["p"]


def test_two_that_differ_only_where_the_weight_was_pruned():
    a = normal(16, 16)
    b = np.where(np.abs(a) < 0.1, a / 2, a)
    found = matched({"w": np.where(np.abs(a) < 0.1, 0, a)}, {"a": a, "b": b})
    assert texts(found) == {"w": "it could be a or b"}


def test_numbers_that_are_none():
    bad = normal(16, 16)
    bad[3, 3] = np.nan
    assert texts(matched({"w": bad}, {"p": bad})) == {"w": "it holds NaN or Inf"}
    assert matched({"w": normal(16, 16)}, {"p": np.arange(256).reshape(16, 16)}).parameters == {}

    assert "int8" in texts(match(load(qdq()), {"p": normal(64, 32)}))["w"]


# batch norms ----------------------------------------------------------------------------------------


def norm(prefix, channels, seed, style="torch"):
    rng = np.random.default_rng(seed)
    names = {
        "torch": ("running_var", "running_mean", "weight", "bias"),
        "keras": ("moving_variance:0", "moving_mean:0", "gamma:0", "beta:0"),
        "flax": ("var", "mean", "scale", "bias"),
    }[style]
    trees = ("batch_stats/", "batch_stats/", "params/", "params/") if style == "flax" else ("",) * 4
    slash = "." if style == "torch" else "/"
    values = (rng.uniform(0.5, 2, channels), *rng.standard_normal((3, channels)))
    return {f"{t}{prefix}{slash}{n}": v.astype(FLOAT) for t, n, v in zip(trees, names, values, strict=True)}


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 1e-6])
@pytest.mark.parametrize("style", ["torch", "keras", "flax"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_a_folded_batch_norm(epsilon, style, dtype):
    checkpoint = {f"c{i}.weight": normal(16, 8, 3, 3, seed=i) for i in range(4)}
    for i in range(4):
        checkpoint |= norm(f"n{i}", 16, i, style)
    variance, mean, gamma, beta = (n for n in checkpoint if "n2" in n)
    scale = checkpoint[gamma] / np.sqrt(checkpoint[variance] + FLOAT(epsilon))
    weights = {
        "w": (checkpoint["c2.weight"] * scale[:, None, None, None]).astype(dtype),
        "b": (checkpoint[beta] - checkpoint[mean] * scale).astype(dtype),
    }
    nodes = [node("Conv", ["x", "w", "b"], ["y"])]
    found = match(load(model(nodes, [info("x", None)], [info("y", None)], weights)), checkpoint)
    assert found.unmatched == {}
    (link,), (shift,) = found.parameters["c2.weight"].links, found.parameters[variance].links
    assert (link.fold.gamma, link.fold.axis) == (gamma, 0)
    assert link.fold.epsilon == epsilon or dtype == HALF
    made = link.fold.applied(link.to_weight(checkpoint["c2.weight"], weights["w"].shape), checkpoint)
    np.testing.assert_allclose(made, weights["w"], rtol=1e-5 if dtype == FLOAT else 2e-3, atol=1e-6)
    np.testing.assert_allclose(shift.fold.applied(made, checkpoint), weights["b"], rtol=1e-4, atol=2e-3)


def test_a_folded_linear_layer_that_was_pruned():
    checkpoint = {f"l{i}.weight": normal(32, 48, seed=i) for i in range(4)} | norm("n", 32, 7)
    scale = checkpoint["n.weight"] / np.sqrt(checkpoint["n.running_var"] + FLOAT(1e-5))
    folded = (checkpoint["l1.weight"] * scale[:, None]).T
    found = matched({"w": smallest(folded, round(0.8 * folded.size))}, checkpoint)
    (link,) = found.parameters["l1.weight"].links
    assert (link.order, link.fold.axis, link.fold.gamma) == ((1, 0), 1, "n.weight")


def test_a_scale_that_no_batch_norm_has():
    checkpoint = {"l.weight": normal(32, 48)} | norm("n", 32, 7)
    found = matched({"w": (checkpoint["l.weight"] * normal(32, 1, seed=3)).T}, checkpoint)
    assert texts(found) == {"w": "no parameter holds its values"}


def test_two_batch_norms_that_scale_alike():
    checkpoint = {"l.weight": normal(32, 48)} | norm("n", 32, 7)
    checkpoint |= {n.replace("n.", "m."): a + ("mean" in n) for n, a in norm("n", 32, 7).items()}
    scale = checkpoint["n.weight"] / np.sqrt(checkpoint["n.running_var"] + FLOAT(1e-5))
    found = matched({"w": (checkpoint["l.weight"] * scale[:, None]).T}, checkpoint)
    assert "batch norm of m.running_mean or n.running_mean" in texts(found)["w"]
