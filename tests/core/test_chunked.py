"""Weights in chunks and by several threads: the same bytes whatever the size of a chunk and the number of threads."""

import mmap
import shutil
import threading
from collections import namedtuple

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import onnxprune
from onnxprune.channels.liveness import SparsityPattern
from onnxprune.core import chunked
from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import bits_of
from onnxprune.encodings import GRAPH
from onnxprune.encodings.sparse import Sparse
from onnxprune.errors import OnnxPruneError, OptionError, OutputError
from onnxprune.model.model import Model
from onnxprune.pruning import selection
from onnxprune.quantization import rounding
from onnxprune_passes import Decode, Encode, Magnitude
from tests.helpers.builders import info, model, node

FORMS = ["exact", "half", "shared:4", "shared:2", "int8", "int8:4", "int4", "auto"]
STRUCTURED = [
    {"pattern": "2:4"}, {"pattern": "1x4", "sparsity": 0.5}, {"pattern": "3x2", "sparsity": 0.3},
    {"scope": "channel", "sparsity": 0.6},
]  # fmt: skip
UNIT = 64  # elements: large enough for several units to a chunk, small enough for several chunks to a weight


def proto(seed: int = 0, element: int = TensorProto.FLOAT, scale: float = 1.0) -> onnx.ModelProto:
    """Every order of the axes: MatMul [in, out], Gemm [out, in], Conv, ConvTranspose, batched MatMul; and ties."""
    rng = np.random.default_rng(seed)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)

    def normal(*shape: int) -> np.ndarray:
        return (np.round(rng.standard_normal(shape), 2) * scale).astype(dtype)

    held = {
        "m": normal(41, 37), "g": normal(29, 37), "c": normal(9, 5, 3, 3), "t": normal(9, 4, 3, 3),
        "b": normal(2, 23, 17), "bias": normal(29),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "m"], ["a"]),
        node("Gemm", ["a", "g", "bias"], ["y"], transB=1),
        node("Conv", ["i", "c"], ["j"]),
        node("ConvTranspose", ["j", "t"], ["z"]),
        node("MatMul", ["s", "b"], ["u"]),
    ]
    ins = [info("x", ["n", 41], element), info("i", ["n", 5, 8, 8], element), info("s", [2, "n", 23], element)]
    outs = [info(n, None, element) for n in ("y", "z", "u")]
    return model(nodes, ins, outs, held, 21)


def patched(unit: int, chunk: int, resident: int = 256 << 20) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(chunked, "UNIT_ELEMENTS", unit)
    patch.setattr(rounding, "UNIT_ELEMENTS", unit)
    patch.setattr(chunked, "CHUNK_ELEMENTS", chunk)
    patch.setattr("onnxprune.channels.liveness.CHUNK_ELEMENTS", chunk)
    patch.setattr("onnxprune.pruning.thresholds.CHUNK_ELEMENTS", chunk)
    patch.setattr("onnxprune.encodings.values.blocks._LARGE", chunk)
    patch.setattr(chunked, "_SEGMENT", 8)
    patch.setattr("onnxprune.model.storage.RESIDENT", resident)
    patch.setattr(selection, "_COLLECT", 16)
    return patch


def written(folder, name, source, unit, chunk, jobs, resident=256 << 20, **options) -> bytes:
    out = folder / f"{name}.onnx"
    patch = patched(unit, chunk, resident)
    try:
        onnxprune.compress(source, out, verify=False, jobs=jobs, **options)
    finally:
        patch.undo()
    data = out.read_bytes() + b"".join(p.read_bytes() for p in sorted(folder.glob(f"{name}.*.data")))
    for file in folder.glob(f"{name}.*"):
        file.unlink()
    return data


def put(folder, made: onnx.ModelProto, external: bool):
    path = folder / "source.onnx"
    onnx.save(made, path, save_as_external_data=external, location="source.bin", size_threshold=64)
    return path


@pytest.mark.parametrize("values", FORMS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_the_bytes_do_not_depend_on_chunks_and_threads(tmp_path_factory, values, data):
    folder = tmp_path_factory.mktemp("chunks")
    source = put(folder, proto(data.draw(st.integers(0, 9))), data.draw(st.booleans()))
    rule = data.draw(
        st.sampled_from(
            [
                {"sparsity": 0.9},
                {"sparsity": 0.5, "scope": "global"},
                {"quality": 1.0},
                {"threshold": 0.3},
                {},
                *STRUCTURED,
            ]
        )
    )
    options = {"values": values, "prefer": data.draw(st.sampled_from(["speed", "size"])), **rule}
    whole = written(folder, "o", source, UNIT, 1 << 40, 1, **options)
    chunk, jobs, resident = data.draw(
        st.tuples(st.integers(1, 700), st.sampled_from([1, 2, 4]), st.sampled_from([0, 900]))
    )
    assert written(folder, "o", source, UNIT, chunk, jobs, resident, **options) == whole


@pytest.mark.parametrize("rule", STRUCTURED, ids=str)
@pytest.mark.parametrize("chunk", [1, 90])
def test_structured_pruning_in_chunks(tmp_path, rule, chunk):
    source = put(tmp_path, proto(2), True)
    whole = written(tmp_path, "o", source, UNIT, 1 << 40, 1, values="exact", **rule)
    assert written(tmp_path, "o", source, UNIT, chunk, 2, 0, values="exact", **rule) == whole


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
@pytest.mark.parametrize("values", ["exact", "shared:4", "int8"])
def test_every_type_in_chunks(tmp_path, element, values):
    source = put(tmp_path, proto(1, element), True)
    whole = written(tmp_path, "o", source, UNIT, 1 << 40, 1, sparsity=0.8, values=values)
    assert written(tmp_path, "o", source, UNIT, 100, 2, 0, sparsity=0.8, values=values) == whole


@given(
    st.sampled_from(list(GRAPH.values())), st.integers(1, 60), st.integers(1, 11), st.integers(1, 200),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_every_encoding_packs_chunks_as_it_packs_the_whole(encoding, rows, columns, chunk, share, coded, seed):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random((rows, columns)) < share, rng.integers(1, 9, (rows, columns)), 0)
    array = array.astype(np.uint8 if coded else np.float32)
    codebook = np.arange(9).astype(np.float16) if coded else None
    assume(encoding.fits(codebook))
    patch = patched(8, 1 << 40)
    try:
        whole = Sparse.of(array, np.zeros((), np.float16 if coded else np.float32), codebook)
        expected, size = encoding.pack(whole), encoding.payload(whole)
        chunked.CHUNK_ELEMENTS = chunk
        sparse = Sparse.of(array, whole.fill_value, codebook)
        found = encoding.pack(sparse)
        assert encoding.payload(sparse) == size
        assert (sparse.kept, sparse.zeros()) == (whole.kept, whole.zeros())
        np.testing.assert_array_equal(sparse.positions, whole.positions)
    finally:
        patch.undo()
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert (part.dtype, part.shape) == (found[name].dtype, found[name].shape)
        np.testing.assert_array_equal(bits_of(found[name]), bits_of(part))


def test_gaps_beyond_the_range_of_positions_within_a_chunk():
    """A chunk of 2**40 entries is not made: its neighbour says that it begins there."""
    flat = GRAPH["flat"]
    far = 1 << 33

    def read(start, stop, columns):
        out = np.zeros((stop - start, 1), np.float32)
        if start == 0:
            out[0] = 1
        if stop == far:
            out[-1] = 2
        return out

    carrier = ChunkedArray((far, 1), np.dtype(np.float32), read)
    ends = [(0, 8), (far - 8, far)]
    patch = pytest.MonkeyPatch()
    patch.setattr(ChunkedArray, "rows", property(lambda self: ends))
    try:
        sparse = Sparse.of(carrier, np.zeros((), np.float32))
        np.testing.assert_array_equal(sparse.positions, [0, far - 1])
        assert flat.payload(sparse) == 5 * (2 + (far - 2) // 255)
    finally:
        patch.undo()


@pytest.mark.parametrize("transposed", [True, False])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 99))
def test_sparsity_patterns_of_matrices_are_read_chunk_by_chunk(transposed, rows, columns, chunk):
    matrix = np.random.default_rng(rows).random((rows, columns)) < 0.3

    def view(array):
        return (array.T if transposed else array)[None, :, :, None]

    whole, patch = SparsityPattern.of(view(matrix)), patched(8, chunk)
    try:
        pattern = SparsityPattern.of_weight(ChunkedArray.of(matrix), view)
    finally:
        patch.undo()
    assert pattern.shape == whole.shape
    np.testing.assert_array_equal(pattern.bits, whole.bits)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 99), st.data())
def test_sparsity_patterns_answer_like_the_matrix(outputs, inputs, chunk, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    matrix = rng.random((2, outputs, inputs)) < data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    some_outputs, some_inputs = rng.random((2, outputs)) < 0.5, rng.random((2, inputs)) < 0.5
    laid_out = matrix
    if data.draw(st.booleans()):  # as MatMul has it
        laid_out = np.ascontiguousarray(matrix.transpose(0, 2, 1)).transpose(0, 2, 1)
    patch = patched(8, chunk)
    try:
        pattern = SparsityPattern.of(laid_out[..., None])
    finally:
        patch.undo()
    np.testing.assert_array_equal(pattern.outputs(), matrix.any(2))
    np.testing.assert_array_equal(pattern.outputs(some_inputs), (matrix & some_inputs[:, None]).any(2))
    np.testing.assert_array_equal(pattern.inputs(), matrix.any(1))
    np.testing.assert_array_equal(pattern.inputs(some_outputs), (matrix & some_outputs[..., None]).any(1))
    assert pattern.nonzeros == matrix.sum()


@pytest.mark.parametrize("values", FORMS)
def test_what_is_encoded_in_chunks_decodes(tmp_path, values):
    source = put(tmp_path, proto(3), True)
    patch = patched(UNIT, 100, 0)
    try:
        opened = Model.load(source)
        Magnitude(sparsity=0.9).run(opened)
        pruned = {t.name: opened.array(t).copy() for t in opened.proto.graph.initializer}
        Encode(values=values, keep_zeros=True).run(opened)
        Decode().run(opened)
    finally:
        patch.undo()
    for tensor in opened.proto.graph.initializer:
        after, before = opened.array(tensor), pruned[tensor.name]
        np.testing.assert_array_equal(after == 0, before == 0)
        if values == "exact":
            np.testing.assert_array_equal(bits_of(after), bits_of(before))


def test_mapping_holds_only_what_is_looked_at(tmp_path, monkeypatch):
    """No more address space than a few chunks, whatever the file."""
    rng = np.random.default_rng(0)
    held = {"w": rng.standard_normal((2048, 512)).astype(np.float32)}
    made = model([node("MatMul", ["x", "w"], ["y"])], [info("x", ["n", 2048])], [info("y", None)], held, 17)
    source = put(tmp_path, made, True)
    largest = []
    real = mmap.mmap

    def counted(descriptor, length, *rest, **named):
        largest.append(length)
        return real(descriptor, length, *rest, **named)

    monkeypatch.setattr("onnxprune.model.storage.mmap.mmap", counted)
    patch = patched(1 << 10, 1 << 12, 0)
    try:
        patch.setattr("onnxprune.model.storage.PIECE", 1 << 14)
        patch.setattr("onnxprune.model.storage._COPIED", 0)
        onnxprune.compress(source, tmp_path / "o.onnx", sparsity=0.9, values="shared:4", verify=False, jobs=1)
    finally:
        patch.undo()
    assert max(largest) < held["w"].nbytes / 4


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_a_disk_without_room_is_one_clear_error(tmp_path, monkeypatch, external):
    source = put(tmp_path, proto(), external)
    before = sorted(p.name for p in tmp_path.iterdir())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    with pytest.raises(OutputError, match=r"cannot write o\.onnx: it takes [\d,]+ bytes, the disk has 1 free"):
        onnxprune.prune(source, tmp_path / "o.onnx", sparsity=0.5, verify=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_error_in_a_thread_is_the_error_of_the_run(tmp_path):
    made = proto()
    bad = onnx.numpy_helper.to_array(made.graph.initializer[0]).copy()
    bad[-1, -1] = np.nan
    made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(bad, made.graph.initializer[0].name))
    before = threading.active_count()
    with pytest.raises(OnnxPruneError, match="NaN"):
        onnxprune.prune(put(tmp_path, made, False), tmp_path / "o.onnx", sparsity=0.5, verify=False, jobs=4)
    assert threading.active_count() == before


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_are_at_least_one(tmp_path, jobs):
    with pytest.raises(OptionError, match="jobs must be at least 1"):
        onnxprune.prune(put(tmp_path, proto(), False), tmp_path / "o.onnx", sparsity=0.5, jobs=jobs)


@pytest.mark.parametrize("done", ["encode", "magnitude"])
def test_progress_counts_bytes_up_to_all_of_them(tmp_path, done):
    seen = []
    onnxprune.compress(
        put(tmp_path, proto(), False), tmp_path / "o.onnx", sparsity=0.5, verify=False,
        progress=lambda name, *counts: seen.append((name, *counts)),
    )  # fmt: skip
    own = [counts for name, *counts in seen if name == done]
    assert [a for a, _ in own] == sorted(a for a, _ in own)
    assert own[0][0] == 0
    assert own[-1][0] == own[-1][1] > 4 * 37 * 41
