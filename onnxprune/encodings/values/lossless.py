"""Forms that hold a weight bit for bit in fewer bytes: what it was coded in before, few levels, half precision.

Weights come with few distinct values from elsewhere too: clustered, palettised, ternary, quantised to a grid and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxprune.core.chunked import EVERY, UNIT_ELEMENTS, ChunkedArray, RowRange, part_of, ranges
from onnxprune.core.dtypes import FLOATS, QUANTISED, Array, bits_of, numpy_dtype
from onnxprune.core.filled import FilledArray, filled
from onnxprune.encodings.values.base import Coded
from onnxprune.encodings.values.blocks import GRIDS
from onnxprune.encodings.values.integers import WHOLE
from onnxprune.encodings.values.rounding import oriented
from onnxprune.encodings.values.scales import are_halves, narrowed
from onnxprune.model.provenance import Coding
from onnxprune.model.weight import Weight
from onnxprune.quantization.rounding import encode

INT8_BOOK = WHOLE.codebook
_LEVELS = 256
_LEVELS_OF_BYTES = 73  # more than these take a byte each, see `words`
_MOST_DISTINCT = 0.75  # of the entries: a byte for each and a codebook of more values take what the values do
_FIRST = 1 << 12  # entries that tell an ordinary weight
_TABLE = 16  # bits
_GOLDEN, _FACTORS = 0x9E3779B97F4A7C15, 64  # odd multiples of 2**64 over the golden ratio (Knuth 1973)


def again(weight: Weight, wide: ChunkedArray | None, coding: Coding, transposed: bool | None) -> Coded | None:
    """The weight in what it was coded in, or None where that does not hold it any more.

    Args:
        weight: its element type.
        wide: its values as `computed` gives them.
        coding: the levels and scales.
        transposed: None to fold; else whether the MatMul that fuses it reads the transpose.
    """
    if coding.scale is None or weight.element not in FLOATS:
        return None
    if coding.block and transposed != coding.transposed:
        return None
    codebook = INT8_BOOK if coding.codebook is None else coding.codebook
    if wide is None or (coding.view and math.prod(coding.view) != wide.size):
        return None
    viewed = ChunkedArray.of(wide.whole().reshape(coding.view)) if coding.view else wide
    divisor, target = coding.divisor(viewed.shape), numpy_dtype(weight.element)
    if divisor is None or codebook.ndim != 1 or not 0 < len(codebook) <= _LEVELS:
        return None
    levels = codebook.astype(np.float64)
    codes = FilledArray(viewed.shape, np.int8 if coding.codebook is None else np.uint8)

    def held(rows: RowRange, part: Array) -> bool:
        own = part_of(divisor, rows)
        found = encode(part, own, levels, prune=False)
        values = codebook[found]
        codes.put(rows, EVERY, values if coding.codebook is None else found)
        with np.errstate(over="ignore"):
            back = (values.astype(part.dtype) * own.astype(part.dtype)).astype(target)
        return np.array_equal(bits_of(back), bits_of(np.ascontiguousarray(part.astype(target))))

    if not all(viewed.each(held)):
        return None
    fill_value, scale = codebook[0], coding.scale
    if coding.block:
        grid, carrier = GRIDS.get(coding.form), codes.chunked()
        if coding.transposed:
            carrier = ChunkedArray.of(np.ascontiguousarray(carrier.whole().T))
        packed = grid.dtype if grid else None
        return Coded(
            carrier, fill_value, coding.codebook, scale, (), True, coding.block, coding.transposed, packed=packed
        )
    if coding.view:
        return Coded(codes.chunked(wide.shape), fill_value, coding.codebook, scale, coding.view)
    if transposed is not None:
        return oriented(codes.chunked(), coding.codebook, scale, transposed)
    return Coded(codes.chunked(), fill_value, coding.codebook, scale)


def fuses(coding: Coding, shape: tuple[int, ...], transposed: bool) -> bool:
    """Whether the scales are those that DequantizeLinear takes in front of a MatMul: one for each output."""
    if coding.block:
        return coding.transposed == transposed
    outputs = 0 if transposed else 1
    wanted = tuple(size if axis == outputs else 1 for axis, size in enumerate(shape))
    return not coding.view and coding.scale is not None and coding.scale.shape == wanted


def few(weight: Weight, array: Array | ChunkedArray) -> Coded | None:
    """The weight as codes into a codebook of its own values, where there are at most 256 of them, and that may pay.

    They are told apart by their bits: -0.0 is a value of its own. NaN stays where it is.
    """
    chunked = ChunkedArray.of(array)
    kind = np.dtype(f"u{chunked.dtype.itemsize}")
    most = _LEVELS_OF_BYTES if kind.itemsize == 1 else _LEVELS
    patterns = _distinct(chunked, kind, most)
    if patterns is None or len(patterns) > _MOST_DISTINCT * chunked.size:
        return None
    zero = bits_of(weight.zero_value.reshape(1))
    if weight.element in QUANTISED or zero[0] in patterns:  # code 0 is what most entries hold in a pruned weight
        patterns = np.concatenate([zero, patterns[patterns != zero[0]]])
    code = _coder(patterns)
    codebook = patterns.view(chunked.dtype)
    if code is None or np.isnan(codebook).any():
        return None
    codes = filled(chunked.map(np.uint8, lambda rows, columns, part: code(_bits(part))))
    codebook = narrowed(codebook, chunked.size)
    return Coded(codes, codebook[0], codebook)


def halved(array: Array | ChunkedArray) -> Coded | None:
    """The weight as float16 where that changes no bit of it."""
    chunked = ChunkedArray.of(array)
    if chunked.dtype not in (np.float32, np.float64):
        return None

    first = chunked.read(0, _first_rows(chunked), EVERY)
    if not are_halves(first) or not all(chunked.each(lambda _, part: are_halves(part))):
        return None
    half = chunked.map(np.float16, lambda rows, columns, part: part.astype(np.float16))
    return Coded(half, np.zeros((), np.float16))


def _first_rows(chunked: ChunkedArray) -> int:
    return min(chunked.shape[0], -(-_FIRST // max(1, chunked.row)))


def _bits(part: Array) -> Array:
    return bits_of(np.ascontiguousarray(part))


def _distinct(chunked: ChunkedArray, kind: np.dtype, most: int) -> Array | None:
    """The bit patterns in ascending order, or None where there are more than so many."""
    first = chunked.read(0, _first_rows(chunked), EVERY)
    start = _grown(np.zeros(0, kind), _bits(first).reshape(-1), most)
    if start is None:
        return None
    known = start
    if _first_rows(chunked) == chunked.shape[0]:
        return known
    for found in chunked.each(lambda _, part: _grown(start, _bits(part).reshape(-1), most)):
        if found is None:
            return None
        known = _union(known, found)
        if len(known) > most:
            return None
    return known


def _grown(known: Array, flat: Array, most: int) -> Array | None:
    """The patterns that are known and those of `flat`, or None where they are more than so many."""
    if not len(known) and flat.size <= _FIRST:
        found = _union(known, flat)
        return found if len(found) <= most else None
    code = _coder(known)
    for start, stop in ranges(0, flat.size, UNIT_ELEMENTS):
        strange = flat[start:stop]
        while True:
            if code is not None and len(known):
                strange = strange[known[code(strange)] != strange]
            if not strange.size:
                break
            known = _union(known, strange[:_FIRST])
            code = _coder(known) if len(known) <= most else None
            if code is None:
                return None
    return known


def _union(known: Array, more: Array) -> Array:
    """The distinct patterns of both, ascending."""
    ordered = np.sort(np.concatenate([known, more]))
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def _coder(patterns: Array) -> Callable[[Array], Array] | None:
    """What gives each of the patterns its number (and others any), by a table: a search takes ten times as long.

    Wide patterns are hashed by multiplication, with the first factor that keeps them apart.
    """
    table = np.zeros(1 << _TABLE, np.uint8)
    numbers = np.arange(len(patterns))
    width = 8 * patterns.dtype.itemsize
    if width <= _TABLE:
        table[patterns] = numbers
        return lambda bits: table[bits]
    shift = patterns.dtype.type(width - _TABLE)
    for number in range(_FACTORS):
        own = patterns.dtype.type((2 * number + 1) * _GOLDEN % (1 << width))
        keys = (patterns * own) >> shift
        table[keys] = numbers
        if (table[keys] == numbers).all():
            return lambda bits: table[(bits * own) >> shift]
    return None
