"""Operators of ONNX Runtime itself, as its optimiser and its builders of language models write them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune.channels.shapes import inferred, values_of
from onnxprune.layer_costs.flops import layers
from onnxprune.model import discovery
from onnxprune.model.model import Model
from onnxprune.runtime.input_recognition import recognise
from onnxprune.runtime.session import inputs_of, open_session
from onnxprune_passes import DeadNeurons
from tests.channels.dead_channels import check
from tests.helpers import graph_checks as checks
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import costs_of, load, put, run

I32, I64 = TensorProto.INT32, TensorProto.INT64
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
B, S, D = 2, 5, 32  # samples, tokens, width


def own(kind: str, inputs: list[str], outputs: list[str], **attributes):
    return node(kind, inputs, outputs, domain="com.microsoft", **attributes)


def tokens(nodes, outputs, weights, inputs=None, width=None):
    inputs, shape = inputs or [info("x", ["B", "S", D])], ["B", "S", width] if width else None
    return model(nodes, inputs, [info(name, shape) for name in outputs], weights, opset_imports=OPSETS)


def biased(kind):
    return tokens([own(kind, ["x", "b"], ["t"]), node("Neg", ["t"], ["y"])], ["y"], {"b": normal(D)})


def skipping(kind, *vectors):
    nodes = [
        own(kind, ["x", "x", *vectors], ["t", "", "", "u"]), node("Neg", ["t"], ["y"]), node("Neg", ["u"], ["z"])
    ]  # fmt: skip
    return tokens(nodes, ["y", "z"], {name: normal(D, seed=seed) for seed, name in enumerate(vectors)})


def simplified():
    nodes = [node("SimplifiedLayerNormalization", ["x", "g"], ["t"]), node("Neg", ["t"], ["y"])]
    return tokens(nodes, ["y"], {"g": normal(D)})


def attention(**attributes):
    widths = attributes.get("qkv_hidden_sizes", [D, D, D])
    nodes = [own("Attention", ["x", "w", "b"], ["t"], num_heads=4, **attributes), node("Neg", ["t"], ["y"])]
    return tokens(nodes, ["y"], {"w": normal(D, sum(widths)), "b": normal(sum(widths))})


def of_heads(value=D):
    nodes = [
        node("MatMul", ["x", "w"], ["v"]), own("MultiHeadAttention", ["x", "x", "v"], ["t"], num_heads=4),
        node("Neg", ["t"], ["y"]),
    ]  # fmt: skip
    return tokens(nodes, ["y"], {"w": normal(D, value)})


def grouped():
    nodes = [
        own("GroupQueryAttention", ["x", "k", "k", "", "", "last", "total"], ["t", "c", "d"], num_heads=4,
            kv_num_heads=2),
        node("Neg", ["t"], ["y"]),
    ]  # fmt: skip
    nodes.insert(0, node("MatMul", ["x", "w"], ["k"]))
    held = {"w": normal(D, D // 2), "last": np.full(B, S - 1, np.int32), "total": np.int32(S)}
    return tokens(nodes, ["y", "c", "d"], {name: np.asarray(array) for name, array in held.items()})


def in_blocks():
    rng = np.random.default_rng(0)
    held = {"w": rng.integers(0, 256, (48, 1, 16), dtype=np.uint8), "s": np.full((48, 1), 0.1, np.float32)}
    nodes = [own("MatMulNBits", ["x", "w", "s"], ["t"], K=D, N=48, bits=4, block_size=32), node("Neg", ["t"], ["y"])]
    return tokens(nodes, ["y"], held)


def rotated():
    angles = {"c": normal(16, D // 8), "s": normal(16, D // 8, seed=1), "at": np.zeros(1, np.int64)}
    nodes = [own("RotaryEmbedding", ["x", "at", "c", "s"], ["t"], num_heads=4), node("Neg", ["t"], ["y"])]
    return tokens(nodes, ["y"], angles)


def embedded():
    nodes = [
        own("EmbedLayerNormalization", ["ids", "kinds", "words", "places", "types", "g", "b"], ["t", "", "u"]),
        node("Neg", ["t"], ["y"]), node("Neg", ["u"], ["z"]),
    ]  # fmt: skip
    held = {"words": normal(90, D), "places": normal(16, D), "types": normal(2, D), "g": normal(D), "b": normal(D)}
    inputs = [info(name, ["B", "S"], I32) for name in ("ids", "kinds")]
    return tokens(nodes, ["y", "z"], held, inputs)


CASES = {
    "BiasGelu": lambda: biased("BiasGelu"), "FastGelu": lambda: biased("FastGelu"),
    "SkipLayerNormalization": lambda: skipping("SkipLayerNormalization", "g", "h", "b"),
    "SkipSimplifiedLayerNormalization": lambda: skipping("SkipSimplifiedLayerNormalization", "g", "b"),
    "SimplifiedLayerNormalization": simplified, "Attention": attention,
    "Attention of other widths": lambda: attention(qkv_hidden_sizes=[D, D, 48]), "MultiHeadAttention": of_heads,
    "MultiHeadAttention of other widths": lambda: of_heads(48), "GroupQueryAttention": grouped,
    "MatMulNBits": in_blocks, "RotaryEmbedding": rotated, "EmbedLayerNormalization": embedded,
}  # fmt: skip
WIDTHS = {  # None where none is known
    "Attention of other widths": 48, "MatMulNBits": 48, "GroupQueryAttention": None, "MultiHeadAttention": None,
    "MultiHeadAttention of other widths": None,
}  # fmt: skip


def feeds(proto):
    rng = np.random.default_rng(0)
    return {
        value.name: normal(B, S, D) if value.type.tensor_type.elem_type == 1 else
        rng.integers(0, 2, (B, S)).astype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for value in proto.graph.input
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_that_onnxruntime_makes(name):
    proto = CASES[name]()
    known, given = values_of(inferred(load(proto)).graph), feeds(proto)
    behind = {n.input[0]: n.output[0] for n in proto.graph.node if n.op_type == "Neg"}
    given_back = dict(zip((value.name for value in proto.graph.output), run(proto, given), strict=True))
    for value, output in behind.items():
        shape, made = known[value].shape, given_back[output]
        assert shape is not None
        assert len(shape) == made.ndim
        assert shape[-1] == WIDTHS.get(name, D) or (WIDTHS.get(name, D) is None and isinstance(shape[-1], str))
        assert all(size == met for size, met in zip(shape, made.shape, strict=True) if isinstance(size, int))


def test_shapes_inside_a_branch():
    inside = biased("BiasGelu").graph
    del inside.input[:]
    nodes = [node("If", ["c"], ["y"], then_branch=inside, else_branch=inside)]
    inputs = [info("c", [], TensorProto.BOOL), info("x", ["B", "S", D])]
    proto = tokens(nodes, ["y"], {}, inputs)
    branch = inferred(load(proto)).graph.node[0].attribute[0].g
    assert values_of(branch)["t"].shape == ("B", "S", D)


@pytest.mark.parametrize("kind", ["BiasGelu", "FastGelu"])
def test_dead_units_go_with_their_bias(kind):
    """Unit 3 is not read, and unit 7 is its bias alone."""
    weights = {"a": normal(D, 16), "b": normal(16, seed=1), "c": normal(16, 6, seed=2)}
    weights["a"][:, 7] = weights["c"][3] = 0
    nodes = [node("MatMul", ["x", "a"], ["h"]), own(kind, ["h", "b"], ["k"]), node("MatMul", ["k", "c"], ["y"])]
    check(tokens(nodes, ["y"], weights, width=6), a=(D, 14), b=(14,), c=(14, 6))


def block(gated: bool):
    """What stands between two additions of a transformer: half of its units are not read."""
    weights = {"g": normal(D), "up": normal(D, 64), "gate": normal(D, 64), "bias": normal(64), "down": normal(64, D)}
    weights["down"][::2] = 0
    del weights["bias" if gated else "gate"]
    behind = [node("MatMul", ["t", "gate"], ["s"]), node("Sigmoid", ["s"], ["r"]), node("Mul", ["h", "r"], ["k"])]
    nodes = [
        own("SkipSimplifiedLayerNormalization", ["x", "x", "g"], ["t", "", "", "u"]),
        node("MatMul", ["t", "up"], ["h"]), *(behind if gated else [own("BiasGelu", ["h", "bias"], ["k"])]),
        node("MatMul", ["k", "down"], ["v"]),
        own("SkipSimplifiedLayerNormalization", ["v", "u", "g"], ["z", "", "", "y"]),
    ]  # fmt: skip
    return tokens(nodes, ["z", "y"], weights, width=D)


@pytest.mark.parametrize("gated", [False, True])
def test_the_width_between_two_norms_goes(gated):
    proto = block(gated)
    _, change = checks.stripped(proto, DeadNeurons())
    check(proto, up=(D, 32), down=(32, D), g=(D,))
    assert change.notes == []


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("SkipLayerNormalization", {"g": "norm", "h": "norm", "b": "bias"}),
        ("SkipSimplifiedLayerNormalization", {"g": "norm", "b": "bias"}), ("BiasGelu", {"b": "bias"}),
        ("FastGelu", {"b": "bias"}), ("Attention", {"w": "attention", "b": "bias"}),
        ("MatMulNBits", {"w": "blocks of a few bits", "s": "MatMulNBits operand"}),
        ("EmbedLayerNormalization",
         {"words": "embedding", "places": "embedding", "types": "embedding", "g": "norm", "b": "norm"}),
    ],
)  # fmt: skip
def test_what_they_read_is_called_what_it_is(name, kinds):
    assert {weight.name: weight.kind for weight in discovery.find(load(CASES[name]()))} == kinds


def test_blocks_of_a_few_bits_stay_whatever_names_them(tmp_path):
    path = put(tmp_path / "m.onnx", in_blocks())
    result = onnxprune.compress(path, tmp_path / "o.onnx", sparsity=0.5)
    assert {entry.name: entry.reason.text for entry in result.skipped}["w"] == "holds blocks of a few bits"
    assert run(put(tmp_path / "o.onnx", in_blocks()).read_bytes(), feeds(in_blocks()))


def test_ids_that_they_look_up(tmp_path):
    proto = embedded()
    known = recognise(Model.load(path := put(tmp_path / "m.onnx", proto)), inputs_of(open_session(path)))
    assert {name: kind.phrase for name, kind in known.items()} == {
        "ids": "token ids below 90", "kinds": "token ids below 2"
    }  # fmt: skip


def test_ids_of_a_table_that_is_turned_and_of_one_in_blocks(tmp_path):
    """As builders of language models write a table that is the last layer too."""
    turned = [node("Transpose", ["w"], ["table"], perm=[1, 0]), node("Gather", ["table", "ids"], ["y"])]
    packed = [own("GatherBlockQuantized", ["q", "ids", "s"], ["y"], bits=4, block_size=32, quantize_axis=1)]
    held = {"q": np.full((70, D // 2), 0x21, np.uint8), "s": np.full((70, 1), 0.1, np.float32)}
    for nodes, weights, rows in ((turned, {"w": normal(D, 90)}, 90), (packed, held, 70)):
        path = put(tmp_path / "m.onnx", tokens(nodes, ["y"], weights, [info("ids", ["B", "S"], I64)]))
        known = recognise(Model.load(path), inputs_of(open_session(path)))
        assert known["ids"].phrase == f"token ids below {rows:,}"


def test_operations_of_attention(tmp_path):
    """The projection, the scores, and the sums over the values; keys are as many as there are tokens."""
    projection = S * D * 3 * D
    (layer,) = costs_of(attention(), tmp_path, x=normal(B, S, D)).layers
    assert layer.flops == 2 * (projection + 2 * S * S * D)
    path = put(tmp_path / "blocks.onnx", in_blocks())
    assert {run.kind: run.flops for run in layers(path, {"x": normal(B, S, D)})}["MatMulNBits"] == 2 * B * S * D * 48
    cached = {run.kind: run.flops for run in layers(put(tmp_path / "grouped.onnx", grouped()), {"x": normal(B, S, D)})}
    assert cached["GroupQueryAttention"] == 2 * 2 * B * S * S * D
