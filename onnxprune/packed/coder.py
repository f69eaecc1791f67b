"""Entropy coding of one chunk of bytes: split into digits, each run of digits stored, zstd or order-0 coded.

A layout says how symbols lie in words: little-endian words of `word` bytes, each the sum of
`digit[i] * base**i`. Splitting words into their digits gives the runs; every run takes the smallest of
three codings. Order-0 is the ANS coder of `constriction` (Duda 2013, Bamler 2022) with one probability
per symbol, which zstd's Huffman codes of whole bytes miss by up to 20 % where symbols straddle bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import constriction
import numpy as np
import zstandard

from onnxprune.core.dtypes import Array

CHUNK = 4 << 20  # bytes coded at a time: bounds memory, and is a whole number of words
STORED, ZSTD, ORDER0 = range(3)
WORDS = (1, 2, 4, 8)

FAST, THOROUGH = 9, 19  # zstd levels for the search
_FIRST = 3  # the level that tells whether to search
_SMALL = 256 << 10  # symbols up to which a search is short enough to be tried always
_CLOSE = 1.1  # what a quick search may gain; a thorough one may surprise
_WORTH = 1 - 1 / 256  # order-0 decodes 50 MB/s: a run that it shrinks by less is stored
_WIDEST = 13  # bits of the square root of the largest count in a chunk


@dataclass(frozen=True)
class CodeLayout:
    """How symbols lie in a tensor's bytes.

    Attributes:
        word: bytes per little-endian word: 1, 2, 4 or 8.
        base: each digit is in 0 .. base - 1; at most 256, and 2**b makes digits bit fields.
        count: digits per word, the lowest first.

    Raises:
        ValueError: no word can hold such digits.
    """

    word: int
    base: int
    count: int

    def __post_init__(self) -> None:
        if self.word not in WORDS or not 2 <= self.base <= 256 or not 1 <= self.count <= 8 * self.word:
            raise ValueError(f"{self} is not a layout")
        if self.base**self.count > 256**self.word:
            raise ValueError(f"{self} does not fit its word")


BYTES = CodeLayout(1, 256, 1)
_FIELDS = (BYTES, CodeLayout(1, 16, 2), CodeLayout(1, 4, 4))
_BITS = CodeLayout(1, 2, 8)


@dataclass(frozen=True)
class CodingPlan:
    """A layout, and whether all digits share one run and so one table (else there is a run per digit of the word)."""

    layout: CodeLayout = BYTES
    shared: bool = True

    def runs(self, size: int) -> list[int]:
        """Symbols of each run for a chunk of `size` bytes.

        Raises:
            ValueError: the chunk is no whole number of words.
        """
        words, rest = divmod(size, self.layout.word)
        if rest:
            raise ValueError("a chunk is no whole number of words")
        return [words * self.layout.count] if self.shared else [words] * self.layout.count


@dataclass(frozen=True)
class CodedStream:
    """A coded chunk: its plan, and for each run the coding and the bytes."""

    plan: CodingPlan
    runs: tuple[tuple[int, bytes], ...]


def chunks(data: bytes | memoryview) -> Iterator[memoryview]:
    """`data` in pieces of at most `CHUNK` bytes."""
    view = memoryview(data)
    for at in range(0, len(view), CHUNK):
        yield view[at : at + CHUNK]


def encode(data: bytes | memoryview, itemsize: int, hints: Iterable[CodeLayout], level: int) -> CodedStream:
    """The smallest coding of a chunk that was found, and that was seen to decode to the same bytes.

    Args:
        data: at most `CHUNK` bytes.
        itemsize: bytes of the tensor's elements: above 1 their byte planes are tried.
        hints: layouts to try beside the general ones.
        level: of zstd, where its matches beat the order-0 coder.
    """
    raw = np.frombuffer(data, np.uint8)
    general = (CodeLayout(itemsize, 256, itemsize),) if itemsize in WORDS[1:] else _FIELDS
    if len(raw) <= _SMALL:
        general = (*general, _BITS)  # whole bytes reach the same in a long chunk, where their table is free
    estimates = _estimates(raw, (*general, *hints))
    guess = min(estimates, key=estimates.__getitem__, default=CodingPlan())
    tried = dict.fromkeys((CodingPlan(), guess, *(p for p in estimates if p.layout == general[0] and not p.shared)))
    drafts = [_Draft.of(plan, raw, level, _SMALL) for plan in tried]
    if len(raw) > _SMALL:
        close = _CLOSE * min(draft.nbytes for draft in drafts) if level < THOROUGH else np.inf
        drafts += [_Draft.of(d.plan, raw, level, None) for d in drafts if d.nbytes <= close and d.uses(ZSTD)]
    for draft in sorted(drafts, key=lambda d: d.nbytes):
        coded = draft.coded()
        if np.array_equal(decode(coded.plan, coded.runs, len(raw)), raw):
            return coded
    return CodedStream(CodingPlan(), ((STORED, bytes(data)),))


def decode(plan: CodingPlan, runs: Sequence[tuple[int, bytes | memoryview]], size: int) -> Array:
    """The `size` bytes of a chunk; never allocates more than a small multiple of `size`.

    Raises:
        ValueError: the runs are not what `encode` makes.
    """
    lengths = plan.runs(size)
    digits = np.concatenate([_decoder(coding)(body, n) for (coding, body), n in zip(runs, lengths, strict=True)])
    return _join(digits.reshape(plan.layout.count, -1), plan.layout)


def _zstd(data: bytes | memoryview, level: int) -> bytes:
    """A zstd frame."""
    window = (
        CHUNK.bit_length() - 1
    )  # what the reader allows; a run of digits is longer than the chunk that it came from
    chosen = zstandard.ZstdCompressionParameters.from_level(level, window_log=window, write_content_size=False)
    return zstandard.ZstdCompressor(compression_params=chosen).compress(data)


def _split(raw: Array, layout: CodeLayout) -> Array | None:
    """Digits [count, words], or None where the words are not made of such digits."""
    if len(raw) % layout.word:
        return None
    if layout.base == 256 and layout.count == layout.word:
        return raw.reshape(-1, layout.word).T
    rest = raw.view(f"<u{layout.word}")
    digits = np.empty((layout.count, len(rest)), np.uint8)
    shift = layout.base.bit_length() - 1 if layout.base & layout.base - 1 == 0 else 0
    for digit in digits[:-1]:
        over = rest >> shift if shift else rest // layout.base
        digit[:] = rest - (over << shift if shift else over * layout.base)
        rest = over
    if len(rest) and rest.max() >= layout.base:
        return None
    digits[-1] = rest
    return digits


def _join(digits: Array, layout: CodeLayout) -> Array:
    """The inverse of `_split`, as bytes."""
    if layout.base == 256 and layout.count == layout.word:
        return np.ascontiguousarray(digits.T).reshape(-1)
    dtype = np.dtype(f"<u{layout.word}")
    words = digits[-1].astype(dtype)
    for digit in digits[-2::-1]:
        words = words * dtype.type(layout.base) + digit.astype(dtype)
    return words.view(np.uint8)


def _estimates(raw: Array, layouts: Iterable[CodeLayout]) -> dict[CodingPlan, float]:
    """Bytes of each plan whose layout fits, were all its runs stored or order-0 coded."""
    histogram = np.bincount(raw, minlength=256)
    held = np.flatnonzero(histogram)
    out: dict[CodingPlan, float] = {}
    for layout in layouts:
        single = layout.word == 1  # then the histogram of the bytes says it all
        digits = _split(held.astype(np.uint8) if single else raw, layout)
        if digits is not None:
            counts = [np.bincount(run, histogram[held] if single else None, minlength=256) for run in digits]
            out[CodingPlan(layout)] = _least(np.sum(counts, axis=0))
            if layout.count > 1:
                out[CodingPlan(layout, shared=False)] = sum(map(_least, counts))
    return out


def _least(counts: Array) -> float:
    return min(float(counts.sum()), _order0_size(counts))


@dataclass(frozen=True)
class _Run:
    """A run of symbols, and the coding that is the smallest for it."""

    symbols: Array
    counts: Array
    frame: bytes

    @property
    def choice(self) -> tuple[float, int]:
        """Bytes, and the coding; for order-0 its estimate."""
        size = len(self.symbols)
        order0 = _order0_size(self.counts)
        if order0 < _WORTH * size and order0 < len(self.frame):
            return order0, ORDER0
        return min((size, STORED), (len(self.frame), ZSTD))

    def coded(self) -> tuple[int, bytes]:
        _, coding = self.choice
        if coding == ORDER0:
            return coding, _order0(self.symbols, self.counts)
        return coding, self.frame if coding == ZSTD else self.symbols.tobytes()


@dataclass(frozen=True)
class _Draft:
    """A plan applied to a chunk; only the one that wins is order-0 coded."""

    plan: CodingPlan
    runs: list[_Run]

    @classmethod
    def of(cls, plan: CodingPlan, raw: Array, level: int, most: int | None) -> _Draft:
        """Runs above `most` symbols are only tried at the first level."""
        digits = _split(raw, plan.layout)
        assert digits is not None
        runs = map(np.ascontiguousarray, [digits.reshape(-1)] if plan.shared else digits)
        levels = ((run, level if most is None or len(run) <= most else _FIRST) for run in runs)
        return cls(plan, [_Run(run, np.bincount(run, minlength=256), _zstd(run.data, at)) for run, at in levels])

    @property
    def nbytes(self) -> float:
        return sum(run.choice[0] for run in self.runs)

    def uses(self, coding: int) -> bool:
        return any(run.choice[1] == coding for run in self.runs)

    def coded(self) -> CodedStream:
        return CodedStream(self.plan, tuple(run.coded() for run in self.runs))


# order-0 ----------------------------------------------------------------------------------------
#
# The table holds the square roots of the counts, rounded: the loss is then 0.24 bits per symbol of the
# alphabet whatever its count, and no finer table would earn back its own size. All that enters the
# model are these integers: sums are exact in float64 and every machine finds the same probabilities.


def _roots(counts: Array) -> tuple[int, Array]:
    """The first symbol of the table, and the rounded root of each count from there to the last symbol."""
    held = np.flatnonzero(counts)
    first = min(int(held[0]), 254) if len(held) else 0
    last = max(int(held[-1]), first + 1) if len(held) else 1
    counts = counts[first : last + 1]
    return first, np.maximum(np.rint(np.sqrt(counts)), counts > 0).astype(np.int64)


def _order0_size(counts: Array) -> float:
    first, roots = _roots(counts)
    if not roots.any():
        return 0.0
    held = roots > 0
    used = counts[first : first + len(roots)][held]
    bits = used @ (np.log2(float(roots @ roots)) - 2 * np.log2(roots[held]))
    return 3 + np.ceil(len(roots) * int(roots.max()).bit_length() / 8) + 4 * np.ceil(bits / 32 + 0.5)


def _model(roots: Array) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical((roots * roots).astype(np.float64), lazy=False, perfect=False)


def _order0(run: Array, counts: Array) -> bytes:
    first, roots = _roots(counts)
    width = int(roots.max()).bit_length()
    table = np.packbits(roots[:, None] >> np.arange(width) & 1)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse((run - np.uint8(first)).astype(np.int32), _model(roots))
    words = coder.get_compressed().astype("<u4")
    return bytes([first, len(roots) - 1, width]) + table.tobytes() + words.tobytes()


def _read_order0(body: bytes | memoryview, size: int) -> Array:
    first, last, width = body[:3]
    at = 3 + -(-(last + 1) * width // 8)
    if not 1 <= width <= _WIDEST or first + last > 255 or last < 1 or len(body) < at or (len(body) - at) % 4:
        raise ValueError("a table of counts is damaged")
    bits = np.unpackbits(np.frombuffer(body[3:at], np.uint8), count=(last + 1) * width)
    roots = bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width))
    if not roots.any():
        raise ValueError("a table of counts is empty")
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(body[at:], "<u4").astype(np.uint32))
    return coder.decode(_model(roots), size).astype(np.uint8) + np.uint8(first)


def _read_zstd(body: bytes | memoryview, size: int) -> Array:
    try:
        claims = zstandard.get_frame_parameters(body)  # it would be given as much memory as it claims
        if claims.content_size not in (size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ValueError("a zstd frame has another size than was declared")
        reader = zstandard.ZstdDecompressor(max_window_size=CHUNK)
        held = reader.decompress(body, max_output_size=max(size, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"a zstd frame is damaged: {error}") from error
    if len(held) != size:
        raise ValueError("a zstd frame has another size than was declared")
    return np.frombuffer(held, np.uint8)


def _read_stored(body: bytes | memoryview, size: int) -> Array:
    if len(body) != size:
        raise ValueError("stored bytes have another size than was declared")
    return np.frombuffer(body, np.uint8)


_DECODERS = {STORED: _read_stored, ZSTD: _read_zstd, ORDER0: _read_order0}


def _decoder(coding: int) -> Callable[[bytes | memoryview, int], Array]:
    if coding not in _DECODERS:
        raise ValueError(f"coding {coding} is unknown")
    return _DECODERS[coding]
