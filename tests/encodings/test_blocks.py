"""int8 with a scale for each block of inputs: the grid, its kernel, and when it takes the place of a codebook."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation.rate_distortion import LOST
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.values.blocks import block_peaks
from onnxprune.encodings.values.integers import Int8
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import assert_same_bits, load, run, serialise

FINE = 2e-4  # a loss that only a byte an entry keeps to


def gemm(array: np.ndarray, transposed: bool, opset: int = 17) -> onnx.ModelProto:
    """A layer of this weight [in, out]."""
    inputs, outputs = array.shape
    held = {"w": np.ascontiguousarray(array.T) if transposed else array}
    layer = node("Gemm", ["x", "w"], ["y"], transB=1) if transposed else node("MatMul", ["x", "w"], ["y"])
    return model([layer], [info("x", ["N", inputs])], [info("y", ["N", outputs])], held, opset)


def encoded(proto: onnx.ModelProto, loss: float = FINE) -> Model:
    opened = load(proto)
    Encode(values="auto", loss=loss).run(opened)
    return opened


def block_of(opened: Model) -> int:
    """The block of its weight; 0 without one."""
    coding = encoded_weights(opened)[0].coding(opened)
    assert coding is not None
    return coding.block


def uneven(inputs: int, outputs: int, run_length: int, factor: float = 8.0) -> np.ndarray:
    """Values of which every other run of inputs is so many times as large."""
    louder = np.where(np.arange(inputs) // run_length % 2, factor, 1.0)[:, None]
    return (normal(inputs, outputs) * louder).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 300), columns=st.integers(1, 40), block=st.sampled_from([16, 64, 128, 256]),
    transposed=st.booleans(), tail=st.sampled_from([2, 5, 100]), seed=st.integers(0, 99),
)  # fmt: skip
def test_codes_are_near_and_the_errors_of_a_block_add_up_to_nearly_nothing(
    rows, columns, block, transposed, tail, seed
):
    array = np.random.default_rng(seed).standard_t(tail, (rows, columns)).astype(np.float32)
    opened = load(gemm(array, transposed))
    (weight,) = find(opened)
    held = weight.chunked(opened)
    coded = Int8(block=block).code(weight, held, transposed)
    assert coded is not None
    assert coded.scale is not None
    assert coded.scale.shape == (-(-rows // block), columns)
    np.testing.assert_array_equal(
        block_peaks(held, transposed, block), np.maximum.reduceat(np.abs(array), range(0, rows, block))
    )
    codes = np.asarray(coded.carrier).astype(np.float64)
    scale = np.repeat(coded.scale.astype(np.float64), block, axis=0)[:rows]
    errors = array / scale - codes
    assert codes.shape == array.shape
    assert np.abs(codes).max() <= 127
    assert np.abs(errors).max() <= 1.51
    whole = np.add.reduceat(errors, range(0, rows, block))
    counts = np.minimum(block, rows - np.arange(0, rows, block))[:, None]
    # Moves may run out in a short block whose other entries are at the end of the grid.
    assert (np.abs(whole) <= np.where(counts >= 16, 0.51, 0.51 * counts)).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("inputs", "run_length", "block"), [(512, 512, 256), (384, 384, 128), (512, 64, 64)])
def test_a_kernel_reads_the_longest_blocks_that_keep_to_the_loss(transposed, inputs, run_length, block, tmp_path):
    opened = encoded(gemm(uneven(inputs, 96, run_length), transposed))
    (weight,) = encoded_weights(opened)
    assert (weight.encoding, weight.values, weight.fused) == ("dense", "int8", True)
    assert block_of(opened) == block
    assert opened.opset == 21
    assert {entry.key: entry.value for entry in opened.proto.metadata_props}[LOST] == f"{FINE:g}"
    data = serialise(opened)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (kernel,) = [n for n in onnx.load(tmp_path / "optimised.onnx").graph.node if n.op_type == "MatMulNBits"]
    assert {a.name: a.i for a in kernel.attribute}["block_size"] == block
    feeds = {"x": normal(5, inputs, seed=2)}
    Decode().run(opened)
    expected = run(serialise(opened), feeds, optimised=False)[0]
    size = np.linalg.norm(expected)
    assert np.linalg.norm(run(data, feeds, optimised=False)[0] - expected) <= 1e-5 * size
    assert np.linalg.norm(run(data, feeds)[0] - expected) <= 0.02 * size


@pytest.mark.parametrize("transposed", [False, True])
def test_what_was_decoded_and_pruned_keeps_its_blocks_without_a_loss(transposed):
    opened = encoded(gemm(uneven(384, 96, 64), transposed))
    data, block = serialise(opened), block_of(opened)
    assert block
    again = load(onnx.load_from_string(data))
    assert not Encode(values="auto", loss=FINE).run(again).modified
    Decode().run(opened)
    (weight,) = find(opened)
    pruned = np.where(np.abs(weight.array(opened)) < 0.5, np.float32(0), weight.array(opened))
    weight.set_array(opened, pruned)
    Encode(encoding="dense").run(opened)
    assert block_of(opened) == block
    Decode().run(opened)
    assert_same_bits(find(opened)[0].array(opened), pruned)


def test_outliers_everywhere_are_left_to_a_codebook():
    spikes = np.random.default_rng(0).random((512, 96)) < 0.01
    array = np.where(spikes, 60 * normal(512, 96), normal(512, 96, seed=1)).astype(np.float32)
    (weight,) = encoded_weights(encoded(gemm(array, False), loss=0.001))
    assert weight.values == "shared"
    assert not weight.fused


def test_where_the_opset_stays_there_are_no_blocks():
    proto = gemm(normal(512, 96), False, opset=20)
    opsets, relu = [onnx.helper.make_opsetid("", 20)], [node("Relu", ["a"], ["b"])]
    proto.functions.append(onnx.helper.make_function("f", "Own", ["a"], ["b"], relu, opsets))
    proto.opset_import.append(onnx.helper.make_opsetid("f", 1))
    opened = encoded(proto)
    assert opened.opset == 20
    assert block_of(opened) == 0
