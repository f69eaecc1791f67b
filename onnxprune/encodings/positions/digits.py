"""Small numbers packed into words: `digits` numbers below `radix` to a word, the first one lowest.

ONNX has no operator that unpacks bits of any width, but every opset has integer division. Powers of
a radix also waste less than whole bits do: 40 codes take 5.33 bits in a uint16, 9 codes 3.2.

A run of numbers lies in rows, one for each digit: the first row in the lowest digits of all words, and so on. So a
division of the words by powers of the radix makes long rows that one number divides, for which runtimes have a fast
loop. With neighbours in a word they divide a few numbers at a time, which takes ONNX Runtime two to four times as long
(1.2 million numbers, three to a word: 14 ms in place of 6, in onnxruntime-web 1.30 17 in place of 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxprune.core.chunked import RowRange
from onnxprune.core.dtypes import Array
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.sparse import Sparse

OPSET = 10  # Mod

# No 64-bit words: they would save up to 7 % of small models, but OpenVINO 2026.4 clips such constants to 32 bits
# without a word.
_WORDS = ((np.uint8, 2**8), (np.uint16, 2**16), (np.int32, 2**31))


@dataclass(frozen=True)
class DigitLayout:
    """How many numbers below `radix` a word of `dtype` takes."""

    dtype: np.dtype
    digits: int
    radix: int

    def unpacked(self, count: int) -> int:
        """Bytes of so many numbers as `emit` makes them, with what fills the last word."""
        return 4 * self.digits * -(-count // self.digits)

    def nbytes(self, count: int) -> int:
        """Bytes for so many numbers."""
        return -(-count // self.digits) * self.dtype.itemsize


def _layouts() -> list[DigitLayout]:
    """Each word with each number of digits and the largest radix that it allows."""
    found = []
    for kind, room in _WORDS:
        for digits in range(1, 65):
            radix = _root(room, digits)
            if radix < 2:
                break
            found.append(DigitLayout(np.dtype(kind), digits, radix))
    return found


def _root(room: int, digits: int) -> int:
    radix = round(room ** (1 / digits)) + 1
    while radix**digits > room:
        radix -= 1
    return radix


LAYOUTS = _layouts()


@cache
def layouts_from(radix: int) -> tuple[DigitLayout, ...]:
    """The layouts that take numbers below `radix`, the smallest word first."""
    return tuple(layout for layout in LAYOUTS if layout.radix >= radix)


def layout_for(radix: int, count: int) -> DigitLayout:
    """The layout with the fewest bytes for `count` numbers below `radix`; the smallest word among equals."""
    best = min(layouts_from(radix), key=lambda layout: layout.nbytes(count))
    return DigitLayout(best.dtype, best.digits, radix)


def pack(numbers: Array, layout: DigitLayout, name: str) -> Parts:
    """Words [..., 1, n] of numbers [..., m], in rows of n, and what divides them; the last row is filled up with 0.

    A single digit stands for itself, in the shape of the numbers.
    """
    if layout.digits == 1:
        return {name: numbers.astype(layout.dtype)}
    numbers = _filled_up(numbers, layout)
    rows = numbers.reshape(*numbers.shape[:-1], layout.digits, numbers.shape[-1] // layout.digits)
    words = _words(np.moveaxis(rows, -2, -1), layout)
    return {name: words[..., None, :]} | _divisors(layout, np.s_[:, None])


def pack_neighbours(numbers: Array, layout: DigitLayout, name: str) -> Parts:
    """Words [..., n, 1] of numbers [..., m], each of numbers side by side; else as `pack`."""
    if layout.digits == 1:
        return {name: numbers.astype(layout.dtype)}
    numbers = _filled_up(numbers, layout)
    grouped = numbers.reshape(*numbers.shape[:-1], numbers.shape[-1] // layout.digits, layout.digits)
    return {name: _words(grouped, layout)[..., None]} | _divisors(layout, np.s_[:])


def _filled_up(numbers: Array, layout: DigitLayout) -> Array:
    short = -numbers.shape[-1] % layout.digits
    return np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, short)]) if short else numbers


def _words(grouped: Array, layout: DigitLayout) -> Array:
    """[..., n] of the numbers [..., n, digits] of each word."""
    words = np.zeros(grouped.shape[:-1], np.int64)
    for digit in range(layout.digits):  # at most 31, whatever the size
        words += grouped[..., digit] * np.int64(layout.radix) ** digit
    return words.astype(layout.dtype)


def _divisors(layout: DigitLayout, axes: Any) -> Parts:
    """What takes words apart; the powers with axes for the digits and, where these lie in rows, for the words."""
    powers = layout.radix ** np.arange(layout.digits, dtype=np.int64)
    return {"powers": powers.astype(np.int32)[axes], "radix": np.array(layout.radix, np.int32)}


def pack_run(
    pieces: Iterable[Array], count: int, layout: DigitLayout, name: str,
    filling: Callable[[Array], Array] | None = None,
) -> Parts:  # fmt: skip
    """`pack` of one run of numbers that comes in pieces.

    Args:
        pieces: of the run, in order.
        count: how many numbers it has.
        layout: of the words.
        name: of the part that holds them.
        filling: what fills the last word up, from its last number; None for 0.
    """
    if layout.digits == 1:
        held = ((piece.astype(layout.dtype),) for piece in pieces)
        return {name: joined(held, count)[0] if count else np.zeros(0, layout.dtype)}
    length = -(-count // layout.digits)
    words, at, last = np.zeros(length, layout.dtype), 0, np.zeros(0, np.int64)
    for piece in pieces:
        _add(words, piece, at, layout)
        at, last = at + len(piece), piece[-1:] if len(piece) else last
    if at != count:
        raise ValueError(f"{at} numbers in place of {count}")
    if filling is not None and count:
        _add(words, np.repeat(filling(last), length * layout.digits - count), at, layout)
    return {name: words[None]} | _divisors(layout, np.s_[:, None])


def _add(words: Array, numbers: Array, start: int, layout: DigitLayout) -> None:
    """Put the numbers from `start` on into their digits."""
    for digit, (first, stop) in _rows(len(words), start, start + len(numbers)):
        own = numbers[digit * len(words) + first - start :][: stop - first]
        words[first:stop] += (own.astype(np.int64) * layout.radix**digit).astype(words.dtype)


def _rows(length: int, start: int, stop: int) -> Iterator[tuple[int, RowRange]]:
    """The digits that hold some of the numbers, and the range of words in each."""
    for digit in range(start // length, -(-stop // length)) if length else ():
        yield digit, (max(start - digit * length, 0), min(stop - digit * length, length))


def joined(pieces: Iterable[tuple[Array, ...]], count: int) -> tuple[Array, ...]:
    """Arrays that come in pieces side by side, each laid into one of so many rows; a single piece is not copied.

    Raises:
        ValueError: the pieces have fewer rows or more.
    """
    at, whole = 0, None
    for piece in pieces:
        rows = len(piece[0])
        if whole is None and rows == count:
            at, whole = count, piece
            continue
        if whole is None:
            whole = tuple(np.empty((count, *part.shape[1:]), part.dtype) for part in piece)
        for target, part in zip(whole, piece, strict=True):
            target[at : at + rows] = part
        at += rows
    if whole is None or at != count:
        raise ValueError(f"{at} rows in place of {count}")
    return whole


def count_of(parts: Mapping[str, Array], name: str) -> int:
    """How many numbers `unpack` makes, without making them."""
    return int(parts[name].size * (parts["powers"].size if "powers" in parts else 1))


def unpack(parts: Mapping[str, Array], name: str) -> Array:
    """The numbers [..., m] that `pack` or `pack_neighbours` packed, with its filling."""
    words = parts[name]
    if "powers" not in parts:
        return words
    powers, radix = parts["powers"].astype(np.int64), int(parts["radix"])
    if radix < 1 or powers.min(initial=1) < 1:
        raise ValueError("its words cannot be taken apart")
    digits = words.astype(np.int64) // powers % radix
    return digits.reshape(*words.shape[:-2], words.shape[-2] * words.shape[-1] * powers.size)


def emit(build: Builder, parts: Parts, name: str) -> str:
    """The name of the numbers as int32: [..., digits, n] from words of `pack`, [..., m] from single digits."""
    words = build.constant(name, parts[name])
    if parts[name].dtype != np.int32:
        words = build.op("Cast", [words], to=TensorProto.INT32)
    if "powers" not in parts:
        return words
    shifted = build.op("Div", [words, build.constant("powers", parts["powers"])])
    return build.op("Mod", [shifted, build.constant("radix", parts["radix"])])


def unpack_run(parts: Mapping[str, Array], name: str, start: int, stop: int) -> Array:
    """Some of the numbers that `pack_run` packed, [numbers]; no more than there are.

    Files of earlier versions have neighbours in a word, in tables too, and powers [digits].
    """
    held, powers = parts[name].reshape(-1), parts.get("powers")
    if powers is None:
        return held[start:stop]
    if powers.size < 1:
        raise ValueError("its words cannot be taken apart")
    if powers.ndim == 1:
        first = start // powers.size
        numbers = unpack({**parts, name: held[first : -(-stop // powers.size)][:, None]}, name)
        return numbers[start - first * powers.size :][: stop - start]
    rows = _rows(len(held), start, min(stop, held.size * powers.size))
    found = [
        unpack({**parts, name: held[None, slice(*words)], "powers": powers[digit : digit + 1]}, name)
        for digit, words in rows
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


# values: themselves, or codes that a codebook turns into values --------------------------------------------


def values_bytes(sparse: Sparse, count: int) -> int:
    """Bytes that `count` values take, with their codebook."""
    if sparse.codebook is None:
        return count * sparse.carrier.dtype.itemsize
    return layout_for(len(sparse.codebook), count).nbytes(count) + sparse.codebook.nbytes


def made(sparse: Sparse, count: int) -> int:
    """Bytes of all tensors on the way to `count` values: words, their digits twice, and what these stand for."""
    if sparse.codebook is None:
        return 0
    layout = layout_for(len(sparse.codebook), count)
    words, values = layout.unpacked(count) // layout.digits, 3 * count * sparse.codebook.dtype.itemsize
    return words + values + (2 * layout.unpacked(count) if layout.digits > 1 else 0)


def pack_values(sparse: Sparse, pieces: Iterable[Array], count: int) -> Parts:
    """The parts that hold `count` values (or codes), which come in pieces; of values with more axes so many rows."""
    if sparse.codebook is None:
        (values,) = joined(((piece,) for piece in pieces), count)
        return {"values": values}
    codes = (piece.reshape(-1) for piece in pieces)
    return pack_run(codes, count, layout_for(len(sparse.codebook), count), "codes") | {"book": sparse.codebook}


def unpack_values(parts: Mapping[str, Array], start: int, stop: int) -> Array:
    """Some of the values, [values]."""
    if "book" not in parts:
        return parts["values"].reshape(-1)[start:stop]
    return parts["book"][unpack_run(parts, "codes", start, stop)]


def emit_values(build: Builder, parts: Parts, shape: tuple[int, ...], name_of_shape: str = "shape") -> str:
    """Make the nodes that decode values.

    Args:
        build: where nodes and constants go.
        parts: what `pack_values` returned.
        shape: of the values.
        name_of_shape: the constant of that shape, where a Reshape needs one.

    Returns:
        The name of the values.
    """
    if "book" not in parts:
        return build.constant("values", parts["values"])
    name = build.look_up(parts["book"], emit(build, parts, "codes"))
    if parts["codes"].shape == shape:
        return name
    count, held = int(np.prod(shape, dtype=np.int64)), count_of(parts, "codes")
    if held != count or len(shape) == 1:
        name = build.reshape(name, [-1], "flat")
    if held != count:
        name = build.op("Slice", [name, build.constant("start", [0]), build.constant("end", [count])])
    return name if len(shape) == 1 else build.reshape(name, shape, name_of_shape)
