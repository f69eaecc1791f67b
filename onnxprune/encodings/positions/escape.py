"""escape: codes in planes. In each a number is a code, or for all rare ones an escape to the next plane.

Frequent codes take the bits of few levels, rare ones more: less than codes of one width, and more than an entropy
coder, which no runtime has. No positions are stored: running sums over the escapes tell where the next plane's go. A
code is the sum of its numbers: an escape is the number of codes in its plane.

No NonZero: its output has no shape that inference knows, without which ONNX Runtime folds nothing. No Gather: it takes
ten times as long for single entries as GatherElements (12 and 1 ns, onnxruntime 1.32.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.core.scattered import PIECE
from onnxprune.encodings.nodes import CODEBOOK, Builder, Parts
from onnxprune.encodings.positions import digits
from onnxprune.encodings.positions.base import Encoding
from onnxprune.encodings.positions.planes import NODES, Plane, frequent_first, split
from onnxprune.encodings.sparse import Sparse

_FEWEST = 4  # codes below which nothing is rare
_BYTES = 33  # that the nodes make for an entry: words, digits twice, escapes, running sums, what they gather, sums
_ROOM = 256  # bytes that filled up words may take


class Escape(Encoding):
    """Codes of a codebook in planes; the book has the fill value first, then the frequent ones."""

    name = "escape"
    opset = 11  # CumSum

    @override
    def fits(self, codebook: Array | None) -> bool:
        return codebook is not None and len(codebook) >= _FEWEST

    @override
    def least(self, sparse: Sparse) -> int:
        kept = np.clip(sparse.kept / sparse.size, 1e-12, 1 - 1e-12)
        return int(sparse.size * -(kept * np.log2(kept) + (1 - kept) * np.log2(1 - kept)) / 8)

    @override
    def payload(self, sparse: Sparse) -> int:
        assert sparse.codebook is not None
        planes = _planes(sparse)
        return sum(plane.nbytes for plane in planes) + NODES * (len(planes) - 1) + sparse.codebook.nbytes

    @override
    def largest(self, sparse: Sparse) -> int:
        return np.dtype(np.int32).itemsize * sparse.size + _ROOM

    @override
    def made(self, sparse: Sparse) -> int:
        return _BYTES * sparse.size + 3 * sparse.nbytes

    @override
    def pack(self, sparse: Sparse) -> Parts:
        assert sparse.codebook is not None
        order = _order(sparse)
        ranks = np.empty(len(order), np.uint8)
        ranks[order] = np.arange(len(order))
        left: Iterable[Array] = sparse.carrier.each(lambda _, part: ranks[part.reshape(-1)])
        parts: Parts = {CODEBOOK: sparse.codebook[order]}
        for number, plane in enumerate(_planes(sparse)):
            rest: list[Array] = []
            own = digits.pack_run(_numbers(left, plane, rest), plane.entries, plane.layout, "codes")
            own |= {"escape": np.array(plane.codes, np.int32)} if plane.escapes else {}
            own |= {"base": np.array(plane.base, np.int32)} if plane.base and not number else {}
            parts |= {f"p{number}{name}": part for name, part in own.items()}
            left = [*rest, np.array([plane.base + plane.codes], np.intp)]  # behind the last
        return parts

    @override
    def unpack(self, parts: Mapping[str, Array], shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        planes, book = _parts_of(parts), parts[CODEBOOK]
        size, taken = int(np.prod(shape, dtype=np.int64)), [0] * len(planes)

        def codes(number: int, count: int) -> Array:
            """The next codes of a plane and of those behind it, counted from its first."""
            own, start = planes[number], taken[number]
            taken[number] += count
            found = digits.unpack_run(own, "codes", start, start + count).astype(np.int64)
            if len(found) < count:
                raise ValueError(f"plane {number} ends after {start + len(found)} numbers")
            if "escape" in own:
                out = found == own["escape"]
                found[out] += codes(number + 1, int(np.count_nonzero(out)))
            return found

        for start, stop in ranges(0, size, PIECE):
            yield np.arange(start, stop), book[codes(0, stop - start) + planes[0].get("base", 0)]

    @override
    def emit(self, build: Builder, parts: Parts, shape: tuple[int, ...], fill_value: Array) -> str:
        planes = _parts_of(parts)
        codes = ""
        for number in reversed(range(len(planes))):
            codes = _emit_plane(build, planes[number], number, codes)
        if "base" in planes[0]:
            codes = build.op("Add", [codes, build.constant("p0base", planes[0]["base"])])
        count = int(np.prod(shape, dtype=np.int64))
        if digits.count_of(planes[0], "codes") != count:
            codes = build.op("Slice", [codes, build.constant("start", [0]), build.constant("end", [count])])
        book = build.constant(CODEBOOK, parts[CODEBOOK])
        return build.reshape(build.op("GatherElements", [book, codes]), shape)


def _order(sparse: Sparse) -> Array:
    """The codes, the frequent ones of the whole tensor first: chunks of it share a book."""
    return frequent_first((sparse.whole or sparse).counts)


def _planes(sparse: Sparse) -> list[Plane]:
    return split(sparse.counts[_order(sparse)])


def _numbers(left: Iterable[Array], plane: Plane, rest: list[Array]) -> Iterator[Array]:
    """The numbers of a plane from the ranks that are left; what it leaves to the next goes to `rest`."""
    for ranks in left:
        if plane.escapes:
            rest.append(ranks[ranks >= plane.base + plane.codes])
            ranks = np.minimum(ranks, plane.base + plane.codes)
        yield ranks - np.uint8(plane.base)


def _parts_of(parts: Mapping[str, Array]) -> list[Parts]:
    """The arrays of each plane."""
    planes: list[Parts] = []
    while f"p{len(planes)}codes" in parts:
        prefix = f"p{len(planes)}"
        planes.append({k.removeprefix(prefix): v for k, v in parts.items() if k.startswith(prefix)})
    if not planes or "escape" in planes[-1]:
        raise ValueError("a plane is missing")
    return planes


def _emit_plane(build: Builder, own: Parts, number: int, following: str) -> str:
    """The name of the codes of a plane, [numbers], with those of the planes behind it where it has escapes."""
    with build.named(f"p{number}"):
        numbers = digits.emit(build, own, "codes")
        escape = build.constant("escape", own["escape"]) if "escape" in own else ""
    if "powers" in own:
        numbers = build.reshape(numbers, [-1], "flat")
    if not escape:
        return numbers
    escaped = build.op("Div", [numbers, escape])  # 1 for the largest number alone, in a node less than Equal and Cast
    before = build.op("CumSum", [escaped, build.constant("axis", np.int32(0))], exclusive=1)
    more = build.op("Mul", [escaped, build.op("GatherElements", [following, before])])
    return build.op("Add", [numbers, more])
