"""What needs no loss gets none: few distinct values, and what was coded before, come back bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import bits_of
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.values import lossless
from onnxprune.encodings.values.scales import computed
from onnxprune.model.discovery import find
from onnxprune.model.provenance import Coding
from onnxprune_passes import DeadNeurons, Decode, Encode, Magnitude
from tests.helpers.builders import info, matmul, mlp, node, normal
from tests.helpers.running import load, outputs, serialise

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = {
    np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16, BF16: TensorProto.BFLOAT16,
    np.dtype(np.float64): TensorProto.DOUBLE,
}  # fmt: skip


def bits(array: np.ndarray) -> np.ndarray:
    return bits_of(np.ascontiguousarray(array))


def holder(array: np.ndarray, opset: int = 17) -> onnx.ModelProto:
    """A MatMul behind a Cast, so that there is a kernel whatever the type of the weight, which is an output too."""
    element = FLOATS[array.dtype]
    weight = numpy_helper.from_array(array, "w")
    nodes = [
        node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT), node("MatMul", ["x", "wide"], ["y"]),
        node("Identity", ["w"], ["seen"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [info("x", ["n", array.shape[0]])], [info("y", None), info("seen", None, element)], [weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@st.composite
def palettes(draw) -> np.ndarray:
    """A matrix of few bit patterns: -0.0, subnormals and infinities among them."""
    dtype = draw(st.sampled_from(list(FLOATS)))
    seed, count = draw(st.integers(0, 99)), draw(st.integers(1, 256))
    rng = np.random.default_rng(seed)
    kind = f"u{dtype.itemsize}"
    exotic = [0, 1, 1 << (8 * dtype.itemsize - 1), (1 << (8 * dtype.itemsize - 1)) + 3]  # 0.0, subnormal, -0.0
    ordinary = bits(rng.standard_normal(256).astype(dtype))
    pool = np.array([*exotic, *bits(np.array([np.inf, -np.inf], dtype)), *ordinary], kind)
    chosen = rng.permutation(np.unique(pool))[:count] if draw(st.booleans()) else pool[:count]
    shares = rng.dirichlet(np.full(len(chosen), draw(st.sampled_from([0.05, 1.0, 100.0]))))
    return rng.choice(chosen, (64, 48), p=shares).astype(kind).view(dtype)


@settings(max_examples=40, deadline=None)
@given(array=palettes(), values=st.sampled_from(["exact", "shared:8"]))
def test_few_values_are_stored_bit_for_bit(array, values):
    opened = load(holder(array))
    before = onnx.load_from_string(serialise(opened))
    Encode(values=values).run(opened)
    data = serialise(opened)
    assert len(data) <= before.ByteSize()
    groups = encoded_weights(opened)
    distinct = len(np.unique(bits(array)))
    if distinct <= 2 ** (4 * array.dtype.itemsize) // 2 and distinct < 100:
        assert groups or find(opened)[0].store == "sparse"  # half of the dense bytes at the most, but for nodes
    for group in groups:
        np.testing.assert_array_equal(bits(group.array(opened)), bits(array))
    finite = np.isfinite(array.astype(np.float64)).all()
    if finite and array.dtype != BF16:
        seen = outputs(data)[1]
        assert seen == array.tobytes()
    Decode().run(opened)
    np.testing.assert_array_equal(bits(find(opened)[0].array(opened)), bits(array))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("distinct", [255, 256, 257])
def test_a_codebook_holds_256_values_and_no_more(dtype, distinct):
    patterns = bits(
        np.linspace(1, 2, 400, dtype=np.float64).astype(dtype) if dtype != BF16 else normal(9000).astype(dtype)
    )
    array = np.resize(np.unique(patterns)[:distinct], (128, 96)).view(dtype)
    opened = load(holder(array))
    Encode().run(opened)
    assert bool(encoded_weights(opened)) == (distinct <= 256)
    assert (lossless.few(find(load(holder(array)))[0], array) is None) == (distinct > 256)


@pytest.mark.parametrize("encoding", ["auto", "flat", "rows", "bitmask", "dense"])
def test_nan_payloads_stay_dense_and_as_they_are(encoding):
    array = np.resize(np.array([0x7FC00001, 0xFF800123, 0, 1 << 31, 5], np.uint32), (64, 32)).view(np.float32)
    opened = load(matmul(array))
    Encode(encoding=encoding).run(opened)
    assert lossless.few(find(load(matmul(array)))[0], array) is None
    Decode().run(opened)
    np.testing.assert_array_equal(bits(find(opened)[0].array(opened)), bits(array))


@pytest.mark.parametrize("values", ["auto", "exact", "shared:2", "shared:4"])
def test_ternary_weights_take_two_bits_and_lose_nothing(values):
    array = np.random.default_rng(0).choice(np.array([-0.0123, 0, 0.0123], np.float32), (256, 128))
    opened = load(holder(array))
    before = outputs(opened.proto)
    Encode(values=values, keep_zeros=True).run(opened)
    (group,) = encoded_weights(opened)
    assert group.nbytes(opened) < array.size / 4.9 + 500  # five to a byte
    assert outputs(serialise(opened)) == before
    np.testing.assert_array_equal(bits(group.array(opened)), bits(array))


def test_a_grid_per_channel_is_coded_again_after_pruning_and_cutting():
    """Scales of int8 per channel make thousands of distinct values: only their memory holds them."""
    opened = load(mlp((64, 96, 48), seed=2))
    Encode(values="int8").run(opened)
    coded = {g.name: g.nbytes(opened) for g in encoded_weights(opened)}
    Decode().run(opened)
    Magnitude(sparsity=0.8).run(opened)
    weight = next(w for w in find(opened) if w.name == "fc0.weight")
    array = weight.array(opened).copy()
    array[5:30] = 0  # neurons without inputs
    weight.set_array(opened, array)
    change = DeadNeurons().run(opened)
    assert {r.name for r in change.removed} >= {"fc0.weight", "fc1.weight"}
    before = {w.name: w.array(opened).tobytes() for w in find(opened)}
    Encode().run(opened)
    groups = {g.name: g for g in encoded_weights(opened)}
    for name in ("fc0.weight", "fc1.weight"):
        assert groups[name].values == "int8"
        assert groups[name].nbytes(opened) < coded[name]
    Decode().run(opened)
    assert {w.name: w.array(opened).tobytes() for w in find(opened)} == before


def test_a_weight_that_was_changed_is_not_what_it_was_coded_in():
    opened = load(mlp((64, 96, 48)))
    Encode(values="int8").run(opened)
    Decode().run(opened)
    weight = next(w for w in find(opened) if w.name == "fc0.weight")
    array = weight.array(opened).copy()
    array[3, 4] = np.nextafter(array[3, 4], np.float32(9))
    weight.set_array(opened, array)
    Encode().run(opened)
    assert [g.name for g in encoded_weights(opened)] == ["fc1.weight"]
    np.testing.assert_array_equal(next(w for w in find(opened) if w.name == "fc0.weight").array(opened), array)


@settings(max_examples=30, deadline=None)
@given(
    axis=st.integers(0, 1), seed=st.integers(0, 9), form=st.sampled_from(["shared", "int8"]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)  # fmt: skip
def test_what_is_not_on_the_grid_is_never_taken_for_it(axis, seed, form, dtype):
    """Bit for bit: a neighbour of a level, -0.0, and values between levels are refused."""
    rng = np.random.default_rng(seed)
    codebook = np.array([0, *sorted({*rng.integers(1, 120, 9)})], np.int8 if form == "int8" else np.float16)
    scale = np.exp2(rng.uniform(-6, 0, (40, 1) if axis else (1, 24))).astype(np.float16)
    wide = np.float64 if dtype == np.float64 else np.float32
    array = (codebook[rng.integers(0, len(codebook), (40, 24))].astype(wide) * scale.astype(wide)).astype(dtype)
    weight = find(load(holder(array)))[0]
    coded = lossless.again(weight, computed(array), Coding(form, codebook, scale), None)
    assert coded is not None
    made = coded.codebook[coded.carrier.whole()].astype(wide) * coded.scale.astype(wide)
    np.testing.assert_array_equal(bits(made.astype(dtype)), bits(array))
    for strange in (-0.0, np.nextafter(array[7, 7], dtype(1e4)), -array.max(), np.nan, np.inf):
        other = array.copy()
        other[7, 7] = strange
        assert lossless.again(weight, computed(other), Coding(form, codebook, scale), None) is None


@pytest.mark.parametrize(
    "coding",
    [
        Coding("int8", None, np.zeros((1, 24), np.float16)), Coding("int8", None, np.full((1, 24), np.nan, np.float32)),
        Coding("int8", None, np.ones((1, 7), np.float16)), Coding("int8", None, np.ones((2, 2, 2), np.float16)),
        Coding("shared", np.ones((2, 2), np.float16), np.ones((1, 1), np.float16)),
        Coding("shared", np.zeros(0, np.float16), np.ones((1, 1), np.float16)),
        Coding("shared", np.array([3, 1, 2], np.float16), np.ones((1, 1), np.float16)),
        Coding("int4", lossless.INT8_BOOK[:4], np.ones((2, 24), np.float16), (), 32, True),
        Coding("int4", lossless.INT8_BOOK[:4], np.ones((9, 24), np.float16), (), 32, False),
    ],
)  # fmt: skip
def test_a_coding_that_does_not_fit_is_refused(coding):
    array = normal(40, 24)
    weight = find(load(holder(array)))[0]
    for transposed in (None, False, True):
        assert lossless.again(weight, computed(array), coding, transposed) is None


def test_chunks_and_threads_show_in_no_byte(monkeypatch):
    array = np.random.default_rng(1).choice(normal(200), (500, 64))
    weight = find(load(holder(array)))[0]
    whole = lossless.few(weight, array)
    monkeypatch.setattr("onnxprune.core.chunked.UNIT_ELEMENTS", 64)
    monkeypatch.setattr("onnxprune.core.chunked.CHUNK_ELEMENTS", 512)
    monkeypatch.setattr(lossless, "UNIT_ELEMENTS", 64)
    monkeypatch.setattr(lossless, "_FIRST", 100)
    split = lossless.few(weight, ChunkedArray.of(array))
    np.testing.assert_array_equal(whole.carrier.whole(), split.carrier.whole())
    np.testing.assert_array_equal(whole.codebook, split.codebook)


def test_ordinary_weights_are_told_by_their_first_rows():
    """What has no few values is read no further."""
    array, read = normal(4096, 512), []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append(stop - start)
        return array[start:stop]

    chunked = ChunkedArray.rowwise(array.shape, array.dtype, rows)
    weight = find(load(holder(array[:8])))[0]
    assert lossless.few(weight, chunked) is None
    assert lossless.halved(chunked) is None
    assert sum(read) <= 16
