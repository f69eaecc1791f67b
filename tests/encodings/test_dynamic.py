"""int8-dynamic: products of integers, where the data shows that a layer bears activations of 8 bits."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxprune
from onnxprune.allocation.activation_rounding import LIMIT, ROW_LIMIT, rounded_to_bytes
from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.values.dynamic import STEPS
from onnxprune.errors import OptionError
from onnxprune_passes import Decode, Encode
from tests.encodings.products import CASES, IN, net
from tests.encodings.test_fusion import optimised, skeleton
from tests.helpers.builders import conv_net, info, model, node, normal
from tests.helpers.commands import call
from tests.helpers.running import arrays, feeds_of, load, put, run, serialise

FORM = "int8-dynamic"
KERNELS = {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
PLACES = [
    "matmul", "matmul 3-D", "gemm", "gemm transB bias", "gemm as torch writes it", "gemm bias [1]",
    "gemm empty bias", "constant", "ir 3", "residual", "deep", "lora", "MatMul Clip", "Gemm Relu", "Gemm two readers",
]  # fmt: skip


def encoded(proto: onnx.ModelProto, folder, feeds=None, **options):
    """The model in the form, with its own random inputs as data, and what was reported."""
    given = feeds_of(proto, batch=32) if feeds is None else feeds
    np.savez(folder / "data.npz", **given)
    opened = load(proto)
    change = Encode(**{"values": FORM, "data": str(folder / "data.npz"), **options}).run(opened)
    return opened, change, given


def away(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", PLACES)
def test_a_product_is_near_that_of_the_decoded_model_and_decode_restores_the_graph(name, tmp_path):
    proto = CASES[name][0]()
    opened, _, feeds = encoded(proto, tmp_path)
    assert {group.values for group in encoded_weights(opened)} == {FORM}
    data = serialise(opened)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    Decode().run(opened)
    dense = serialise(opened)
    for each, exact in zip(run(data, feeds), run(dense, feeds), strict=True):
        assert 0 < away(each, exact) < 0.03
    if name != "ir 3":  # its weight comes back as a Constant
        assert skeleton(onnx.load_from_string(dense)) == skeleton(proto)


@pytest.mark.parametrize("encoding", [name for name, encoding in GRAPH.items() if encoding.fits(None)])
def test_a_kernel_multiplies_integers_that_are_decoded_at_load(encoding, tmp_path):
    weight = normal(256, 64)
    weight[np.abs(weight) < 1.6] = 0
    proto = net([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, [info("x", ["N", 256])])
    opened, _, feeds = encoded(proto, tmp_path, encoding=encoding)
    (group,) = encoded_weights(opened)
    assert (group.encoding, group.fused, group.dynamic) == (encoding, True, True)
    (body,) = optimised(serialise(opened), tmp_path / "optimised.onnx")
    assert [each.op_type for each in body.node] == ["DynamicQuantizeMatMul"]
    held = {t.name: t for t in body.initializer}
    integers = held[body.node[0].input[1]]
    assert integers.data_type == TensorProto.INT8
    carrier = onnx.numpy_helper.to_array(integers).astype(np.int32)
    assert np.abs(carrier).max(0).tolist() == [STEPS] * 64
    assert ((carrier == 0) >= (weight == 0)).all()
    assert away(run(serialise(opened), feeds)[0], feeds["x"] @ weight) < LIMIT
    array = group.array(opened)
    put(tmp_path / "m.onnx", onnx.load_from_string(serialise(opened)))
    seen = onnxprune.decoding(tmp_path / "m.onnx", data=str(tmp_path / "data.npz"))
    assert (seen.fused, seen.folded, seen.each_run) == (["w"], [], [])
    np.testing.assert_array_equal(group.parts.array(opened, group.element), array)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_seven_bits_never_saturate(rows):
    """Pairs of products are added in 16 bits by kernels of processors without VNNI: 2 * 255 * 64 does not fit."""
    rng = np.random.default_rng(rows)
    integers = rng.choice([-STEPS, STEPS], (256, 64)).astype(np.int8)
    integers[:, :8] = STEPS
    graph = helper.make_graph(
        [node("MatMulInteger", ["x", "w"], ["y"])], "g", [info("x", ["N", 256], TensorProto.UINT8)],
        [info("y", ["N", 64], TensorProto.INT32)], [onnx.numpy_helper.from_array(integers, "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.choice([0, 255], (rows, 256)).astype(np.uint8)
    x[0] = 255
    np.testing.assert_array_equal(run(proto, {"x": x})[0], x.astype(np.int32) @ integers.astype(np.int32))


@settings(max_examples=30)
@given(st.integers(0, 99), st.floats(-30, 30), st.floats(0.01, 30), st.booleans())
def test_activations_are_rounded_as_onnxruntime_rounds_them(seed, shift, spread, one_sided):
    x = (normal(5, 7, seed=seed) * spread + shift).astype(np.float32)
    x = np.abs(x) if one_sided else x
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    (expected,) = run(model(nodes, [info("x", [5, 7])], [info("y", [5, 7])]), {"x": x})
    found = rounded_to_bytes(x, min(0.0, float(x.min())), max(0.0, float(x.max())))
    step = (max(0.0, float(x.max())) - min(0.0, float(x.min()))) / 255
    off = np.abs(found - expected) > 1e-4 * np.abs(x).max()
    assert np.abs(found - expected).max() <= 1.001 * step  # halves of a step may go either way
    assert off.mean() <= 0.1


def mixed(scales) -> dict[str, np.ndarray]:
    return {"x": normal(len(scales), IN) * np.asarray(scales, np.float32)[:, None]}


@pytest.mark.parametrize(
    ("feeds", "bears"),
    [(mixed([1.0] * 32), True), (mixed(np.geomspace(1, 100, 32)), False),
     ({"x": np.where(np.arange(IN) == 5, 40, 1).astype(np.float32) * normal(32, IN)}, False)],
    ids=["alike", "rows of mixed scale", "an outlier"],
)  # fmt: skip
def test_a_layer_whose_product_would_be_too_far_off_is_int8_and_that_is_said(feeds, bears, tmp_path):
    proto = CASES["gemm transB bias"][0]()
    opened, change, _ = encoded(proto, tmp_path, feeds)
    (group,) = encoded_weights(opened)
    assert group.values == (FORM if bears else "int8")
    found = re.findall(r"would be ([\d.]+) % off, its worst row ([\d.]+) %", " ".join(change.notes))
    assert len(found) == (not bears)
    if not bears:
        whole, worst = (float(number) / 100 for number in found[0])
        assert whole > LIMIT or worst > ROW_LIMIT
        assert change.notes[0].startswith("'w' is int8 in place of int8-dynamic: on the data its product")


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_layer_that_reads_numbers_which_are_not_finite_is_int8(value, tmp_path):
    x = normal(64, IN)
    x[3, 5] = value
    _, change, _ = encoded(CASES["matmul"][0](), tmp_path, {"x": x})
    assert any(
        "in place of int8-dynamic: what it is multiplied with is not finite on the data" in n for n in change.notes
    )


def test_the_error_that_decides_is_that_of_the_kernel_on_the_whole_batch(tmp_path, monkeypatch):
    from onnxprune.allocation import activation_rounding

    proto = CASES["matmul"][0]()
    feeds = mixed(np.geomspace(1, 100, 32))
    monkeypatch.setattr(activation_rounding, "LIMIT", 0.0)
    _, change, _ = encoded(proto, tmp_path, feeds)
    said = re.findall(r"([\d.]+) %", change.notes[0])
    monkeypatch.setattr(activation_rounding, "LIMIT", 1.0)
    monkeypatch.setattr(activation_rounding, "ROW_LIMIT", 1.0)
    opened, _, _ = encoded(proto, tmp_path, feeds)
    (found,), (exact,) = run(serialise(opened), feeds), run(proto, feeds)
    rows = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert float(said[0]) == pytest.approx(100 * away(found, exact), abs=0.06)
    assert float(said[1]) == pytest.approx(100 * rows.max(), rel=0.02, abs=0.06)


@pytest.mark.parametrize(
    ("build", "why"),
    [(conv_net, "no MatMul or Gemm alone reads it"), (CASES["matmul and gather"][0], "no MatMul or Gemm alone"),
     (CASES["in a branch"][0], "it is read inside a body"), (CASES["two matmuls"][0], "no MatMul or Gemm alone")],
    ids=["convolution", "also gathered", "branch", "two readers"],
)  # fmt: skip
def test_what_no_product_alone_reads_is_int8(build, why, tmp_path):
    opened, change, _ = encoded(build(), tmp_path, feeds_of(build(), batch=4))
    assert FORM not in {group.values for group in encoded_weights(opened)}
    assert any(f"is int8 in place of int8-dynamic: {why}" in note for note in change.notes)


@pytest.mark.parametrize("options", [{"values": FORM}, {"values": "exact", "set": (f"w={FORM}",)}])
def test_without_data_it_is_refused(options):
    with pytest.raises(OptionError, match="int8-dynamic needs data"):
        Encode(**options)


def test_another_target_gets_int8_or_what_it_reads(tmp_path):
    for target, form in (("onnxruntime>=1.25", FORM), ("onnxruntime-web", FORM), ("opencv", "int8")):
        opened, change, _ = encoded(CASES["matmul"][0](), tmp_path, target=(target,))
        assert {group.values for group in encoded_weights(opened)} == {form}, target
        assert any("kernels of the targets" in note for note in change.notes) == (form != FORM)


def test_a_lower_opset_is_raised(tmp_path):
    proto = CASES["matmul"][0]()
    proto.opset_import[0].version, proto.ir_version = 9, 4
    opened, change, _ = encoded(proto, tmp_path)
    assert {group.values for group in encoded_weights(opened)} == {FORM}
    assert any("the opset was raised" in note for note in change.notes)


def test_the_commands_work_on_it(tmp_path):
    """Masks, a search, decode, pack, inspect, compat."""
    put(tmp_path / "m.onnx", CASES["MatMul Clip"][0]())
    np.savez(tmp_path / "d.npz", x=normal(16, IN, seed=3))
    small, data = tmp_path / "s.onnx", ("--data", tmp_path / "d.npz")
    pruning = ("--sparsity", 0.5, "--saliency", "magnitude", "--masks", tmp_path / "k.safetensors")
    said = call("compress", tmp_path / "m.onnx", "-o", small, "--values", FORM, *pruning, *data).output
    assert "bitmask int8-dynamic" in said
    assert (tmp_path / "k.safetensors").exists()
    assert next(row for row in onnxprune.inspect(small) if row["name"] == "w")["encoding"] == "bitmask int8-dynamic"
    assert "bitmask int8-dynamic for MatMul" in call("compat", small).output
    call("pack", small, "-o", tmp_path / "s.onnxz")
    call("unpack", tmp_path / "s.onnxz", "-o", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == small.read_bytes()
    call("decode", small, "-o", tmp_path / "dense.onnx", *data)
    assert not encoded_weights(onnxprune.load(tmp_path / "dense.onnx"))
    searched = ("--max-drop", 5, "--metric", "agreement")
    call("compress", tmp_path / "m.onnx", "-o", tmp_path / "found.onnx", "--values", FORM, *searched, *data)
    assert {group.values for group in encoded_weights(onnxprune.load(tmp_path / "found.onnx"))} == {FORM}


def test_values_on_the_grid_stay_what_they_are(tmp_path):
    """Rounded again with data they are the same; without, int8 holds them."""
    opened, _, _ = encoded(CASES["gemm transB bias"][0](), tmp_path)
    Decode().run(opened)
    before = arrays(opened)
    for options, form in (({"values": FORM, "data": str(tmp_path / "data.npz")}, FORM), ({}, "int8")):
        again = opened.copy()
        Encode(**options).run(again)
        assert {group.values for group in encoded_weights(again)} == {form}
        Decode().run(again)
        assert arrays(again) == before


def test_products_that_share_what_rounds_their_input_are_decoded(tmp_path):
    """ONNX Runtime makes one DynamicQuantizeLinear of equal ones, and folds what decodes the integers."""
    opened, _, feeds = encoded(CASES["residual"][0](), tmp_path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "basic.onnx")
    ort.InferenceSession(serialise(opened), options, providers=["CPUExecutionProvider"])
    Decode().run(opened)
    tool = onnxprune.load(tmp_path / "basic.onnx")
    assert [each.op_type for each in tool.proto.graph.node].count("DynamicQuantizeLinear") == 1
    Decode().run(tool)
    assert not encoded_weights(tool)
    assert {array[2] for array in arrays(tool).values()} == {array[2] for array in arrays(opened).values()}
    assert "DynamicQuantizeLinear" not in {each.op_type for each in tool.proto.graph.node}
    np.testing.assert_allclose(run(serialise(tool), feeds)[0], run(serialise(opened), feeds)[0], rtol=1e-5, atol=1e-5)
