"""How the values of a weight are stored: a carrier tensor that is encoded, and what turns it into the weight.

| form | carrier | then |
|---|---|---|
| exact | the weight | - |
| half | float16 | Cast |
| shared:B | codes into a book of at most 2**B float16 values, 0.0 among them (k-means) | Cast, Mul by a scale |
| int8, int8:B | int8 on a uniform grid, all 255 values or a book of 2**B of them | Cast, Mul; or DequantizeLinear |
| int4 | int8 from -7 to 7 | Cast, Mul; or Cast, DequantizeLinear, in blocks along the input |

DequantizeLinear stands in front of a MatMul: ONNX Runtime fuses the two into a kernel that reads the small
integers. Everything else folds when the model is loaded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import ml_dtypes
import numpy as np
from onnx import TensorProto

from onnxprune.core import threads
from onnxprune.core.chunked import EVERY, Rows, Slabs, part_of, ranges
from onnxprune.core.dtypes import FLOATS, Array, bits_of, numpy_dtype
from onnxprune.encodings import words
from onnxprune.encodings.base import Builder
from onnxprune.errors import OptionError
from onnxprune.model.weight import Weight
from onnxprune.quantization.codebook import Codebook, codebook
from onnxprune.quantization.entropy_constrained import constrained
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.quantization.histogram import Histogram, root_mean_square
from onnxprune.quantization.rounding import balance, encode

DEQUANTISE_AXIS = 13  # the opset that gave DequantizeLinear an axis
INT4 = 21  # the opset that brought INT4 and blocks
_HALF_NORMAL = (6.2e-5, 65504.0)
_CAST = 44  # bytes of a Cast node: fewer bytes than that are not worth halving
_SCALE_GAINS = 1.1  # the error that a scale has to save: it costs a pass over the weight when the model is loaded
_SMALL, _LARGE = 1 << 16, 1 << 20
_SMALLEST, _LARGEST = 1e-15, 1e15  # of the largest value: squares and inverses of such stay float32
_DEAD = 1e-30  # a largest value below it is nothing
_KERNEL = 4  # entries of a convolution kernel from which its errors are added up by themselves
BLOCKS = (32, 64, 128, 16)


@dataclass(frozen=True)
class Coded:
    """A weight in the terms of a value form.

    Attributes:
        carrier: the dense tensor that is encoded, of codes where there is a book; codes lie in memory.
        fill: what most entries hold, in the type of the decoded carrier.
        book: the values of the codes, or None.
        scale: what the decoded carrier is multiplied by; it broadcasts over `view` of the carrier.
        view: the shape in which the scale applies where it is not the carrier's own.
        fused: whether DequantizeLinear applies the scale.
        block: entries along the input that share a scale, 0 for all of them.
        transposed: whether the carrier is the weight's transpose.
    """

    carrier: Array | Slabs
    fill: Array
    book: Array | None = None
    scale: Array | None = None
    view: tuple[int, ...] = ()
    fused: bool = False
    block: int = 0
    transposed: bool = False

    @property
    def decoded(self) -> np.dtype:
        """The type that leaves the position encoding."""
        return self.carrier.dtype if self.book is None else self.book.dtype

    @property
    def flags(self) -> str:
        """What `restore` must know beside the parts."""
        return (".t" if self.transposed else "") + (f".b{self.block}" if self.block else "")


class Values(ABC):
    """A value form."""

    name: ClassVar[str]

    def fits(self, element: int) -> bool:
        """Whether a weight of this element type gains from the form."""
        return element in FLOATS

    def opset(self, fused: bool) -> int:
        """The lowest opset whose operators it needs."""
        return words.OPSET

    @abstractmethod
    def code(
        self, weight: Weight, array: Array | Slabs, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """The weight in this form, or None where the form cannot hold it.

        Args:
            weight: axes, element type, zero.
            array: its values.
            transposed: None to fold; else whether the MatMul that fuses it reads the transpose.
            feedback: of the inputs that it is multiplied with; only books use it.
        """

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Exact(Values):
    """The values themselves."""

    name = "exact"

    def fits(self, element: int) -> bool:
        """See `Values.fits`."""
        return True

    def opset(self, fused: bool) -> int:
        """See `Values.opset`."""
        return 1

    def code(
        self, weight: Weight, array: Array | Slabs, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded:
        """See `Values.code`."""
        return Coded(array, weight.zero_value)


@dataclass(frozen=True)
class Half(Values):
    """IEEE half precision: 11 significant bits, relative error at most 2**-11 in the normal range."""

    name = "half"

    def fits(self, element: int) -> bool:
        """See `Values.fits`."""
        return element in (TensorProto.FLOAT, TensorProto.DOUBLE)

    def opset(self, fused: bool) -> int:
        """See `Values.opset`."""
        return 1

    def code(
        self, weight: Weight, array: Array | Slabs, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """See `Values.code`: values beyond 65,504 do not fit."""

        def halved(rows: Rows, columns: slice, part: Array) -> Array:
            with np.errstate(over="ignore"):
                return part.astype(np.float16)

        half = Slabs.of(array).map(np.float16, halved)
        finite = all(half.each(lambda _, part: bool(np.isfinite(part).all())))
        return Coded(half, np.zeros((), np.float16)) if finite else None


@dataclass(frozen=True)
class Shared(Values):
    """At most 2**bits values per weight, found by k-means over the non-zeros (Han et al. 2016)."""

    name = "shared"
    bits: int = 4
    excess: float = 0.0  # see `entropy.constrained`

    def __post_init__(self) -> None:
        """Check the bits."""
        _check_bits(self.name, self.bits)

    def __str__(self) -> str:
        return f"{self.name}:{self.bits}"

    def code(
        self, weight: Weight, array: Array | Slabs, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """See `Values.code`: a scale per output channel where it is worth its bytes."""
        wide = computed(array)
        if wide is None:
            return None
        levels = 2**self.bits
        scale, unit = channel_scale(weight, wide), unit_scale(wide)
        importance = None if scale is None else np.square(unit / scale.astype(np.float64))
        histogram = Histogram.of(wide, unit, importance)
        book = codebook(histogram, levels, prune=False)
        if scale is not None and book.error > 0:
            by_channel = Histogram.of(wide, scale)
            scaled = codebook(by_channel, levels, prune=False)
            kept = wide.size - histogram.zeros
            gained = math.log2(book.error / max(scaled.error, 1e-12 * book.error)) / 2 * kept
            if gained > 16 * scale.size and book.error > _SCALE_GAINS * scaled.error:
                book, unit, histogram = scaled, scale, by_channel
        return with_book(weight, wide, unit, constrained(histogram, book, self.excess), False, feedback)

    def recode(self, weight: Weight, array: Array | Slabs, feedback: Feedback | None = None) -> Coded:
        """An int8 or uint8 weight with at most 2**bits of its values, the zero point among them."""
        histogram = Histogram.of(centred(weight, array))
        book = constrained(histogram, codebook(histogram, 2**self.bits, prune=False), self.excess)
        return recoded(weight, array, book, False, feedback)


@dataclass(frozen=True)
class Int8(Values):
    """A uniform grid of 255 values with a scale per output channel; with bits a book of 2**bits of them."""

    name = "int8"
    bits: int = 8
    excess: float = 0.0  # see `entropy.constrained`; a whole grid has none

    def __post_init__(self) -> None:
        """Check the bits."""
        _check_bits(self.name, self.bits)

    def __str__(self) -> str:
        return self.name if self.bits == 8 else f"{self.name}:{self.bits}"

    def opset(self, fused: bool) -> int:
        """See `Values.opset`."""
        return DEQUANTISE_AXIS if fused else words.OPSET

    def code(
        self, weight: Weight, array: Array | Slabs, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """See `Values.code`."""
        wide = computed(array)
        if wide is None:
            return None
        if self.bits < 8:
            scale = channel_scale(weight, wide, transposed)
            if scale is None:
                scale = unit_scale(wide)
            histogram = Histogram.of(wide, scale)
            book = constrained(histogram, codebook(histogram, 2**self.bits, prune=False), self.excess)
            return on_grid(weight, wide, scale, book, False, transposed, feedback)
        axes = inner_axes(weight, transposed) or tuple(range(wide.ndim))
        tops = list(wide.each(lambda _, part: np.abs(part).max(axes, keepdims=True)))
        top = (np.maximum.reduce(tops) if 0 in axes else np.concatenate(tops)) / 127
        scale = tidy_scale(np.where(top > _DEAD, top, 1.0), up=True)
        divisor = scale.astype(wide.dtype)

        def coded(rows: Rows, columns: slice, part: Array) -> Array:
            return np.rint(part / part_of(divisor, rows)).clip(-127, 127).astype(np.int8)

        return oriented(wide.map(np.int8, coded).whole(), None, scale, transposed)


@dataclass(frozen=True)
class Int4(Values):
    """A uniform grid of 15 values in blocks of 16 to 128 entries along the input, the scale with the least error."""

    name = "int4"

    def opset(self, fused: bool) -> int:
        """See `Values.opset`."""
        return INT4 if fused else words.OPSET

    def code(
        self, weight: Weight, array: Array | Slabs, transposed: bool | None, feedback: Feedback | None = None
    ) -> Coded | None:
        """See `Values.code`."""
        wide = computed(array)
        if wide is None:
            return None
        if transposed is not None:
            codes, scale, block = _blocks_down(wide, transposed)
            return Coded(codes, np.zeros((), np.int8), INT4_BOOK, scale, (), True, block, transposed)
        held = wide.whole()
        axes = inner_axes(weight)
        inside = math.prod(wide.shape[a] for a in axes)
        block = next((b for b in BLOCKS if axes and inside % b == 0), inside)
        contiguous = bool(axes) and axes == tuple(range(axes[0], axes[-1] + 1))
        if not contiguous or block == inside:
            axes = axes or tuple(range(wide.ndim))
            scale = _least_error(held, axes)
            return Coded(_grid15(held, scale), np.zeros((), np.int8), INT4_BOOK, scale)
        view = (*wide.shape[: axes[0]], inside // block, block, *wide.shape[axes[-1] + 1 :])
        blocked = held.reshape(view)
        scale = _least_error(blocked, (axes[0] + 1,))
        return Coded(_grid15(blocked, scale).reshape(wide.shape), np.zeros((), np.int8), INT4_BOOK, scale, view)


INT4_BOOK = np.array([0, *range(-7, 0), *range(1, 8)], np.int8)


# the parts that forms share -----------------------------------------------------------------------------


def _check_bits(name: str, bits: int) -> None:
    if not 2 <= bits <= 8:
        raise OptionError(f"values '{name}:{bits}': the bits must be from 2 to 8")


def computed(array: Array | Slabs) -> Slabs | None:
    """The values as float32 (float64 for fp64); None where one is not finite, or all are far from ordinary sizes."""
    slabs = Slabs.of(array)
    kind = np.float64 if slabs.dtype == np.float64 else np.float32
    wide = slabs if slabs.dtype == kind else slabs.map(kind, lambda rows, columns, part: part.astype(kind))

    def largest(_: Rows, part: Array) -> float:
        return float(np.maximum(part.max(initial=0.0), -part.min(initial=0.0)))  # NaN where there is one

    top = float(np.max(list(wide.each(largest)), initial=0.0))
    limit = 0.99 * float(ml_dtypes.finfo(slabs.dtype).max)  # type: ignore[no-untyped-call]
    return wide if (top == 0 or _SMALLEST <= top <= min(_LARGEST, limit)) else None


def centred(weight: Weight, array: Array | Slabs) -> Slabs:
    """A quantised weight counted from its zero point, as float32."""

    def change(rows: Rows, columns: slice, part: Array) -> Array:
        return part.astype(np.float32) - weight.zero_value

    return Slabs.of(array).map(np.float32, change)


def inner_axes(weight: Weight, transposed: bool | None = None) -> tuple[int, ...]:
    """The axes that a scale is shared along: those of the inputs, in order; empty where they are not known."""
    if transposed is not None:
        return (int(transposed),)
    return tuple(sorted(weight.in_axes))


def channel_scale(weight: Weight, wide: Slabs, transposed: bool | None = None) -> Array | None:
    """Root mean square per output channel, or None where the axes are not known or channels are tiny."""
    axes = inner_axes(weight, transposed)
    if not axes or math.prod(wide.shape[a] for a in axes) < 8:
        return None
    return tidy_scale(root_mean_square(wide, axes))


def unit_scale(wide: Slabs) -> Array:
    """One scale for the whole weight, a power of 2, so that dividing by it loses nothing."""
    mean = root_mean_square(wide, tuple(range(wide.ndim)))
    return np.exp2(np.round(np.log2(mean))).astype(wide.dtype)


def tidy_scale(scale: Array, up: bool = False) -> Array:
    """The scale as float16 where its range allows that, else float32; `up` rounds towards more."""
    low, high = _HALF_NORMAL
    if scale.min() < low or scale.max() > high / 2 or 2 * scale.size < _CAST:
        return scale.astype(np.float32)
    half = scale.astype(np.float16)
    if up:
        half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
    return half


def with_book(
    weight: Weight, wide: Slabs, scale: Array, book: Codebook, prune: bool, feedback: Feedback | None = None
) -> Coded:
    """Codes into a float book; a scale for the whole weight goes into the book."""
    unit = float(scale.reshape(-1)[0]) if scale.size == 1 else 1.0
    values = book.levels * unit
    kind: type = np.float16 if _halves(values, wide.size) else np.float32
    values = values.astype(kind)
    stored = replace(book, levels=values.astype(np.float64) / unit)
    codes = _rounded(weight, wide, scale, book.levels, stored, prune, feedback)
    return Coded(codes, np.zeros((), kind), values, None if scale.size == 1 else scale)


def _halves(levels: Array, size: int) -> bool:
    """Whether the levels of a weight of so many entries are stored as float16: half the memory of the scatter too."""
    return _normal(levels) and bool(2 * np.count_nonzero(levels) >= _CAST or size > _SMALL)


def _normal(values: Array) -> bool:
    """Whether float16 keeps 11 bits of every value."""
    magnitudes = np.abs(values[values != 0])
    low, high = _HALF_NORMAL
    return not magnitudes.size or bool(magnitudes.min() >= low and magnitudes.max() <= high)


def are_halves(values: Array) -> bool:
    """Whether float16 keeps every bit of every value."""
    return _normal(values) and np.array_equal(bits_of(values.astype(np.float16).astype(values.dtype)), bits_of(values))


def narrowed(levels: Array, size: int) -> Array:
    """The levels of a weight of so many entries as float16 where that loses nothing and is worth a Cast."""
    narrow = levels.dtype in (np.float32, np.float64) and _halves(levels, size) and are_halves(levels)
    return levels.astype(np.float16) if narrow else levels


def on_grid(
    weight: Weight, wide: Slabs, scale: Array, book: Codebook, prune: bool, transposed: bool | None,
    feedback: Feedback | None = None,
) -> Coded:  # fmt: skip
    """Codes into a book of int8 values; the grid ends at the largest level."""
    levels, top = gridded(book.levels, prune)
    codes = _rounded(weight, wide, scale, levels, _moved(book, levels), prune, feedback)
    values = np.rint(levels * (127 / top)).astype(np.int8)
    return oriented(codes, values, tidy_scale(scale.astype(np.float64) * (top / 127)), transposed)


def recoded(
    weight: Weight, array: Array | Slabs, book: Codebook, prune: bool, feedback: Feedback | None = None
) -> Coded:
    """Codes of an int8 or uint8 weight into a book of its own type; the levels count from the zero point."""
    wide = centred(weight, array)
    one = np.ones((1,) * wide.ndim, np.float32)
    levels = whole(book.levels, prune)
    codes = _rounded(weight, wide, one, levels, _moved(book, levels), prune, feedback)
    return Coded(codes, weight.zero_value, (levels + weight.zero_value).astype(Slabs.of(array).dtype))


def whole(levels: Array, prune: bool) -> Array:
    """The levels as whole numbers; without `prune` none becomes 0."""
    grid = np.rint(levels[1:])
    if not prune:
        grid = np.where(grid == 0, np.where(levels[1:] < 0, -1, 1), grid)
    grid = np.unique(grid)
    return np.concatenate([[0.0], grid[grid != 0]])


def gridded(levels: Array, prune: bool) -> tuple[Array, float]:
    """The levels that are left on a grid of 255 steps up to the largest, and the largest.

    Without `prune` no level becomes 0.
    """
    top = max(float(np.abs(levels).max()), 1e-30)
    return whole(levels * (127 / top), prune) * (top / 127), top


def _moved(book: Codebook, levels: Array) -> Codebook:
    """The book with its levels moved to a grid; its cuts are midway again where some of them fell together."""
    return replace(book, levels=levels, cuts=book.cuts if len(levels) == len(book.levels) else None)


def _rounded(
    weight: Weight, wide: Slabs, scale: Array, nearest: Array, book: Codebook, prune: bool,
    feedback: Feedback | None,
) -> Array:  # fmt: skip
    """The codes of a weight such that its outputs keep what they can: by error feedback where its inputs are known.

    Elsewhere the errors of each output add up to nearly nothing: in each kernel of a convolution, then over all
    inputs.

    Args:
        weight: its axes.
        wide: its values.
        scale: what they are divided by.
        nearest: the levels of which each entry gets the nearest at first.
        book: what they are stored as, and the cuts.
        prune: whether entries other than 0 may get code 0.
        feedback: of its inputs.
    """
    inner = inner_axes(weight)
    outer = tuple(a for a in range(wide.ndim) if a not in inner)
    levels, cuts, order = book.levels, book.cuts, outer + inner
    apart = bool(inner and outer and wide.size)
    if feedback is not None and apart:
        values, divisor = wide.whole().transpose(order), scale.astype(wide.dtype).transpose(order)
        rows = (values / divisor).reshape(-1, feedback.order.shape[1])
        found = feedback.round(rows, levels, prune, cuts).reshape(values.shape)
        return np.ascontiguousarray(found.transpose(np.argsort(order)))
    codes = np.empty(wide.shape, np.uint8 if len(levels) <= 256 else np.uint16)
    kernel = math.prod(wide.shape[a] for a in inner[1:])
    widths = ([kernel] if kernel >= _KERNEL else []) + [math.prod(wide.shape[a] for a in inner)]

    def rounded(part: Array, own: Array) -> Array:
        """The codes of some outputs."""
        coded = encode(part, own, nearest, prune, cuts)
        if not apart:
            return coded
        values, divisor, moved = (a.transpose(order) for a in (part, own.astype(wide.dtype), coded))
        for start, stop in ranges(0, len(values), Slabs.unit_of(values[0].size)):
            here = np.ascontiguousarray(values[start:stop] / part_of(divisor, (start, stop)))
            target = np.ascontiguousarray(moved[start:stop])
            for width in widths:
                rows = target.reshape(-1, width)
                balance(here.reshape(-1, width), rows, levels, prune, cuts)
                target = rows.reshape(here.shape)
            moved[start:stop] = target
        return coded

    def by_rows(rows: Rows, part: Array) -> None:
        codes[slice(*rows)] = rounded(part, part_of(scale, rows))

    def by_columns(columns: Rows) -> None:
        own = scale[:, slice(*columns)] if scale.shape[1] > 1 else scale
        codes[:, slice(*columns)] = rounded(wide.block(*columns), own)

    if not apart or outer[0] == 0:
        deque(wide.each(by_rows), 0)
    elif wide.ndim == 2:
        deque(threads.run(by_columns, wide.columns), 0)
    else:
        by_rows((0, wide.shape[0]), wide.whole())
    return codes


def oriented(codes: Array, book: Array | None, scale: Array, transposed: bool | None) -> Coded:
    """Codes as their readers want them: folded in place, or as MatMul's [in, out] with one scale per output."""
    fill = np.zeros((), np.int8)
    if transposed is None:
        return Coded(codes, fill, book, scale)
    carrier: Array | Slabs = codes
    if transposed:

        def rows(start: int, stop: int) -> Array:
            return np.ascontiguousarray(codes[:, start:stop].T)

        carrier = Slabs.rowwise(codes.shape[::-1], codes.dtype, rows)
    return Coded(carrier, fill, book, scale.reshape(-1), fused=True, transposed=transposed)


def _least_error(wide: Array, axes: tuple[int, ...]) -> Array:
    """The scale (axes kept as 1) of a grid from -7 to 7 with the least squared error among eight."""
    top = np.abs(wide).max(axes, keepdims=True)
    best, least = np.where(top > 0, top / 7, 1.0), None
    for share in np.linspace(1.0, 0.65, 8):
        scale = np.where(top > 0, top * (share / 7), 1.0).astype(wide.dtype)
        error = np.square(wide - np.rint(wide / scale).clip(-7, 7) * scale).sum(axes, keepdims=True)
        if least is None:
            best, least = scale, error
        else:
            best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return tidy_scale(best)


def _grid15(wide: Array, scale: Array) -> Array:
    """Codes into `INT4_BOOK`."""
    grid = np.rint(wide / scale.astype(wide.dtype)).clip(-7, 7).astype(np.int8)
    return np.where(grid < 0, grid + 8, np.where(grid > 0, grid + 7, 0)).astype(np.uint8)


def _blocks_down(wide: Slabs, transposed: bool) -> tuple[Array, Array, int]:
    """Codes [in, out], scales [blocks, out] and the block: 64 unless the input is shorter."""
    rows, columns = wide.shape[::-1] if transposed else wide.shape
    block = 64 if rows >= 64 else 32 if rows >= 32 else 16
    count = -(-rows // block)
    codes, scales = np.empty((count, block, columns), np.uint8), np.empty((count, 1, columns), np.float32)

    def coded(part: Rows) -> None:
        start, stop = part[0] * block, min(part[1] * block, rows)
        read = wide.block(start, stop).T if transposed else wide.read(start, stop, EVERY)
        short = (part[1] - part[0]) * block - len(read)
        padded = np.pad(read, ((0, short), (0, 0))) if short else np.ascontiguousarray(read)
        blocked = padded.reshape(-1, block, columns)
        scales[slice(*part)] = found = _least_error(blocked, (1,))
        codes[slice(*part)] = _grid15(blocked, found)

    deque(threads.run(coded, ranges(0, count, max(1, _LARGE // (block * columns)))), 0)
    return codes.reshape(-1, columns)[:rows], tidy_scale(scales[:, 0]), block


# from the carrier to the weight, in the graph and in numpy ------------------------------------------------


def emit(build: Builder, dense: str, coded: Coded, element: int) -> str:
    """The nodes that make the weight of the decoded carrier `dense`; returns the weight's name."""
    dtype = coded.decoded
    if coded.scale is None:
        target = numpy_dtype(element)
        return dense if dtype == target else build.op("Cast", [dense], to=element)
    scale = build.constant("scale", coded.scale)
    wide = TensorProto.DOUBLE if element == TensorProto.DOUBLE else TensorProto.FLOAT
    if coded.scale.dtype != numpy_dtype(wide):
        scale = build.op("Cast", [scale], to=wide)
    if coded.fused:
        if coded.block:
            dense = build.op("Cast", [dense], to=TensorProto.INT4)
            return build.op("DequantizeLinear", [dense, scale], axis=0, block_size=coded.block)
        return build.op("DequantizeLinear", [dense, scale], axis=1)
    if dtype != numpy_dtype(wide):
        dense = build.op("Cast", [dense], to=wide)
    if coded.block:
        scale = build.reshape(scale, [coded.view[0], 1, coded.view[2]], "blocks")
    if coded.view:
        dense = build.reshape(dense, coded.view, "view")
    dense = build.op("Mul", [dense, scale])
    if coded.view:
        dense = build.reshape(dense, coded.carrier.shape, "shape")
    return dense if wide == element else build.op("Cast", [dense], to=element)


def restore(carrier: Array, parts: Mapping[str, Array], flags: str, element: int) -> Array:
    """The weight of a decoded carrier: what `emit`'s nodes compute.

    Raises:
        ValueError: the parts do not fit.
    """
    target = numpy_dtype(element)
    assert target is not None
    if "scale" not in parts:
        return carrier.astype(target, copy=False)
    marks = dict((f[:1], f[1:]) for f in flags.split(".") if f)
    wide = np.float64 if target == np.float64 else np.float32
    values: Array = carrier.astype(wide)
    scale: Array = parts["scale"].astype(wide)
    if "b" in marks:
        values = values * np.repeat(scale, int(marks["b"]), axis=0)[: len(values)]
    elif "view" in parts:
        values = (values.reshape(parts["view"]) * scale).reshape(carrier.shape)
    else:
        values = values * scale
    if "t" in marks:
        values = np.ascontiguousarray(values.T)
    return values.astype(target, copy=False)


FORMS: dict[str, type[Values]] = {form.name: form for form in (Exact, Half, Shared, Int8, Int4)}


def form_of(spec: str, excess: float = 0.0) -> Values:
    """A form from its name: exact, half, shared:4, int8, int8:5, int4.

    Args:
        spec: the name.
        excess: the squared error that a book may give for entropy, see `entropy.constrained`.

    Raises:
        OptionError: there is no such form.
    """
    name, colon, bits = spec.partition(":")
    books = {"shared": Shared, "int8": Int8}
    if name in books and (not colon or bits.isdecimal()):
        return books[name](bits=int(bits), excess=excess) if colon else books[name](excess=excess)
    if name in FORMS and not colon:
        return FORMS[name]()
    known = ", ".join(sorted(FORMS))
    raise OptionError(f"values '{spec}' is not one of auto, {known}, shared:BITS, int8:BITS")
