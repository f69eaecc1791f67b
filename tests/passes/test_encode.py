"""encode and decode: every weight comes back under its name, and what gains nothing stays as it is."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.discovery import find
from onnxprune.model.scopes import scopes_of
from onnxprune_passes import Decode, Encode
from tests.helpers import builders
from tests.helpers.arrays import special
from tests.helpers.builders import MODELS, info, matmul, mlp, model, node, normal, tensor
from tests.helpers.running import arrays, assert_same_bits, encoded, load, outputs, prune, run, serialise


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
