"""No damaged or hostile packed file gets through."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.core.signatures import PACKED
from onnxprune.errors import ModelError, PackedError
from onnxprune.model.protobuf import varint
from onnxprune.packed import reader
from onnxprune.packed.coder import ORDER0, STORED, ZSTD
from onnxprune.packed.reader import VERSION
from tests.helpers.builders import matmul
from tests.helpers.running import put

HEADER, ENDING = 10, 48


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
    return reader.HEADER.pack(PACKED, VERSION) + body + ending + reader.CRC.pack(zlib.crc32(ending))


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
    "a file that is a folder": (forge(3, 0, 0, 0, 1, b"a", 0, 0, 3, b"A/b", 0, 0), "one name"),
    "a file twice, in case": (forge(3, 0, 0, 0, 1, b"a", 0, 0, 1, b"A", 0, 0), "one name"),
    "no text": (forge(2, 0, 0, 0, 1, b"\xff", 0, 0), "utf-8"),
}  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_files(fault, refused):
    data, message = HOSTILE[fault]
    assert message in refused(data)


@pytest.mark.parametrize(
    "name",
    [
        "../w",
        "/w",
        "a/../w",
        "a//w",
        "a/",
        "a/.w",
        "a/./w",
        "a/C:/w",
        "a/" * 600 + "w",
        "a\\w",
        "..",
        ".",
        ".bashrc",
        "C:w",
        "w\0",
        "w\n",
        "w*",
        "x" * 256,
        "\x1b[2J",
        "\u202ew",
    ],
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
