"""Weights that something stands in front of: a scale, the state of a loop, an equation, unit dimensions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.model.discovery import find
from tests.channels.dead_channels import check
from tests.helpers.builders import info, matmul, model, node, normal, tensor
from tests.helpers.deep import chain, joined
from tests.helpers.running import feeds_of, load, outputs, put, run


def only(proto, name="w"):
    return next(weight for weight in find(load(proto)) if weight.name == name)


def einsum(equation: str, x: tuple, w: tuple, swapped: bool = False) -> onnx.ModelProto:
    names = ["w", "x"] if swapped else ["x", "w"]
    nodes = [helper.make_node("Einsum", names, ["y"], equation=equation)]
    return model(nodes, [info("x", list(x))], [info("y", None)], {"w": normal(*w)})


@pytest.mark.parametrize(
    ("equation", "x", "w", "out_axis", "in_axes"),
    [
        ("ij,jk->ik", (3, 32), (32, 16), 1, (0,)),
        ("ij,jk", (3, 32), (32, 16), 1, (0,)),
        (" b l d , o d -> b l o ", (2, 3, 32), (16, 32), 0, (1,)),
        ("...d,dk->...k", (2, 3, 32), (32, 16), 1, (0,)),
        ("bld,dhk->blhk", (2, 3, 32), (32, 4, 8), None, (0,)),
        ("blhk,hkd->bld", (2, 3, 4, 8), (4, 8, 32), 2, (0, 1)),
        ("bhld,hdk->bhlk", (2, 4, 3, 8), (4, 8, 16), 2, (1,)),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_an_einsum_that_is_a_product_is_a_layer(tmp_path, equation, x, w, out_axis, in_axes, swapped):
    if swapped:
        terms, arrow, result = equation.replace(" ", "").partition("->")
        equation = ",".join(terms.split(",")[::-1]) + (arrow + result if arrow else "->ik")
    proto = einsum(equation, x, w, swapped)
    weight = only(proto)
    assert (weight.kind, weight.reason, weight.out_axis, weight.in_axes) == ("einsum", None, out_axis, in_axes)
    source = put(tmp_path / "m.onnx", proto)
    result = onnxprune.compress(source, tmp_path / "o.onnx", sparsity=0.5, values="exact")
    assert result.weights[0].zeros == weight.size // 2
    onnxprune.prune(source, tmp_path / "p.onnx", sparsity=0.5)
    assert onnxprune.verify(tmp_path / "p.onnx", tmp_path / "o.onnx").outputs[0]["max_abs"] == 0


@pytest.mark.parametrize(
    ("equation", "x", "w"),
    [
        ("bi,i->bi", (3, 300), (300,)),  # a scale
        ("bi,ii->b", (3, 32), (32, 32)),  # a diagonal
        ("bi,oi->b", (3, 32), (16, 32)),  # an axis that is summed by itself
        ("bi,bo->bio", (16, 3), (16, 32)),  # an outer product
    ],
)
def test_an_einsum_that_is_no_product_has_an_operand(equation, x, w):
    weight = only(einsum(equation, x, w))
    assert weight.kind == "Einsum operand"


@pytest.mark.parametrize(
    ("equation", "names", "out_axis", "in_axes"),
    [
        ("bts,bhs,hsd->btd", ["p", "v", "w"], 2, (0, 1)),
        ("bhs,btd,hsd->bt", ["v", "q", "w"], None, (0, 1, 2)),
        ("...d,hsd,...h->...s", ["q", "w", "p"], 1, (0, 2)),
    ],
)
def test_an_einsum_of_several_has_a_weight(tmp_path, equation, names, out_axis, in_axes):
    held = {"w": normal(4, 8, 32)}
    shapes = {"p": ["N", 5, 4 if "..." in equation else 8], "v": ["N", 4, 8], "q": ["N", 5, 32]}
    inputs = [info(name, shapes[name]) for name in names if name != "w"]
    proto = model([node("Einsum", names, ["y"], equation=equation)], inputs, [info("y", None)], held)
    weight = only(proto)
    assert (weight.kind, weight.reason, weight.out_axis, weight.in_axes) == ("einsum", None, out_axis, in_axes)
    assert onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx").ratio > 2


def test_an_einsum_reads_parts_of_a_weight(tmp_path):
    """As a loop of jax cuts one weight for its input and its state."""
    nodes = [
        node("Split", ["w"], ["a", "b"], axis=0, num_outputs=2),
        node("Einsum", ["x", "a"], ["h"], equation="ni,io->no"),
        node("Einsum", ["h", "b"], ["y"], equation="ni,io->no"),
    ]
    proto = model(nodes, [info("x", ["N", 32])], [info("y", None)], {"w": normal(64, 32)}, 18)
    assert (only(proto).kind, only(proto).reason) == ("einsum", None)
    assert onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx").ratio > 2


@pytest.mark.parametrize("reader", ["Shape", "Size", "CastLike"])
def test_a_look_at_its_shape_or_type_leaves_a_weight_a_weight(tmp_path, reader):
    inputs = ["x", "w"] if reader == "CastLike" else ["w"]
    element = TensorProto.FLOAT if reader == "CastLike" else TensorProto.INT64
    proto = matmul(opset=18)
    proto.graph.node.append(node(reader, inputs, ["looked"]))
    proto.graph.output.append(info("looked", None, element))
    assert only(proto).reason is None
    result = onnxprune.compress(put(tmp_path / "m.onnx", proto), tmp_path / "o.onnx", sparsity=0.5)
    assert result.weights[0].zeros == 1024
    before, after = (run(each, {"x": normal(2, 64)})[1] for each in (proto, (tmp_path / "o.onnx").read_bytes()))
    np.testing.assert_array_equal(before, after)
    del proto.graph.node[0]
    del proto.graph.output[0]
    assert only(proto).reason is not None


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("Mul", np.float32(0.125)), ("Div", np.float32(8)), ("Mul", normal(32)), ("Mul", normal(1, 32)),
     ("Div", np.abs(normal(64, 1)) + 1), ("Mul", normal(1, 1))],
)  # fmt: skip
def test_a_constant_scale_is_passed(tmp_path, kind, scale):
    proto = matmul(None, [node(kind, ["w", "s"], ["v"])])
    proto.graph.initializer.append(tensor("s", scale))
    weight = only(proto)
    assert (weight.kind, weight.reason, weight.out_axis, weight.in_axes) == ("matmul", None, 1, (0,))
    source = put(tmp_path / "m.onnx", proto)
    onnxprune.compress(source, tmp_path / "o.onnx", sparsity=0.75, values="exact")
    onnxprune.prune(source, tmp_path / "p.onnx", sparsity=0.75)
    assert outputs((tmp_path / "o.onnx").read_bytes()) == outputs((tmp_path / "p.onnx").read_bytes())


@pytest.mark.parametrize(
    ("kind", "names", "scale"),
    [("Mul", ["w", "s"], normal(64, 32)), ("Div", ["s", "w"], np.float32(2)), ("Mul", ["w", "s"], normal(1, 64, 32)),
     ("Add", ["w", "s"], np.float32(2))],
)  # fmt: skip
def test_what_is_no_scale_leaves_a_weight_alone(kind, names, scale):
    """A factor for each entry may be a mask, and what a constant is divided by must not be 0."""
    nodes = [node(kind, names, ["v"]), node("MatMul", ["x", "v"], ["y"])]
    weight = only(model(nodes, [info("x", [3, 64])], [info("y", None)], {"w": normal(64, 32), "s": np.asarray(scale)}))
    assert weight.reason is not None


def looped(handed: str, kind: str = "Loop", result: bool = False) -> onnx.ModelProto:
    """A body that multiplies with a state `k`; what `handed` says is the state of the next iteration."""
    nodes = [node("MatMul", ["a", "k"], ["b"])]
    nodes += {
        "itself": [],
        "identity": [node("Identity", ["k"], ["l"]), node("Identity", ["l"], ["m"])],
        "changed": [node("Mul", ["k", "half"], ["m"])],
    }[handed]
    last = "k" if handed == "itself" else "m"
    states = [info("a", ["N", 32]), info("k", [32, 32])], [info("b", ["N", 32]), info(last, [32, 32])]
    weights = {"w": normal(32, 32) / 8, "half": np.float32(0.5)}
    if kind == "Loop":
        head = [info("i", [], TensorProto.INT64), info("go_on", [], TensorProto.BOOL)]
        body = helper.make_graph(
            [node("Identity", ["go_on"], ["again"]), *nodes], "body", [*head, *states[0]],
            [info("again", [], TensorProto.BOOL), *states[1]],
        )  # fmt: skip
        call = helper.make_node("Loop", ["times", "go", "x", "w"], ["y", "z"], body=body)
        weights |= {"times": np.array(3), "go": np.array(True)}
    else:
        body = helper.make_graph(nodes, "body", [*states[0], info("t", [1])], states[1])
        call = helper.make_node("Scan", ["x", "w", "times"], ["y", "z"], body=body, num_scan_inputs=1)
        weights["times"] = np.zeros((3, 1), np.float32)
    ends = [info("y", ["N", 32])] + [info("z", [32, 32])] * result
    return model([call], [info("x", ["N", 32])], ends, {n: np.asarray(w) for n, w in weights.items()})


# onnxruntime 1.32 gives a Scan whose body hands an input on as it is a state of memory that nobody wrote.
@pytest.mark.parametrize(("kind", "handed"), [("Loop", "itself"), ("Loop", "identity"), ("Scan", "identity")])
def test_a_state_that_never_changes_is_the_weight_of_the_layer(tmp_path, kind, handed):
    proto = looped(handed, kind)
    assert (only(proto).kind, only(proto).reason) == ("matmul", None)
    source = put(tmp_path / "m.onnx", proto)
    onnxprune.compress(source, tmp_path / "o.onnx", sparsity=0.75, values="exact")
    onnxprune.prune(source, tmp_path / "p.onnx", sparsity=0.75)
    feeds = feeds_of(proto)
    found = [run((tmp_path / name).read_bytes(), feeds)[0] for name in ("o.onnx", "p.onnx")]
    np.testing.assert_array_equal(*found)
    assert (tmp_path / "o.onnx").stat().st_size < source.stat().st_size - 2000


def test_a_state_that_changes_or_leaves_is_left_alone():
    assert only(looped("changed")).reason is not None
    assert "graph output" in only(looped("identity", result=True)).reason.text


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("left", [False, True])
def test_dead_channels_of_a_matrix_with_unit_dimensions_in_front_go(rank, left):
    front = (1,) * (rank - 2)
    a, b = normal(*front, 12, 8), normal(*front, 8, 5, seed=1)
    a[..., :, 3] = 0
    b[..., 5, :] = 0
    if left:  # transposed, on the other side
        a, b = a.swapaxes(-1, -2), b.swapaxes(-1, -2)
        nodes = [node("MatMul", ["a", "x"], ["h"]), node("Relu", ["h"], ["k"]), node("MatMul", ["b", "k"], ["y"])]
        ends = [info("x", [2] * (rank - 2) + [12, 6])], [info("y", [2] * (rank - 2) + [5, 6])]
        expected = {"a": (*front, 6, 12), "b": (*front, 5, 6)}
    else:
        nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["k"]), node("MatMul", ["k", "b"], ["y"])]
        ends = [info("x", ["N"] + [3] * (rank - 3) + [6, 12])], [info("y", ["N"] + [3] * (rank - 3) + [6, 5])]
        expected = {"a": (*front, 12, 6), "b": (*front, 6, 5)}
    proto = model(nodes, *ends, {"a": np.ascontiguousarray(a), "b": np.ascontiguousarray(b)})
    check(proto, **expected)


def two_einsums(first: str, second: str, y: tuple, swapped: bool) -> onnx.ModelProto:
    """x -> a, of which channel 3 is dead -> Relu -> b, which does not read channel 5 -> y."""
    a, b = normal(8, 12), normal(5, 8, seed=1)
    a[3] = 0
    b[:, 5] = 0
    weights = {"a": np.ascontiguousarray(a.T if first.endswith("T") else a), "b": b}
    nodes = []
    for equation, names, made in ((first.removesuffix("T"), ["x", "a"], "h"), (second, ["k", "b"], "y")):
        if swapped:
            terms, _, result = equation.partition("->")
            equation, names = ",".join(terms.split(",")[::-1]) + "->" + result, names[::-1]
        nodes.append(node("Einsum", names, [made], equation=equation))
    nodes.insert(1, node("Relu", ["h"], ["k"]))
    return model(nodes, [info("x", [2, 3, 12])], [info("y", list(y))], weights)


@pytest.mark.parametrize(
    ("first", "second", "y"),
    [
        ("ntc,dc->ntd", "ntd,ed->nte", (2, 3, 5)),
        ("ntc,cd->dtnT", "dtn,ed->etn", (5, 3, 2)),  # axes in another order
        ("...c,dc->...d", "n...d,ed->en...", (5, 2, 3)),
        ("ntc,dc->tdn", "tdn,ed->net", (2, 5, 3)),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_dead_channels_of_matrix_products_by_equation_go(first, second, y, swapped):
    check(two_einsums(first, second, y, swapped), a=(12, 6) if first.endswith("T") else (6, 12), b=(5, 6))


@pytest.mark.parametrize(
    ("equation", "y"),
    [("nhd,hd->nh", (4, 2)), ("nhd,hd->nhd", (4, 2, 6)), ("nhd,hd->", ()), ("nhd,hd->hdn", (2, 6, 4)),
     ("nhd,hd->n", (4,)), ("nhd,ed->nh", (4, 2)), ("nhd,ed->nhe", (4, 2, 2)), ("nhd,hd->hnd", (2, 4, 6))],
)  # fmt: skip
def test_channels_stay_where_an_equation_is_no_matrix_product(equation, y):
    """Channel 3 is dead: only where `d` alone is summed over and `e` alone is new does it go."""
    a = normal(6, 6)
    a[:, 3] = 0
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Einsum", ["h", "w"], ["y"], equation=equation)]
    proto = model(nodes, [info("x", [4, 2, 6])], [info("y", list(y))], {"a": a, "w": normal(2, 6, seed=1)})
    product = equation.endswith("nhe")
    _, change = check(proto, a=(6, 5 if product else 6))
    assert any("Einsum that is no matrix product" in note for note in change.notes) != product


@pytest.mark.parametrize(
    ("domain", "kind"),
    [("com.microsoft.nchwc", "Conv"), ("com.microsoft", "QLinearConv"), ("com.ms.internal.nhwc", "Conv")],
)
def test_weights_that_an_optimiser_laid_out_say_so(domain, kind):
    nodes = [helper.make_node(kind, ["x", "w"], ["y"], domain=domain)]
    proto = model(nodes, [info("x", [1, 16, 8, 8])], [info("y", None)], {"w": normal(16, 16, 3, 3)})
    assert "one processor" in only(proto).reason.text
    assert "before onnxruntime optimised it" in only(proto).reason.text


def test_a_weight_may_be_behind_any_number_of_operators():
    before = {
        "Identity": chain("Identity", "w", "v"), "Transpose": chain("Transpose", "w", "v", perm=[1, 0]),
        "Mul": chain("Mul", "w", "v", "one"), "Concat": joined("w", "v", "zero", "size"),
    }  # fmt: skip
    weights = {"w": normal(64, 32), "one": np.ones(1, np.float32), "zero": np.array([0]), "size": np.array([64])}
    for kind, nodes in before.items():
        made = [*nodes, node("MatMul", ["x", "v"], ["y"])]
        weight = only(model(made, [info("x", ["N", 64])], [info("y", ["N", 32])], weights))
        assert (weight.kind, weight.reason) == ("matmul", None)
        assert weight.out_axis == (None if kind == "Concat" else 1)
        assert weight.consumers == ("MatMul_y",)
