"""The packed form: the same bytes come back, near the entropy, and no damaged or hostile file gets through."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

import onnxprune
from onnxprune.cli import cli
from onnxprune.errors import ModelError, OutputError, PackedError, RuntimeFailure
from onnxprune.model.protobuf import varint
from onnxprune.packed import coder, reader, writer
from onnxprune.packed.coder import BYTES, CHUNK, FAST, ORDER0, STORED, THOROUGH, ZSTD, CodeLayout, Plan
from onnxprune.packed.reader import MAGIC, VERSION
from tests.helpers.builders import matmul, mlp, normal
from tests.helpers.running import outputs, put

TOOL = Path(sys.executable).with_name("onnxprune")
HEADER, ENDING = 10, 48


@st.composite
def layouts(draw) -> CodeLayout:
    word = draw(st.sampled_from(coder.WORDS))
    base = draw(st.integers(2, 256))
    most = next(m for m in range(8 * word, 0, -1) if base**m <= 256**word)
    return CodeLayout(word, base, draw(st.integers(1, most)))


def restored(coded: coder.CodedStream, size: int) -> bytes:
    return coder.decode(coded.plan, coded.runs, size).tobytes()


def nbytes(coded: coder.CodedStream) -> int:
    return sum(len(body) for _, body in coded.runs)


def entropy(symbols: np.ndarray) -> float:
    """Zeroth-order, in bytes."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(counts @ np.log2(counts.sum() / counts)) / 8


def words_of(digits: np.ndarray, layout: CodeLayout) -> bytes:
    """[words, count] digits as the layout's words."""
    powers = np.array([layout.base**i for i in range(layout.count)], np.uint64)
    return (digits.astype(np.uint64) * powers).sum(1, dtype=np.uint64).astype(f"<u{layout.word}").tobytes()


# streams ----------------------------------------------------------------------------------------


@given(st.binary(max_size=300) | st.lists(st.sampled_from(b"ab\0"), max_size=300).map(bytes),
       st.sampled_from([1, 2, 4, 8, 16]), st.lists(layouts(), max_size=3))  # fmt: skip
def test_any_bytes_come_back(data, itemsize, hints):
    assert restored(coder.encode(data, itemsize, hints, FAST), len(data)) == data


@given(layouts(), st.integers(1, 200), st.integers(0, 2**32 - 1))
@example(CodeLayout(8, 2, 64), 3, 0)
@example(CodeLayout(8, 256, 8), 3, 0)
@example(CodeLayout(2, 255, 2), 100, 1)
def test_words_of_digits_come_back(layout, size, seed):
    digits = np.random.default_rng(seed).integers(0, layout.base, (size, layout.count))
    data = words_of(digits, layout)
    split = coder._split(np.frombuffer(data, np.uint8), layout)
    assert split is not None
    assert np.array_equal(split.T, digits)
    assert restored(coder.encode(data, 1, [layout], FAST), len(data)) == data


@pytest.mark.parametrize(
    "layout", [CodeLayout(4, 32, 6), CodeLayout(4, 11, 9), CodeLayout(1, 3, 5), CodeLayout(8, 10, 19), BYTES]
)
def test_streams_are_within_3_percent_of_their_entropy(layout):
    rng = np.random.default_rng(0)
    digits = np.abs(np.rint(rng.laplace(0, layout.base / 12 + 0.3, (40_000, layout.count)))).astype(int) % layout.base
    data = words_of(digits, layout)
    assert nbytes(coder.encode(data, 1, [layout], THOROUGH)) < 1.03 * entropy(digits.reshape(-1))


@pytest.mark.parametrize("size", [30_000, 300_000])
def test_general_layouts_suffice_for_codes_gaps_and_masks(size):
    rng = np.random.default_rng(0)
    gaps, codes = (
        np.minimum(rng.geometric(0.09, size), 15),
        np.clip(np.rint(rng.laplace(8, 1.8, size)), 0, 15).astype(int),
    )
    mask = np.packbits(rng.random(8 * size) < 0.37)
    for data, bound in (
        (gaps | codes << 4, entropy(gaps) + entropy(codes)),
        (codes[::2] | codes[1::2] << 4, entropy(codes)),
        (mask, entropy(np.unpackbits(mask))),
    ):
        assert nbytes(coder.encode(data.astype(np.uint8).tobytes(), 1, [], THOROUGH)) < 1.01 * bound


def test_the_table_of_a_small_stream_is_small():
    rng = np.random.default_rng(0)
    values = np.clip(np.rint(rng.normal(128, 25, 30_000)), 0, 255).astype(np.uint8)
    assert nbytes(coder.encode(values.tobytes(), 1, [], THOROUGH)) < 1.015 * entropy(values)


def test_floats_are_coded_as_planes():
    data = np.random.default_rng(0).normal(size=100_000).astype(np.float32).tobytes()
    coded = coder.encode(data, 4, [], FAST)
    assert coded.plan == Plan(CodeLayout(4, 256, 4), shared=False)
    assert (coded.runs[0][0], coded.runs[3][0]) == (STORED, ORDER0)
    assert nbytes(coded) < 0.85 * len(data)


def test_a_coding_that_does_not_decode_is_not_used(monkeypatch):
    data = bytes(np.random.default_rng(0).choice(9, 3000, p=[0.6, *[0.05] * 8]).tolist())
    assert ORDER0 in {coding for coding, _ in coder.encode(data, 1, [], FAST).runs}
    right = coder._order0
    monkeypatch.setattr(coder, "_order0", lambda run, counts: right(run[::-1].copy(), counts))
    assert restored(coder.encode(data, 1, [], FAST), len(data)) == data


def test_repetition_is_found():
    data = np.random.default_rng(0).bytes(1000) * 300
    assert nbytes(coder.encode(data, 1, [], FAST)) < 1200


@pytest.mark.parametrize("level", [FAST, THOROUGH])
def test_a_run_of_digits_longer_than_its_chunk_comes_back(level):
    """zstd would choose a window for the run, which is larger than the chunk that a reader allows."""
    data = bytes(range(256)) * (3 * CHUNK // 256)
    frame = coder._zstd(data, level)
    assert zstandard.get_frame_parameters(frame).window_size <= CHUNK
    assert coder._read_zstd(frame, len(data)).tobytes() == data


@pytest.mark.parametrize("fields", [(3, 2, 1), (1, 1, 8), (1, 257, 1), (1, 2, 0), (1, 2, 9), (4, 11, 10), (0, 2, 1)])
def test_impossible_layouts(fields):
    with pytest.raises(ValueError, match="Layout"):
        CodeLayout(*fields)


def test_old_files_still_decode():
    """The order-0 coder as it was: its probabilities may never change."""
    body = bytes.fromhex(ORDER0_BODY)
    symbols = (np.arange(500, dtype=np.int64) ** 2 % 17 + np.arange(500) % 3).astype(np.uint8)
    assert coder.decode(Plan(), [(ORDER0, body)], 500).tobytes() == symbols.tobytes()
    assert coder._order0(symbols, np.bincount(symbols, minlength=256)) == body


@given(st.binary(max_size=60), st.integers(1, 200), st.sampled_from([STORED, ZSTD, ORDER0, 3]))
def test_any_run_decodes_to_its_size_or_is_refused(body, size, coding):
    with contextlib.suppress(ValueError):
        assert len(coder.decode(Plan(), [(coding, body)], size)) == size


# models -----------------------------------------------------------------------------------------


def there_and_back(source: Path, folder: Path, **options) -> Path:
    """Packs and unpacks into a folder of its own; returns the restored model."""
    folder.mkdir()
    small, back = folder / "m.onnxz", folder / source.name
    sizes = writer.pack(source, small, **options) if options else onnxprune.pack(source, small)
    assert sizes.after == small.stat().st_size
    again = onnxprune.unpack(small, back)
    assert (again.before, again.after) == (sizes.after, sizes.before)
    assert back.read_bytes() == source.read_bytes()
    return back


@pytest.fixture
def model(tmp_path) -> Path:
    return put(tmp_path / "m.onnx", mlp((32, 64, 16)))


@pytest.fixture
def small(model) -> Path:
    path = model.with_suffix(".onnxz")
    onnxprune.pack(model, path)
    return path


@pytest.fixture
def external(tmp_path) -> Path:
    """A model whose first weights are in a.bin, and the others in b.bin with a gap before each."""
    proto = mlp((32, 64, 16, 40))
    held = [t for t in proto.graph.initializer if len(t.raw_data) > 1024]
    files = {"a.bin": io.BytesIO(), "b.bin": io.BytesIO()}
    for number, tensor in enumerate(held):
        name = "a.bin" if number == 0 else "b.bin"
        files[name].write(b"gap!")
        where = {"location": name, "offset": files[name].tell(), "length": files[name].write(tensor.raw_data)}
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
    files["b.bin"].write(b"the end")
    for name, file in files.items():
        (tmp_path / name).write_bytes(file.getvalue())
    return put(tmp_path / "m.onnx", proto)


def test_every_model_comes_back(case, tmp_path):
    source = put(tmp_path / "m.onnx", case[0])
    there_and_back(source, tmp_path / "back")


@given(st.lists(st.tuples(st.sampled_from(["f4", "f2", "u1", "i8"]), st.integers(0, 3000)), max_size=4), st.data())
def test_any_weights_come_back(weights, data):
    rng = np.random.default_rng(len(weights))
    arrays = {f"w{i}": rng.integers(0, 9, size).astype(dtype) for i, (dtype, size) in enumerate(weights)}
    hints = {name: data.draw(layouts()) for name in arrays}
    proto = mlp()
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    with tempfile.TemporaryDirectory() as folder:
        there_and_back(put(Path(folder, "m.onnx"), proto), Path(folder, "back"), layouts=hints)


def test_hints_are_used(tmp_path):
    rng = np.random.default_rng(0)
    codes = np.clip(np.rint(rng.laplace(5, 1, (20_000, 9))), 0, 10).astype(int)
    proto = mlp()
    weight = np.frombuffer(words_of(codes, CodeLayout(4, 11, 9)), np.uint32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "codes"))
    source = put(tmp_path / "m.onnx", proto)
    there_and_back(source, tmp_path / "back", layouts={"codes": CodeLayout(4, 11, 9), "nobody": BYTES})
    assert (tmp_path / "back" / "m.onnxz").stat().st_size < 1.03 * entropy(codes.reshape(-1)) + 600


def test_external_data_comes_back(external, tmp_path):
    back = there_and_back(external, tmp_path / "back")
    for name in ("a.bin", "b.bin"):
        assert back.with_name(name).read_bytes() == external.with_name(name).read_bytes()
    assert sorted(p.name for p in back.parent.iterdir()) == ["a.bin", "b.bin", "m.onnx", "m.onnxz"]
    onnxprune.unpack(back.with_suffix(".onnxz"), back)  # the same data may be there already


def test_saved_external_data_comes_back(model, tmp_path):
    opened = onnxprune.load(model)
    opened.external = True
    onnxprune.save(opened, tmp_path / "e.onnx")
    back = there_and_back(tmp_path / "e.onnx", tmp_path / "back")
    assert onnxprune.verify(model, back).source == "synthetic"


def test_tensors_that_share_or_overlap_their_bytes(tmp_path):
    proto = matmul(normal(64, 32))
    first = proto.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(first.raw_data + bytes(100))
    first.ClearField("raw_data")
    first.data_location = onnx.TensorProto.EXTERNAL
    first.external_data.add(key="location", value="w.bin")
    for name, offset in (("same", 0), ("overlapping", 100)):
        other = proto.graph.initializer.add()
        other.CopyFrom(first)
        other.name = name
        other.external_data.add(key="offset", value=str(offset))
    source = put(tmp_path / "m.onnx", proto)
    back = there_and_back(source, tmp_path / "back")
    assert back.with_name("w.bin").read_bytes() == (tmp_path / "w.bin").read_bytes()


def test_packing_is_deterministic(external, tmp_path):
    for name in ("1", "2"):
        onnxprune.pack(external, tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_large_streams_are_coded_in_chunks(tmp_path):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(0, 16, CHUNK + 17), np.zeros(CHUNK)]).astype(np.uint8)
    proto = mlp()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(values, "big"))
    proto.graph.doc_string = "skeleton " * (CHUNK // 8)  # longer than a chunk as well
    there_and_back(put(tmp_path / "m.onnx", proto), tmp_path / "back")
    held = reader.Packed(tmp_path / "back" / "m.onnxz")
    assert [len(s) for s in held._streams] == [2, 3]


def test_a_model_of_zeros_is_padded_to_the_bound(tmp_path):
    proto = mlp()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2 * CHUNK, np.uint8), "zeros"))
    source = put(tmp_path / "m.onnx", proto)
    there_and_back(source, tmp_path / "back")
    assert (tmp_path / "back" / "m.onnxz").stat().st_size == -(-source.stat().st_size // reader.MAX_EXPANSION)


# sessions ---------------------------------------------------------------------------------------


def answers(session: ort.InferenceSession) -> list[bytes]:
    feeds = {
        i.name: np.ones([d if isinstance(d, int) else 2 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    return [np.asarray(a).tobytes() for a in session.run(None, feeds)]


def test_a_session_opens_either_form(model, small):
    small = small.rename(small.with_name("misleading.onnx"))  # by its magic, not by its name
    options = ort.SessionOptions()
    plain = answers(ort.InferenceSession(model))
    for path in (model, str(model), small, str(small)):
        assert answers(onnxprune.session(path, sess_options=options, providers=["CPUExecutionProvider"])) == plain
    assert outputs(reader.Packed(small).model_bytes()) == outputs(model.read_bytes())


@pytest.mark.parametrize("large", [False, True])
def test_a_session_unpacks_to_a_folder_and_removes_it(external, tmp_path, monkeypatch, large):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if large:
        external = put(tmp_path / "one.onnx", mlp((32, 64, 16)))
        monkeypatch.setattr("onnxprune.api.files.IN_MEMORY", 100)
    onnxprune.pack(external, tmp_path / "m.onnxz")
    expected = answers(ort.InferenceSession(external))
    assert answers(onnxprune.session(tmp_path / "m.onnxz")) == expected
    assert not list(folder.iterdir())


def test_sessions_that_do_not_open(small, tmp_path):
    small.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(PackedError, match="damaged"):
        onnxprune.session(small)
    with pytest.raises(RuntimeFailure, match=r"nowhere\.onnx"):
        onnxprune.session(tmp_path / "nowhere.onnx")


# damage -----------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path):
    """Asserts that a packed file of these bytes is refused and nothing is written; returns the message."""
    source, target = tmp_path / "bad" / "bad.onnxz", tmp_path / "bad" / "out.onnx"
    source.parent.mkdir()

    def check(data: bytes) -> str:
        source.write_bytes(data)
        with pytest.raises((PackedError, ModelError)) as caught:
            onnxprune.unpack(source, target)
        assert list(source.parent.iterdir()) == [source]
        assert str(source) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check


def tiny(tmp_path: Path) -> bytes:
    """A packed model with all codings, of few bytes."""
    proto = matmul(np.zeros((40, 8), np.float32))
    codes = np.random.default_rng(0).choice(16, 1100, p=[0.85, *[0.01] * 15]).astype(np.uint8)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(codes, "codes"))
    onnxprune.pack(put(tmp_path / "tiny.onnx", proto), tmp_path / "tiny.onnxz")
    return (tmp_path / "tiny.onnxz").read_bytes()


def test_every_truncation(tmp_path, refused):
    data = tiny(tmp_path)
    for size in range(len(data)):
        refused(data[:size])
    refused(data + b"\0")
    refused(data + data)


def test_every_flipped_byte(tmp_path, refused):
    data = tiny(tmp_path)
    for at in range(len(data)):
        refused(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_what_the_errors_say(small, model, refused):
    data = small.read_bytes()
    assert "is not a packed model" in refused(model.read_bytes())
    assert "is empty" in refused(b"")
    assert "cut short" in refused(data[:-1])
    assert "has version 2 of the packed form, this onnxprune reads 1" in refused(data[:8] + b"\2\0" + data[10:])
    assert "stream 0 does not match its checksum" in refused(data[:HEADER] + b"\xff" + data[HEADER + 1 :])


def forge(*index: int | bytes, body: bytes = b"", digest: bytes = bytes(32), claim: int | None = None) -> bytes:
    """A packed file whose checksums are right, whatever it says."""
    raw = b"".join(varint(part) if isinstance(part, int) else part for part in index)
    size = HEADER + len(body) + len(raw) + ENDING
    ending = raw + reader.FOOTER.pack(len(raw), size if claim is None else claim, digest)
    return reader.HEADER.pack(MAGIC, VERSION) + body + ending + reader.CRC.pack(zlib.crc32(ending))


def run(coding: int, body: bytes, plan: tuple[int, ...] = (0,)) -> tuple[int | bytes, ...]:
    """The index of a chunk with one run."""
    return (*plan, coding, len(body), reader.CRC.pack(zlib.crc32(body)))


def test_a_forged_file_is_a_file(tmp_path):
    from hashlib import blake2b

    (tmp_path / "f").write_bytes(
        forge(1, 0, 3, 0, *run(STORED, b"abc"), body=b"abc", digest=blake2b(b"abc", digest_size=32).digest())
    )
    onnxprune.unpack(tmp_path / "f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"abc"


BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 28))
QUIET_BOMB = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28))
_WIDE = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compressobj()
WIDE = _WIDE.compress(b"abc") + _WIDE.flush()


def chunk(coding: int, body: bytes, plan: tuple[int, ...] = (0,), size: int = 3) -> bytes:
    """A packed file of `size` bytes in one run."""
    return forge(1, 0, size, 0, *run(coding, body, plan), body=body)


HOSTILE = {
    "no files": (forge(0), "none"),
    "2**60 bytes": (forge(1, 0, 2**60, 0), "claims to hold"),
    "2**60 bytes in a cut": (forge(1, 0, 3, 1, 0, 2**60), "outside its file"),
    "2**60 files": (forge(2**60), "ends too early"),
    "2**60 cuts": (forge(1, 0, 3, 2**60), "ends too early"),
    "a name of 2**60 bytes": (forge(1, 2**60), "ends too early"),
    "an endless number": (forge(b"\xff" * 20), "does not end"),
    "a long run": (forge(1, 0, 3, 0, 0, STORED, 2**60, b"1234"), "longer than the file"),
    "an index that ends": (forge(1, 0, 3, 0), "index"),
    "an empty cut": (forge(1, 0, 3, 1, 0, 0), "outside its file"),
    "more in the index": (forge(1, 0, 3, 0, *run(STORED, b"abc"), 7, body=b"abc"), "refers to"),
    "more in the body": (forge(1, 0, 3, 0, *run(STORED, b"abc"), body=b"abcd"), "refers to"),
    "an index above its limit": (forge(bytes(reader.INDEX_LIMIT + 1)), "contradict"),
    "a file of another size": (forge(1, 0, 3, 0, claim=1000), "contradict"),
    "a wrong digest": (chunk(STORED, b"abc"), "digest"),
    "stored, too long": (chunk(STORED, b"abc", size=2), "another size"),
    "an unknown coding": (chunk(3, b"abc"), "coding 3"),
    "a zip bomb": (chunk(ZSTD, BOMB), "another size"),
    "a quiet zip bomb": (chunk(ZSTD, QUIET_BOMB), "zstd frame"),
    "a wide window": (chunk(ZSTD, WIDE), "zstd frame"),
    "no frame": (chunk(ZSTD, b"abc"), "zstd frame"),
    "a frame and more": (
        forge(1, 0, 3, 0, *run(ZSTD, zstandard.compress(b"abc") + b"x"), body=zstandard.compress(b"abc") + b"x"),
        "zstd frame",
    ),
    "no table": (chunk(ORDER0, b""), "stream 0"),
    "a table cut short": (chunk(ORDER0, b"\0\xff\x08a"), "table"),
    "a table of zeros": (chunk(ORDER0, b"\0\1\1\0"), "empty"),
    "a table of one": (chunk(ORDER0, b"\0\0\1\x80"), "table"),
    "a table beyond 255": (chunk(ORDER0, b"\xff\1\1\xff"), "table"),
    "a table too wide": (chunk(ORDER0, b"\0\1\x40" + bytes(16)), "table"),
    "half a word": (chunk(ORDER0, b"\0\1\1\xffab"), "table"),
    "a last word of zero": (chunk(ORDER0, b"\0\1\1\xff" + bytes(4)), "zero"),
    "an impossible layout": (chunk(STORED, b"abc", (7, 2, 1)), "Layout"),
    "base 0": (chunk(STORED, b"abc", (3, 0, 1)), "Layout"),
    "2**40 digits": (chunk(STORED, b"abc", (3, 2, 2**40)), "Layout"),
    "half a word of digits": (chunk(STORED, b"abc", (5, 256, 2)), "whole number"),
    "the model has a name": (forge(1, 1, b"m", 0, 0), "forbidden name 'm'"),
    "two models": (forge(2, 0, 0, 0, 0, 0, 0), "forbidden name ''"),
    "a file twice": (forge(3, 0, 0, 0, 1, b"a", 0, 0, 1, b"a", 0, 0), "one name"),
    "a file twice, in case": (forge(3, 0, 0, 0, 1, b"a", 0, 0, 1, b"A", 0, 0), "one name"),
    "no text": (forge(2, 0, 0, 0, 1, b"\xff", 0, 0), "utf-8"),
}  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_files(fault, refused):
    data, message = HOSTILE[fault]
    assert message in refused(data)


@pytest.mark.parametrize(
    "name",
    ["../w", "/w", "a/w", "a\\w", "..", ".", ".bashrc", "C:w", "w\0", "w\n", "w*", "x" * 256, "\x1b[2J", "\u202ew"],
)
def test_names_that_leave_the_folder(name, refused):
    assert "forbidden name" in refused(forge(2, 0, 0, 0, len(name.encode()), name.encode(), 0, 0))


@given(st.lists(st.integers(0, 300) | st.binary(max_size=8), max_size=30), st.binary(max_size=30))
def test_any_index_is_read_or_refused(index, body):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(forge(*index, body=body))
        with pytest.raises(PackedError):
            onnxprune.unpack(path, Path(folder, "out"))
        assert list(Path(folder).iterdir()) == [path]


# files ------------------------------------------------------------------------------------------


def test_sources_are_not_overwritten(external, tmp_path):
    small = tmp_path / "m.onnxz"
    with pytest.raises(OutputError, match="is the input"):
        onnxprune.pack(external, external)
    with pytest.raises(OutputError, match="is external data of"):
        onnxprune.pack(external, external.with_name("b.bin"))
    onnxprune.pack(external, small)
    with pytest.raises(OutputError, match="is the input"):
        onnxprune.unpack(small, small)
    with pytest.raises(OutputError, match="has that name"):
        onnxprune.unpack(small, tmp_path / "A.bin")


def test_other_data_is_not_overwritten(external, tmp_path):
    onnxprune.pack(external, tmp_path / "m.onnxz")
    target = tmp_path / "new.onnx"
    (tmp_path / "a.bin").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="other data is in the way"):
        onnxprune.unpack(tmp_path / "m.onnxz", target)
    assert (tmp_path / "a.bin").read_bytes() == b"somebody's"
    assert not target.exists()


def test_a_full_disk(small, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("usage", (), {"free": 10}))
    with pytest.raises(OutputError, match="10 are free"):
        onnxprune.unpack(small, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_no_model_is_not_packed(small, tmp_path):
    with pytest.raises(PackedError, match="packed already"):
        onnxprune.pack(small, tmp_path / "out")
    with pytest.raises(ModelError, match="No such file"):
        onnxprune.pack(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        onnxprune.pack(Path(__file__), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("sub/a.bin", "not beside the model"), ("B.bin", "upper and lower case")]
)
def test_external_data_that_cannot_be_packed(external, tmp_path, name, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").rename(tmp_path / name)
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("a.bin", name)
    with pytest.raises(PackedError, match=message):
        onnxprune.pack(put(external, proto), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# the command line -------------------------------------------------------------------------------


def test_the_commands(model, tmp_path):
    small, back = tmp_path / "m.onnxz", tmp_path / "back.onnx"
    result = CliRunner().invoke(cli, ["pack", str(model), "-o", str(small)], catch_exceptions=False)
    sizes = f"{model.stat().st_size:,} -> {small.stat().st_size:,} bytes, ratio"
    assert result.output.startswith(f"{small}: {sizes} 1.")
    result = CliRunner().invoke(cli, ["unpack", str(small), "-o", str(back)], catch_exceptions=False)
    assert result.output.startswith(f"{back}: {small.stat().st_size:,} -> {model.stat().st_size:,} bytes, ratio 1.")
    assert back.read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["unpack", "m.onnx", "-o", "out.onnx"], 1, "Error: m.onnx is not a packed model\n"),
        (["unpack", "nowhere", "-o", "out.onnx"], 1, "Error: cannot read nowhere: No such file or directory\n"),
        (["unpack", "m.onnxz", "-o", "m.onnxz"], 1, "Error: m.onnxz is the input\n"),
        (["pack", "m.onnxz", "-o", "out.onnx"], 1, "Error: m.onnxz is packed already\n"),
        (["pack", "m.onnx", "-o", "m.onnx"], 1, "Error: m.onnx is the input\n"),
        (["pack", "m.onnx", "-o", "no/where"], 1, "Error: cannot write no/where: No such file or directory\n"),
        (["pack", "m.onnx"], 2, "Missing option '-o'"),
    ],
)
def test_errors_are_one_line(small, command, code, message):
    done = subprocess.run([TOOL, *command], cwd=small.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert code == 2 or done.stderr == message
    assert sorted(p.name for p in small.parent.iterdir()) == ["m.onnx", "m.onnxz"]


ORDER0_BODY = """
001203d7b6482d904b6c800916d0b2fccb7c7a250a9e93f43791c035dd5d170e7fec53306f11afe9d8b7ba5e28148afac4ae40202c035198
c1b6a9937e4453391ecc485f07a360c527575cac2686f106227bc648286b738fecdada72927e60b50ca1863fb22ae0f89d61e64585e60a4b
e70f3e506eb8924b3f181cba5eae924f7e2dd7f032f69b4b5158bddb504214ee37a56a8c9b71b5757a7866c879ffc84d7f72e7dc0f997139
cc82e6436fa0b44db81a107b885f8b77a8e8b99257086da0afb705d18223818b52ae8f663220f7d88bee1b32ab50a546a7390bcc99a26f40
e06f76c1f8777ca178fa3d0dba7262574e999133735421209c4e89c0bd135d15d903575c2d2701
"""
