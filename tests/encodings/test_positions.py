"""Positions of nonzero entries: what is packed comes back, in numpy and in ONNX Runtime."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.graph.insert import insert, prepare
from onnxprune.encodings.positions.rows import Rows
from onnxprune.encodings.sparse import Sparse
from onnxprune.encodings.values import form_of
from onnxprune.model.discovery import find
from tests.helpers.arrays import special
from tests.helpers.builders import info, model, node
from tests.helpers.running import assert_same_bits, load, newest_opset, run, serialise

BF16 = np.dtype(ml_dtypes.bfloat16)
FILLS = [(np.dtype(t), 0) for t in (np.float16, BF16, np.float32, np.float64, np.int8, np.uint8)] + [
    (np.dtype(np.uint8), 128),
    (np.dtype(np.int8), -3),
]
OPSETS = [9, 10, 11, 13, 17, 21, newest_opset()]
PLAIN = {name: encoding for name, encoding in GRAPH.items() if encoding.fits(None)}  # those that store values too
ENCODINGS = pytest.mark.parametrize("encoding", PLAIN.values(), ids=PLAIN)
EXACT = [e for e in PLAIN.values() if e.name != "dense"]  # dense and exact is a plain initializer
EMITTED = [(e, v) for e in EXACT for v in OPSETS if e.opset <= v]


@st.composite
def weights(draw):
    """(array, fill): sparse arrays of every type, with runs of the fill above 255 and above 510."""
    dtype, fill_value = draw(st.sampled_from(FILLS))
    shape = draw(
        st.sampled_from([(1,), (1, 1), (1, 700), (700, 1), (1300,), (7, 3, 5), (3, 517), (2, 3, 301), (256,), (255, 3)])
        | hnp.array_shapes(min_dims=1, max_dims=4, max_side=9)
    )
    size = int(np.prod(shape))
    array = np.full(size, fill_value, dtype)
    kept = draw(st.sampled_from(["none", "all", "few", "ends", "some"]))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    if kept == "all":
        array[:] = draw(st.sampled_from(special(dtype)))
    else:
        share = {"none": 0.0, "few": 0.004, "ends": 0.0, "some": 0.3}[kept]
        at = np.flatnonzero(rng.random(size) < share)
        at = np.union1d(at, [0, size - 1]) if kept == "ends" else at
        pool = np.array([*special(dtype), *rng.integers(1, 100, 5).astype(dtype)], dtype)
        array[at] = rng.choice(pool, len(at))
    return array.reshape(shape), np.array(fill_value, dtype)


def gap(size: int, at: list[int]) -> tuple:
    array = np.zeros(size, np.float32)
    array[at] = 1
    return array, np.array(0, np.float32)


# numpy ----------------------------------------------------------------------------------------------


@ENCODINGS
@settings(max_examples=200)
@given(case=weights())
@example(case=gap(300, [255]))
@example(case=gap(300, [256]))
@example(case=gap(600, [0, 255, 510]))
@example(case=gap(600, [0, 511]))
@example(case=gap(800, [1, 766]))
@example(case=gap(800, [767]))
def test_unpack_restores_what_pack_packed(encoding, case):
    array, fill_value = case
    sparse = Sparse.of(array, fill_value)
    assert_same_bits(sparse.carrier.whole(), array)
    parts = encoding.pack(sparse)
    dense = np.full(array.size, fill_value)
    for positions, values in encoding.unpack(parts, array.shape):
        dense[positions] = values
    assert_same_bits(dense.reshape(array.shape), array)
    assert encoding.payload(sparse) == sum(p.nbytes for p in parts.values())


@given(case=weights())
def test_rows_may_be_written_in_any_order(case):
    """A runtime that scatters in parallel may write padding first or last."""
    array, fill_value = case
    parts = Rows().pack(Sparse.of(array, fill_value))
    ((positions, values),) = Rows().unpack(parts, array.shape)
    dense = np.full(array.size, fill_value)
    dense[positions[::-1]] = values[::-1]
    assert_same_bits(dense.reshape(array.shape), array)


# the graph decodes itself ---------------------------------------------------------------------------


def decoded_by_runtime(cases, encoding, version, values="exact"):
    """(what ONNX Runtime makes of each encoded weight, what numpy makes of it)."""
    nodes, outs, held = [], [], {}
    for i, (array, _) in enumerate(cases):
        held[f"w{i}"] = array
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        wide = array.dtype == BF16  # numpy cannot take bfloat16 from ONNX Runtime
        nodes.append(
            node("Cast", [f"w{i}"], [f"y{i}"], to=TensorProto.FLOAT) if wide else node("Identity", [f"w{i}"], [f"y{i}"])
        )
        outs.append(info(f"y{i}", list(array.shape), TensorProto.FLOAT if wide else element))
    nodes.append(node("Identity", ["x"], ["z"]))
    opened = load(model(nodes, [info("x", [1])], [*outs, info("z", [1])], held, version))
    for weight in find(opened):
        array, fill_value = cases[int(weight.value[1:])]
        form = form_of(values)
        weight.zero = fill_value if fill_value.any() else None
        coded = form.code(weight, array, None)
        assert coded is not None
        sparse = Sparse.of(coded.carrier, coded.fill_value, coded.codebook)
        insert(opened, weight, prepare(opened, weight, coded, sparse, encoding, form, f"~{weight.value}"))
    by_name = {p.name: p.array(opened) for p in encoded_weights(opened)}
    assert by_name
    got = run(serialise(opened), {"x": np.zeros(1, np.float32)})
    for i, (array, _) in enumerate(cases):
        if f"w{i}" in by_name:
            yield got[i], by_name[f"w{i}"], array


def check_runtime(cases, encoding, version, values="exact"):
    for got, ours, array in decoded_by_runtime(cases, encoding, version, values):
        expected = array.astype(np.float16).astype(array.dtype) if values == "half" else array
        assert_same_bits(ours, expected)
        if array.dtype == BF16:
            np.testing.assert_array_equal(got, expected.astype(np.float32))
            np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))
        else:
            assert_same_bits(got, expected)


def fixed_cases():
    rng = np.random.default_rng(0)
    for dtype, fill_value in FILLS:
        for shape in [(2,), (1, 700), (700, 1), (7, 3, 5), (3, 517), (2, 3, 301), (1600,)]:
            for share in (0.0, 0.003, 0.4, 1.0):
                array = np.full(shape, fill_value, dtype)
                mask = rng.random(shape) < share
                # NaN payloads: a Cast from bfloat16 may quieten them, so that type has none here
                pool = [v for v in special(dtype) if dtype != BF16 or v == v]
                array[mask] = rng.choice(np.array([*pool, 7, 9], dtype), mask.sum())
                yield array, np.array(fill_value, dtype)


CASES = list(fixed_cases())


@pytest.mark.parametrize(("encoding", "version"), EMITTED, ids=[f"{e.name}-{v}" for e, v in EMITTED])
def test_the_runtime_decodes_the_same_bytes(encoding, version):
    cases = [c for c in CASES if version >= 13 or c[0].dtype != BF16]  # Cast knows bfloat16 from 13 on
    check_runtime(cases, encoding, version)


@settings(max_examples=80)
@given(case=weights().filter(lambda c: c[0].dtype != BF16 and c[0].size > 1), how=st.sampled_from(EMITTED))
def test_the_runtime_decodes_any_weight(case, how):
    check_runtime([case], *how)


@ENCODINGS
@pytest.mark.parametrize("version", [11, 17])
def test_the_runtime_widens_half_values(encoding, version):
    rng = np.random.default_rng(0)
    cases = []
    for dtype in (np.float32, np.float64):
        for share in (0.01, 0.5):
            array = np.where(rng.random((30, 40)) < share, rng.standard_normal((30, 40)), 0).astype(dtype)
            array[0, :3] = 1e-7, -1e-9, 65504  # a subnormal half, one that rounds to -0.0, the largest
            cases.append((array, np.array(0, dtype)))
    check_runtime(cases, encoding, version, "half")
