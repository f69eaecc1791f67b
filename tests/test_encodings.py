import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

import onnxprune
from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.graph.insert import insert, prepare
from onnxprune.encodings.positions.rows import Rows
from onnxprune.encodings.sparse import Sparse
from onnxprune.encodings.values import form_of
from onnxprune.model.discovery import find, opset_of
from onnxprune.model.scopes import scopes_of
from onnxprune.runtime import opset
from onnxprune_passes import Decode, Encode
from tests.helpers import builders
from tests.helpers.builders import MODELS, info, matmul, mlp, model, node, normal, tensor
from tests.helpers.running import arrays, assert_same_bits, load, newest_opset, outputs, prune, run, serialise

BF16 = np.dtype(ml_dtypes.bfloat16)
FILLS = [(np.dtype(t), 0) for t in (np.float16, BF16, np.float32, np.float64, np.int8, np.uint8)] + [
    (np.dtype(np.uint8), 128),
    (np.dtype(np.int8), -3),
]
OPSETS = [9, 10, 11, 13, 17, 21, newest_opset()]
ENCODINGS = pytest.mark.parametrize("encoding", GRAPH.values(), ids=GRAPH)
EXACT = [e for e in GRAPH.values() if e.name != "dense"]  # dense and exact is a plain initializer
EMITTED = [(e, v) for e in EXACT for v in OPSETS if e.opset <= v]


def special(dtype: np.dtype) -> list[np.generic]:
    """The bit patterns that a comparison by value would lose: -0.0, infinities, NaNs with a payload."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return [*np.array([0, 1, info.min, info.max], dtype)]
    width = 8 * dtype.itemsize
    patterns = np.array([1 << (width - 1), 1, (1 << width) - 1, (1 << (width - 1)) - 2], f"u{dtype.itemsize}")
    return [*patterns.view(dtype), *np.array([np.inf, -np.inf, 1.5], dtype)]


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


# numpy ---------------------------------------------------------------------------------------------


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
    positions, values = encoding.unpack(parts, array.shape)
    dense = np.full(array.size, fill_value)
    dense[positions] = values
    assert_same_bits(dense.reshape(array.shape), array)
    assert encoding.payload(sparse) == sum(p.nbytes for p in parts.values())


@given(case=weights())
def test_rows_may_be_written_in_any_order(case):
    """A runtime that scatters in parallel may write padding first or last."""
    array, fill_value = case
    parts = Rows().pack(Sparse.of(array, fill_value))
    positions, values = Rows().unpack(parts, array.shape)
    dense = np.full(array.size, fill_value)
    dense[positions[::-1]] = values[::-1]
    assert_same_bits(dense.reshape(array.shape), array)


# the graph decodes itself --------------------------------------------------------------------------


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


# the passes ----------------------------------------------------------------------------------------


def encoded(proto, sparsity=0.9, **options):
    """(model pruned, model pruned and encoded, what encode says)."""
    before, after = prune(proto, sparsity=sparsity), prune(proto, sparsity=sparsity)
    return before, after, Encode(**options).run(after)


@pytest.mark.parametrize("encoding", ["auto", "graph", "coo", *GRAPH])
def test_decode_restores_every_weight_under_its_name(case, encoding):
    proto, names = case
    before, opened, change = encoded(proto, encoding=encoding)
    size, expected = len(serialise(before)), outputs(serialise(before))
    assert len(serialise(opened)) <= size
    if encoding in ("auto", "graph"):
        groups = {p.name for p in encoded_weights(opened)} | {w.name for w in find(opened) if w.store == "sparse"}
        assert groups == names - set(change.skipped)
        assert len(serialise(opened)) < size or not groups
    assert outputs(serialise(opened)) == expected
    stored = {w.name: w.nbytes(before) for w in find(before)}
    for name, record in change.weights.items():
        assert record.bytes_after <= stored[name], name
    onnx.checker.check_model(serialise(opened))
    Decode().run(opened)
    assert not encoded_weights(opened)
    assert arrays(opened) == arrays(before)
    assert not [v.name for top in scopes_of(opened.proto) for s in top.inner() for v in s.body.value_info]
    assert outputs(serialise(opened)) == expected


@pytest.mark.parametrize("encoding", ["flat", "rows", "bitmask"])
def test_weights_are_decoded_once_when_the_model_is_loaded(case, encoding, tmp_path):
    """ONNX Runtime folds the whole group into a constant: nothing of it is left in the optimised graph."""
    before, opened, _ = encoded(case[0], encoding=encoding)
    assert encoded_weights(opened) or any(weight.zero_value.ndim for weight in find(before))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(serialise(opened), options, providers=["CPUExecutionProvider"])
    left = {
        n.op_type for top in scopes_of(onnx.load(tmp_path / "optimised.onnx")) for s in top.inner() for n in s.body.node
    }
    assert not left & {"CumSum", "NonZero", "ScatterElements", "Scatter", "ConstantOfShape", "BitShift", "Reshape"}


def test_the_bytes_that_encode_reports_are_those_in_the_file(case):
    before, opened, change = encoded(case[0])
    was = {w.name: w.nbytes(before) for w in find(before)}
    saved = sum(was[n] - record.bytes_after for n, record in change.weights.items())
    assert len(serialise(before)) - len(serialise(opened)) == pytest.approx(saved, abs=30 * len(was))


@pytest.mark.parametrize("name", MODELS)
def test_encoding_a_file_twice_is_byte_identical(name, tmp_path):
    pruned = prune(MODELS[name][0](), sparsity=0.9)
    pruned.write(tmp_path / "pruned.onnx")
    once, twice, again = (tmp_path / f"{n}.onnx" for n in ("once", "twice", "again"))
    assert (onnxprune.encode(tmp_path / "pruned.onnx", once).ratio > 1) == (name != "asymmetric")
    assert onnxprune.encode(once, twice).ratio == 1
    onnxprune.encode(tmp_path / "pruned.onnx", again)
    assert once.read_bytes() == twice.read_bytes() == again.read_bytes()


def test_dense_weights_stay_as_they_are(case):
    opened = load(case[0])
    change = Encode().run(opened)
    assert not change.modified
    assert opened.proto == case[0]
    assert {r.encoding for r in change.weights.values()} == {"dense"}


def test_an_overridable_weight_stays_a_plain_initializer():
    _, opened, change = encoded(builders.overridable())
    assert set(change.skipped) == {"w"}
    assert "1 tensors stay dense" in change.notes[0]
    assert "w" in {t.name for t in opened.proto.graph.initializer}
    feeds = {"x": normal(3, 64), "w": np.ones((64, 32), np.float32)}
    v = dict(
        (n, np.frombuffer(b, np.float32))
        for n, (_, _, b) in arrays(prune(builders.overridable(), sparsity=0.9)).items()
    )
    np.testing.assert_allclose(
        run(serialise(opened), feeds)[0], feeds["x"] @ feeds["w"] @ v["v"].reshape(32, 32), rtol=1e-4, atol=1e-4
    )


def test_half_values_are_the_weights_rounded_to_float16():
    before, opened, _ = encoded(mlp((32, 64, 16)), sparsity=0.5, values="half")
    assert {p.values for p in encoded_weights(opened)} == {"half"}
    expected, biases = arrays(before), {"fc0.bias", "fc1.bias"}
    Decode().run(opened)
    for weight in find(opened):
        array = np.frombuffer(expected[weight.name][2], np.float32).reshape(weight.shape)
        exact = weight.name in biases
        assert_same_bits(weight.array(opened), array if exact else array.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("bad", [65520.0, np.inf, np.nan])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_what_half_cannot_hold_is_kept_exact(bad, share):
    array = np.where(np.random.default_rng(0).random((64, 32)) < share, normal(64, 32), 0).astype(np.float32)
    array[3, 4] = bad
    opened = load(matmul(array))
    change = Encode(values="half").run(opened)
    assert len(change.notes) == 1
    assert "'w' keeps exact values" in change.notes[0]
    assert {p.values for p in encoded_weights(opened)} <= {"exact"}
    Decode().run(opened)
    assert_same_bits(find(opened)[0].array(opened), array)


def test_half_leaves_types_alone_that_gain_nothing():
    for name in ("fp16", "bf16", "qdq", "qlinear"):
        before, opened, _ = encoded(MODELS[name][0](), values="half")
        Decode().run(opened)
        assert arrays(opened) == arrays(before), name


@pytest.mark.parametrize("fill_value", [0.0, 1.0, -0.0])
def test_a_weight_of_one_value(fill_value):
    opened = load(matmul(np.full((64, 32), fill_value, np.float32)))
    before = arrays(opened)
    assert Encode().run(opened).modified
    assert len(serialise(opened)) < 1000  # nodes and names
    Decode().run(opened)
    assert arrays(opened) == before


def test_negative_zeros_and_nan_payloads_come_back():
    array = np.zeros((64, 32), np.float32)
    array.reshape(-1)[::9] = np.resize(np.array(special(np.dtype(np.float32))), 228)
    for encoding in ("auto", "coo", *GRAPH):
        opened = load(matmul(array))
        Encode(encoding=encoding).run(opened)
        Decode().run(opened)
        assert_same_bits(find(opened)[0].array(opened), array)


@pytest.mark.parametrize("shape", [(0,), (0, 32), (64, 0), (3, 0, 5)])
def test_tensors_without_elements_are_left_alone(shape):
    empty = np.zeros(shape, np.float32)
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Identity", ["nothing"], ["z"])]
    held = {"w": normal(64, 32), "nothing": empty}
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 32]), info("z", list(shape))], held)
    before, opened, _ = encoded(proto)
    assert {p.name for p in encoded_weights(opened)} == {"w"}
    assert outputs(serialise(opened)) == outputs(serialise(before))
    opened = prune(proto, sparsity=0.5)
    assert [t for t in opened.proto.graph.initializer if t.name == "nothing"] == [tensor("nothing", empty)]


def test_a_sparse_initializer_becomes_what_is_smaller():
    _, opened, change = encoded(matmul(), sparsity=0.999, encoding="coo")
    assert change.weights["w"].encoding == "coo"
    assert len(opened.proto.graph.sparse_initializer) == 1
    before = arrays(opened)
    assert not Encode(encoding="coo").run(opened).modified
    Decode().run(opened)
    assert not opened.proto.graph.sparse_initializer
    assert arrays(opened) == before


def test_names_that_look_like_ours_are_not_taken():
    proto = matmul(normal(64, 32))
    proto.graph.initializer.append(tensor("~0.gaps", normal(20, 20)))
    proto.graph.node.append(node("Identity", ["~0.gaps"], ["z"]))
    proto.graph.output.append(info("z", [20, 20]))
    before, opened, _ = encoded(proto)
    assert {p.name for p in encoded_weights(opened)} == {"w"}
    assert outputs(serialise(opened)) == outputs(serialise(before))
    Decode().run(opened)
    assert arrays(opened) == arrays(before)


# opset ---------------------------------------------------------------------------------------------


def test_an_old_model_is_raised_to_opset_11_when_its_outputs_stay_equal():
    before, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.95)
    assert opened.opset == 11
    assert "raised from 9 to 11" in change.notes[0]
    assert {p.encoding for p in encoded_weights(opened)} <= {"flat", "rows"}
    assert outputs(serialise(opened)) == outputs(serialise(before))


def test_no_model_is_raised_that_gains_nothing():
    _, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.5)
    assert opened.opset == 9
    assert not change.notes
    assert {p.encoding for p in encoded_weights(opened)} == {"bitmask"}


def test_outputs_that_would_differ_keep_the_opset(monkeypatch):
    monkeypatch.setattr(opset, "equal", lambda a, b: False)
    _, opened, change = encoded(mlp((64, 64, 32), opset=9), sparsity=0.95)
    assert opened.opset == 9
    assert "its outputs differ" in change.notes[0]


@pytest.mark.parametrize(
    "old", [("Clip", {"min": -1.0, "max": 1.0}), ("Pad", {"pads": [0, 0, 0, 1], "mode": "constant"})]
)
def test_attributes_that_became_inputs_keep_the_opset_and_the_weights_still_shrink(old):
    kind, attributes = old
    nodes = [node("MatMul", ["x", "w"], ["h"]), node(kind, ["h"], ["y"], **attributes)]
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", "M"])], {"w": normal(64, 32)}, opset=9)
    before, opened, change = encoded(proto, sparsity=0.95)
    assert opened.opset == 9
    assert "the opset stays at 9" in change.notes[0]
    assert {p.encoding for p in encoded_weights(opened)} == {"bitmask"}
    assert outputs(serialise(opened)) == outputs(serialise(before))


def test_a_function_keeps_to_its_own_opset():
    _, opened, _ = encoded(builders.function())
    own = [w for w in find(opened) if w.scope.path] or [p for p in encoded_weights(opened) if p.scope.path]
    assert [opset_of(opened, item.scope) for item in own] == [17]
