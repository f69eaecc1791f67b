"""Streams of the packed form: the same bytes come back, near the entropy."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from onnxprune.packed import coder
from onnxprune.packed.coder import BYTES, CHUNK, FAST, ORDER0, STORED, THOROUGH, ZSTD, CodeLayout, CodingPlan
from tests.packed.digits import entropy, layouts, words_of


def restored(coded: coder.CodedStream, size: int) -> bytes:
    return coder.decode(coded.plan, coded.runs, size).tobytes()


def nbytes(coded: coder.CodedStream) -> int:
    return sum(len(body) for _, body in coded.runs)


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
    assert coded.plan == CodingPlan(CodeLayout(4, 256, 4), shared=False)
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
    assert coder.decode(CodingPlan(), [(ORDER0, body)], 500).tobytes() == symbols.tobytes()
    assert coder._order0(symbols, np.bincount(symbols, minlength=256)) == body


@given(st.binary(max_size=60), st.integers(1, 200), st.sampled_from([STORED, ZSTD, ORDER0, 3]))
def test_any_run_decodes_to_its_size_or_is_refused(body, size, coding):
    with contextlib.suppress(ValueError):
        assert len(coder.decode(CodingPlan(), [(coding, body)], size)) == size


ORDER0_BODY = """
001203d7b6482d904b6c800916d0b2fccb7c7a250a9e93f43791c035dd5d170e7fec53306f11afe9d8b7ba5e28148afac4ae40202c035198
c1b6a9937e4453391ecc485f07a360c527575cac2686f106227bc648286b738fecdada72927e60b50ca1863fb22ae0f89d61e64585e60a4b
e70f3e506eb8924b3f181cba5eae924f7e2dd7f032f69b4b5158bddb504214ee37a56a8c9b71b5757a7866c879ffc84d7f72e7dc0f997139
cc82e6436fa0b44db81a107b885f8b77a8e8b99257086da0afb705d18223818b52ae8f663220f7d88bee1b32ab50a546a7390bcc99a26f40
e06f76c1f8777ca178fa3d0dba7262574e999133735421209c4e89c0bd135d15d903575c2d2701
"""
