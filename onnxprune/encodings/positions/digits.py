"""Small numbers packed into words: `digits` numbers below `radix` to a word, the first one lowest.

ONNX has no operator that unpacks bits of any width, but every opset has integer division. Powers of
a radix also waste less than whole bits do: 40 codes take 5.33 bits in a uint16, 9 codes 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from onnx import TensorProto

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
    """Words [..., n, 1] of numbers [..., m], and what divides them; the last word is filled up with 0.

    A single digit stands for itself, in the shape of the numbers.
    """
    if layout.digits == 1:
        return {name: numbers.astype(layout.dtype)}
    short = -numbers.shape[-1] % layout.digits
    if short:
        numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, short)])
    grouped = numbers.reshape(*numbers.shape[:-1], numbers.shape[-1] // layout.digits, layout.digits)
    powers = layout.radix ** np.arange(layout.digits, dtype=np.int64)
    words = np.zeros(grouped.shape[:-1], np.int64)
    for digit in range(layout.digits):  # at most 31, whatever the size
        words += grouped[..., digit] * powers[digit]
    return {
        name: words.astype(layout.dtype)[..., None],
        "powers": powers.astype(np.int32),
        "radix": np.array(layout.radix, np.int32),
    }


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

    def words() -> Iterator[tuple[Array]]:
        rest = np.zeros(0, np.int64)
        for piece in pieces:
            numbers = np.concatenate([rest, piece]) if len(rest) else piece
            whole = len(numbers) - len(numbers) % layout.digits
            rest = numbers[whole:]
            yield (pack(numbers[:whole], layout, name)[name],)
        if len(rest):
            short = layout.digits - len(rest)
            if filling is not None:
                rest = np.concatenate([rest, np.repeat(filling(rest[-1:]), short)])
            yield (pack(rest, layout, name)[name],)

    parts = pack(np.zeros(0, np.int64), layout, name)
    (parts[name],) = joined(words(), -(-count // layout.digits)) if count else (parts[name],)
    return parts


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
    """The numbers [..., m] that `pack` packed, with its filling."""
    words = parts[name]
    if "powers" not in parts:
        return words
    powers, radix = parts["powers"].astype(np.int64), int(parts["radix"])
    if radix < 1 or powers.min(initial=1) < 1:
        raise ValueError("its words cannot be taken apart")
    digits = words.astype(np.int64) // powers % radix
    return digits.reshape(*words.shape[:-2], words.shape[-2] * powers.size)


def emit(build: Builder, parts: Parts, name: str) -> str:
    """The name of the numbers as int32: [..., n, digits] from words, [..., m] from single digits."""
    words = build.constant(name, parts[name])
    if parts[name].dtype != np.int32:
        words = build.op("Cast", [words], to=TensorProto.INT32)
    if "powers" not in parts:
        return words
    shifted = build.op("Div", [words, build.constant("powers", parts["powers"])])
    return build.op("Mod", [shifted, build.constant("radix", parts["radix"])])


def unpack_run(parts: Mapping[str, Array], name: str, start: int, stop: int) -> Array:
    """Some of the numbers that `pack_run` packed, [numbers]; no more than there are."""
    digits = parts["powers"].size if "powers" in parts else 1
    if digits < 1:
        raise ValueError("its words cannot be taken apart")
    first = start // digits
    words = parts[name].reshape(-1)[first : -(-stop // digits)]
    numbers = unpack({**parts, name: words[:, None] if "powers" in parts else words}, name)
    return numbers[start - first * digits :][: stop - start]


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
