"""int2: two bits a weight in front of a MatMul, for weights that were trained to bear it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

import onnxprune
from onnxprune.encodings.compatibility import compatibility
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import feeds_of, initializers, load, run, serialise

KERNEL = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 29)


def on_grid(inputs: int, outputs: int, levels: range, block: int) -> np.ndarray:
    """Weights of a few levels, times a float16 scale for each block of inputs and each output."""
    rng = np.random.default_rng(inputs)
    values = rng.choice(levels, (inputs, outputs)).astype(np.float32)
    values[::block] = levels[0]  # so that every block has its largest magnitude
    scale = rng.uniform(0.01, 0.02, (-(-inputs // block), outputs)).astype(np.float16)
    return values * np.repeat(scale, block, 0)[:inputs].astype(np.float32)


def product(weight: np.ndarray, transposed: bool = False, readers: int = 1, opset: int = 21):
    """Gemm layers that read one weight."""
    inputs, outputs = weight.shape
    nodes = [node("Gemm", ["x", "w", "b"], [f"y{n}"], transB=int(transposed)) for n in range(readers)]
    held = {"w": np.ascontiguousarray(weight.T) if transposed else weight, "b": normal(outputs)}
    ends = [info(f"y{n}", ["N", outputs]) for n in range(readers)]
    return model(nodes, [info("x", ["N", inputs])], ends, held, opset)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("inputs", [128, 200])
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("levels", [range(-2, 2), range(-1, 2)])
def test_weights_of_two_bits_are_held_exactly(levels, block, inputs, transposed):
    weight = on_grid(inputs, 48, levels, block)
    opened = load(product(weight, transposed))
    change = Encode(values="int2").run(opened)
    assert change.notes == ["the opset was raised from 21 to 25, and the outputs stayed the same"]
    (found,) = encoded_weights(opened)
    assert (found.encoding, found.values, found.fused, found.packed) == ("dense", "int2", True, True)
    assert f".b{block}" in found.flags
    (stored,) = (each for each in opened.proto.graph.initializer if each.data_type == 26)
    assert opened.nbytes(stored) - inputs * 48 // 4 in range(100)
    first = serialise(opened)
    Decode().run(opened)
    held = initializers(onnx.load_from_string(serialise(opened)))["w"]
    np.testing.assert_array_equal(held.T if transposed else held, weight)
    Encode().run(opened)
    assert serialise(opened) == first


def test_any_weights_are_rounded_to_four_values():
    weight = normal(256, 64)
    opened = load(product(weight))
    Encode(values="int2").run(opened)
    (found,) = encoded_weights(opened)
    decoded = found.array(opened)
    assert np.square(decoded - weight).sum() < 0.25 * np.square(weight).sum()
    for start in range(0, 256, 64):
        assert all(len(np.unique(column)) <= 4 for column in decoded[start : start + 64].T)


@pytest.mark.skipif(not KERNEL, reason="older releases have no kernel for processors with AVX2")
def test_a_kernel_reads_the_integers(tmp_path):
    opened = load(product(on_grid(256, 64, range(-2, 2), 64)))
    Encode(values="int2").run(opened)
    data, options = serialise(opened), ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "run")
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feeds = feeds_of(opened.proto)
    near = session.run(None, feeds)[0]
    events = json.loads(Path(session.end_profiling()).read_text())
    assert "MatMulNBits" in {event["args"].get("op_name") for event in events if "args" in event}
    Decode().run(opened)
    want = run(serialise(opened), feeds)[0]
    assert np.linalg.norm(near - want) < 0.02 * np.linalg.norm(want)  # activations are rounded to 8 bits


@pytest.mark.parametrize(("encoding", "readers"), [("flat", 1), ("rows", 1), ("bitmask", 1), ("auto", 2)])
def test_elsewhere_it_is_decoded_at_load(encoding, readers):
    weight = on_grid(256, 64, range(-2, 2), 64)
    weight[np.random.default_rng(0).random(weight.shape) < 0.8] = 0
    opened = load(product(weight, readers=readers))
    Encode(values="int2", encoding=encoding).run(opened)
    (found,) = encoded_weights(opened)
    assert (found.values, found.fused, opened.opset) == ("int2", False, 21)
    feeds = feeds_of(opened.proto)
    got = run(serialise(opened), feeds)
    Decode().run(opened)
    for one, other in zip(got, run(serialise(opened), feeds), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_kernel_the_reason_is_told():
    opened = load(product(on_grid(256, 64, range(-2, 2), 64)))
    change = Encode(values="int2", target=("onnxruntime",)).run(opened)
    (found,) = encoded_weights(opened)
    assert not found.fused
    assert change.notes == [
        "'w' is decoded at load: onnxruntime has no fast kernel for int2; --target 'onnxruntime>=1.29' has one"
    ]
    opened = load(product(on_grid(256, 64, range(-2, 2), 64)))
    Encode(values="int2", target=("onnxruntime>=1.29",)).run(opened)
    assert encoded_weights(opened)[0].fused
    (form,) = compatibility(opened).forms
    assert (form.form, form.loads, form.fast) == ("dense int2 for MatMul", "1.24", "1.29")


def test_every_command_reads_it(tmp_path):
    weight = on_grid(256, 64, range(-1, 2), 64)
    onnx.save(product(weight), tmp_path / "m.onnx")
    onnxprune.encode(tmp_path / "m.onnx", tmp_path / "e.onnx", values="int2", target=["onnxruntime>=1.29"])
    (facts,) = (each for each in onnxprune.inspect(tmp_path / "e.onnx") if each["name"] == "w")
    assert (facts["zeros"], facts["encoding"]) == ((weight == 0).sum(), "dense int2")
    onnxprune.pack(tmp_path / "e.onnx", tmp_path / "e.onnxz")
    onnxprune.unpack(tmp_path / "e.onnxz", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (tmp_path / "e.onnx").read_bytes()
    assert onnxprune.verify(tmp_path / "m.onnx", tmp_path / "e.onnx")
    np.savez(tmp_path / "old.npz", w=weight, b=normal(64))
    np.savez(tmp_path / "new.npz", w=weight * 2, b=normal(64))
    onnxprune.update(
        tmp_path / "e.onnx", tmp_path / "new.npz", tmp_path / "u.onnx", names_from=tmp_path / "old.npz", verify=False
    )
    onnxprune.decode(tmp_path / "u.onnx", tmp_path / "d.onnx")
    np.testing.assert_array_equal(initializers(onnx.load(tmp_path / "d.onnx"))["w"], weight * 2)


def test_int4_of_all_entries_is_an_initializer_of_four_bits():
    opened = load(product(normal(256, 64)))
    Encode(values="int4").run(opened)
    (found,) = encoded_weights(opened)
    assert (found.encoding, found.packed) == ("dense", True)
    kinds = {each.data_type for each in opened.proto.graph.initializer}
    assert TensorProto.INT4 in kinds
    assert [each.op_type for each in opened.proto.graph.node] == ["Cast", "DequantizeLinear", "Gemm"]
