"""Scalar quantisers for weights: few levels, least squared error. numpy only; nothing here knows ONNX.

The histogram behind the codebooks is float16 itself: a weight divided by its scale and rounded to
float16 is one of 63,487 values, spaced finely where weights are dense and relatively where they are rare. One
pass counts them; from prefix sums over them each step of Lloyd's algorithm costs a search per level,
whatever the size of the weight, and a table over all bit patterns turns the weight into codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from onnxprune.core.chunked import UNIT, Rows, Slabs, part_of, ranges

Array = np.ndarray

_PATTERNS = 1 << 16
_GROUPS = 4096
_GROUPS_EXACT, _FEW = 512, 64
_STEPS = 200
_SETTLED = 1e-4
_FAR = 1e30
_TINY = 1e-30  # the least scale: its inverse is a float32


@cache
def _order() -> tuple[Array, Array]:
    """Bit patterns of the finite float16 values in the order of their values, and the values."""
    patterns = np.arange(_PATTERNS, dtype=np.uint16)
    values = patterns.view(np.float16)
    finite = patterns[np.isfinite(values)]
    finite = finite[np.argsort(finite.view(np.float16), kind="stable")]
    return finite, finite.view(np.float16).astype(np.float64)


def _inverse(scale: Array | None, dtype: np.dtype) -> Array | None:
    return None if scale is None else (1 / scale).astype(dtype if dtype == np.float64 else np.float32)


def _kept(piece: Array, inverse: Array | None) -> tuple[Array, Array | None]:
    """Float16 bit patterns of the entries of piece * inverse that are not 0, and which they are (None: all).

    Values beyond float16 become its largest.
    """
    if inverse is not None:
        piece = piece * inverse
    mask = piece != 0
    every = bool(mask.all())
    flat = piece.reshape(-1) if every else piece[mask]
    with np.errstate(over="ignore"):
        half = flat.astype(np.float16)
    if np.isinf(half).any():
        half = np.clip(half, -65504, 65504)
    return half.view(np.uint16), None if every else mask


@dataclass(frozen=True)
class Histogram:
    """How the values of a weight (divided by its scale) are distributed, zeros apart.

    Prefix sums of mass, first and second moment and count over `values`, ascending: sums[:, i] is of
    values[:i]. Mass is the count, or the importance where one is given.
    """

    values: Array
    sums: Array
    zeros: int

    @classmethod
    def of(cls, array: Array | Slabs, scale: Array | None = None, importance: Array | None = None) -> Histogram:
        """Count a weight; scale and importance broadcast over it."""
        slabs = Slabs.of(array)
        inverse = _inverse(scale, slabs.dtype)

        def count(rows: Rows, part: Array) -> tuple[Array, list[Array]]:
            counts, masses = np.zeros(_PATTERNS, np.int64), []
            for start, stop in ranges(*rows, slabs.unit):
                piece = part[start - rows[0] : stop - rows[0]]
                patterns, mask = _kept(piece, None if inverse is None else part_of(inverse, (start, stop)))
                counts += np.bincount(patterns, minlength=_PATTERNS)
                counts[0] += piece.size - patterns.size
                if importance is not None:
                    share = np.broadcast_to(part_of(importance, (start, stop)), piece.shape)
                    held = share.reshape(-1) if mask is None else share[mask]
                    masses.append(np.bincount(patterns, held, minlength=_PATTERNS))
            return counts, masses

        counts, mass = np.zeros(_PATTERNS, np.int64), np.zeros(_PATTERNS)
        for more, masses in slabs.each(count):
            counts += more
            for each in masses:  # one after the other: sums of floats depend on the order
                mass += each
        if importance is None:
            mass = counts.astype(np.float64)
        order, values = _order()
        counts, mass = counts[order], mass[order]
        zero = values == 0
        zeros = int(counts[zero].sum())
        held = (counts > 0) & ~zero
        values, counts, mass = values[held], counts[held], mass[held]
        moments = np.stack([mass, mass * values, mass * values * values, counts])
        sums = np.concatenate([np.zeros((4, 1)), np.cumsum(moments, axis=1)], axis=1)
        return cls(values, sums, zeros)

    @property
    def energy(self) -> float:
        """Sum of squares, each times its mass."""
        return float(self.sums[2, -1])

    @property
    def mass(self) -> float:
        """Sum of masses of what is not 0."""
        return float(self.sums[0, -1])

    def thresholds(self, kept: Array) -> Array:
        """Magnitudes that about these shares of all entries exceed, each between two values."""
        size, total = np.unique(np.abs(self.values)), self.sums[3, -1]
        low, high = np.searchsorted(self.values, -size, side="right"), np.searchsorted(self.values, size)
        count = self.sums[3, low] + total - self.sums[3, high]  # entries of each magnitude and above
        at = np.searchsorted(-count, -kept * (total + self.zeros))
        at = np.unique(at[(at > 0) & (at < len(size))])
        return (size[at - 1] + size[at]) / 2

    def beyond(self, threshold: float) -> Histogram:
        """The entries that exceed a magnitude; the others count as zeros."""
        dead = np.s_[slice(*np.searchsorted(self.values, [-threshold, threshold]))]
        moments = np.diff(self.sums, axis=1)
        sums = np.cumsum(np.delete(moments, dead, axis=1), axis=1)
        zeros = self.zeros + int(moments[3, dead].sum())
        return Histogram(np.delete(self.values, dead), np.pad(sums, ((0, 0), (1, 0))), zeros)


@dataclass(frozen=True)
class Codebook:
    """Levels of a quantiser: code 0 is 0.0, the others ascend.

    Attributes:
        levels: the value of each code, float64.
        error: sum of squared errors over the histogram's weight.
        shares: how many entries take each code.
        cuts: where the cell of one level ends and that of the next begins, ascending; None: midway between them.
    """

    levels: Array
    error: float
    shares: Array
    cuts: Array | None = None


def codebook(histogram: Histogram, levels: int, prune: bool, threshold: float = 0.0) -> Codebook:
    """Lloyd's algorithm for at most `levels` codes, 0.0 included.

    One start spreads the levels with the cube root of the density (Panter and Dite 1951), the optimum for
    many levels: heavy tails get the few wide cells that they need. Few levels that nothing is pinned among
    start from the optimum over groups of the histogram as well, and the better end counts.

    Args:
        histogram: of the weight.
        levels: at least 2.
        prune: whether entries may become 0; otherwise only zeros are.
        threshold: with `prune` the magnitude up to which all become 0; 0: those nearest to it.
    """
    values, free = histogram.values, levels - 1
    if len(values) <= free:
        shares = np.concatenate([[histogram.zeros], np.diff(histogram.sums[3])])
        return Codebook(np.concatenate([[0.0], values]), 0.0, shares)
    start = _spread(histogram.beyond(threshold) if threshold else histogram, free)
    found = _lloyd(histogram, start, prune, threshold)
    if not prune and free <= _FEW:
        found = min(found, _lloyd(histogram, _optimal(histogram, free), prune), key=lambda book: book.error)
    return found


def _lloyd(histogram: Histogram, centres: Array, prune: bool, threshold: float = 0.0) -> Codebook:
    """Each level to the mean of its cell until the error settles."""
    values, sums, last = histogram.values, histogram.sums, np.inf
    for _ in range(_STEPS):
        points = np.sort(np.append(centres, 0.0)) if prune else centres
        edges = np.concatenate([[0], np.searchsorted(values, _cuts(points, threshold)), [len(values)]])
        mass, first, second, _ = np.diff(sums[:, edges], axis=1)
        pinned = (points == 0) & prune
        with np.errstate(invalid="ignore", divide="ignore"):
            fresh = np.where(pinned, 0.0, np.where(mass > 0, first / mass, points))
        error = float((second - 2 * fresh * first + fresh * fresh * mass).sum())
        centres = fresh[~pinned]
        if last - error <= _SETTLED * error:
            break
        last = error
    return measured(histogram, centres, prune, threshold)


def _optimal(histogram: Histogram, count: int) -> Array:
    """The `count` means with the least error over neighbouring groups of values, by dynamic programming.

    Groups of equal mass; with no more values than groups it is the optimum itself.
    """
    groups = min(_GROUPS_EXACT, len(histogram.values))
    mass = histogram.sums[0]
    inner = np.searchsorted(mass, np.linspace(0, mass[-1], groups + 1)[1:-1])
    if groups == len(histogram.values):
        inner = np.arange(1, groups)
    middle = np.searchsorted(histogram.values, 0.0)  # a group on both sides of 0 would have a mean among no values
    edges = np.unique(np.concatenate([[0], inner, [middle, len(histogram.values)]]))
    total, first, second, _ = histogram.sums[:, edges]
    weight = total[None, 1:] - total[:-1, None]
    moment = first[None, 1:] - first[:-1, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        cost = second[None, 1:] - second[:-1, None] - moment * moment / weight
    cost = np.where(np.tri(len(cost), k=-1, dtype=bool), np.inf, cost)  # [first group, last group]
    best, back = cost[0], []
    for _ in range(min(count, len(cost)) - 1):
        ways = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        back.append(np.argmin(ways, axis=0))
        best = ways[back[-1], np.arange(len(cost))]
    starts, last = [], len(cost) - 1
    for row in reversed(back):
        starts.append(int(row[last]))
        last = starts[-1] - 1
    cuts = np.array([0, *reversed(starts), len(cost)])
    return np.diff(first[cuts]) / np.diff(total[cuts])


def _spread(histogram: Histogram, count: int) -> Array:
    """`count` levels spread with the cube root of the density; none in the gap around 0 that pruning leaves."""
    values, mass = histogram.values, histogram.sums[0]
    groups = min(_GROUPS, len(values), max(count, int(mass[-1])))
    at = np.clip(np.searchsorted(mass, np.linspace(0, mass[-1], groups + 1)[1:-1]), 0, len(values) - 1)
    middle = int(np.searchsorted(values, 0.0))
    sides = [i for i in (middle - 1, middle) if 0 <= i < len(values)]
    edges = np.unique(np.concatenate([[0], at, sides, [len(values) - 1]]))
    points = values[edges]
    weights = np.diff(mass[edges]) ** (1 / 3) * np.diff(points) ** (2 / 3)
    weights[(points[:-1] < 0) & (points[1:] > 0)] = 0.0
    spread = np.concatenate([[0.0], np.cumsum(weights)])
    targets = (np.arange(count) + 0.5) / count * spread[-1]
    return np.unique(np.interp(targets, spread, points))


def _cuts(points: Array, threshold: float = 0.0) -> Array:
    """Where the cell of one level ends and that of the next begins; a threshold bounds that of the level 0.0."""
    cuts = (points[1:] + points[:-1]) / 2
    if threshold:
        zero = int(np.searchsorted(points, 0.0))
        cuts[max(zero - 1, 0) : zero] = -threshold
        cuts[zero : zero + 1] = threshold
    return cuts


def measured(histogram: Histogram, centres: Array, prune: bool, threshold: float = 0.0) -> Codebook:
    """The codebook of the given levels (0.0 is added) with each entry at the nearest one, or 0 up to the threshold."""
    centres = np.unique(centres[centres != 0])
    points = np.sort(np.append(centres, 0.0)) if prune else centres
    cuts = _cuts(points, threshold)
    edges = np.concatenate([[0], np.searchsorted(histogram.values, cuts), [len(histogram.values)]])
    mass, first, second, count = np.diff(histogram.sums[:, edges], axis=1)
    error = float((second - 2 * points * first + points * points * mass).sum())
    zero = points == 0
    shares = np.concatenate([[histogram.zeros + count[zero].sum()], count[~zero]])
    levels = np.concatenate([[0.0], points[~zero]])
    return Codebook(levels, max(error, 0.0), shares, cuts if threshold else None)


def encode(array: Array, scale: Array | None, levels: Array, prune: bool, cuts: Array | None = None) -> Array:
    """The code of each entry, uint8 or uint16, in the array's shape: the nearest level of array / scale.

    Args:
        array: the weight.
        scale: what it is divided by, or None.
        levels: as in `Codebook`: 0.0 first, then ascending.
        prune: whether entries other than 0 may get code 0.
        cuts: as in `Codebook`, where the nearest level is not wanted.
    """
    kind = np.uint8 if len(levels) <= 256 else np.uint16
    if len(levels) == 1:
        return np.zeros(array.shape, kind)
    order, values = _order()
    points = np.sort(levels) if prune else levels[1:]
    rank = np.searchsorted(_cuts(points) if cuts is None else cuts, values, side="right")
    code_of = np.searchsorted(levels[1:], points) + 1
    code_of[points == 0] = 0
    table = np.zeros(_PATTERNS, kind)
    table[order] = code_of[rank]
    if not prune:
        table[order[values == 0]] = 0
    codes = np.zeros(array.shape, kind)
    source, target = (array.reshape(1), codes.reshape(1)) if not array.ndim else (array, codes)
    inverse = _inverse(scale, array.dtype)
    for start, stop in ranges(0, len(source), Slabs.of(source).unit):
        part = None if inverse is None else part_of(inverse, (start, stop))
        patterns, mask = _kept(source[start:stop], part)
        if mask is None:
            target[start:stop] = table[patterns].reshape(source[start:stop].shape)
        else:
            target[start:stop][mask] = table[patterns]
    if not prune:  # what float16 rounds to 0 is not 0
        lost = np.count_nonzero(codes) != np.count_nonzero(array)
        if lost:
            tiny = int(np.argmin(np.abs(levels[1:]))) + 1
            codes[(codes == 0) & (array != 0)] = tiny
    return codes


def root_mean_square(array: Array | Slabs, axes: tuple[int, ...]) -> Array:
    """Root mean square over the axes (kept as 1), of the entries that are not 0; 1 where there is none."""
    slabs = Slabs.of(array)
    every, kept = list(range(slabs.ndim)), [a for a in range(slabs.ndim) if a not in axes]

    def sums(rows: Rows, part: Array) -> list[tuple[Array, Array]]:
        pieces = (part[start - rows[0] : stop - rows[0]] for start, stop in ranges(*rows, slabs.unit))
        return [
            (np.einsum(p, every, p, every, kept, dtype=np.float64), np.count_nonzero(p != 0, axis=axes)) for p in pieces
        ]

    found = [unit for slab in slabs.each(sums) for unit in slab]
    if 0 in axes or not found:
        shape = tuple(slabs.shape[a] for a in kept)
        energy, count = np.zeros(shape), np.zeros(shape, np.int64)
        for more, held in found:
            energy, count = energy + more, count + held
    else:
        energy, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    mean = np.sqrt(energy / np.maximum(count, 1))
    mean = np.where(count > 0, np.maximum(mean, _TINY), 1.0)
    return np.expand_dims(mean, axes)


def balance(rows: Array, codes: Array, levels: Array, prune: bool, cuts: Array | None = None) -> None:
    """Move the codes of a few entries to the next level so that the errors of each row add up to nearly nothing.

    What a layer reads is seldom centred on 0 (after a ReLU it never is): of a rounding error the sum
    reaches the output with the full mean of the inputs. Entries next to the border of two cells are moved, which
    costs least (the idea is SQuant's, Guo et al. 2022; here for any levels, the cheapest moves first).

    Args:
        rows: float [R, n], the weight divided by its scale, the entries that are added up in a row.
        codes: [R, n], edited in place.
        levels: as in `Codebook`.
        prune: whether entries other than 0 may get code 0; zeros keep theirs without it.
        cuts: as in `Codebook`.
    """
    order = np.argsort(levels, kind="stable") if prune else 1 + np.arange(len(levels) - 1)
    points = levels[order].astype(rows.dtype)
    rank_of = np.zeros(len(levels), np.int32)
    rank_of[order] = np.arange(len(order))
    borders, steps = _cuts(points) if cuts is None else cuts.astype(rows.dtype), np.diff(points)
    most = 4 + int(4 * np.sqrt(rows.shape[1]))
    block = max(1, UNIT // rows.shape[1])
    if len(points) < 2:
        return
    for at in range(0, len(rows), block):
        whole, part = rows[at : at + block], codes[at : at + block]
        free = whole != 0 if prune else (whole != 0) & (part != 0)
        held = np.count_nonzero(free, axis=1)
        if 2 * int(held.max(initial=0)) > whole.shape[1]:
            x, own = whole, part
        else:  # pruned: only what is left is looked at, row by row from the left
            place = np.arange(held.max(initial=0)) < held[:, None]
            x, own = np.zeros(place.shape, whole.dtype), np.zeros(place.shape, part.dtype)
            x[place], own[place] = whole[free], part[free]
        if not x.size:
            continue
        rank = rank_of[own]
        error = levels.astype(rows.dtype)[own] - x
        excess = error.sum(1, keepdims=True)
        down = excess > 0
        border = np.where(down, rank - 1, rank)  # between which two ranks the move would cross
        allowed = (border >= 0) & (border < len(steps)) & (free if own is part else place)
        border = border.clip(0, len(steps) - 1)
        cost = np.where(allowed, np.abs(x - borders[border]), np.inf)
        wide = x.shape[1]
        near = np.argpartition(cost, most - 1, axis=1)[:, :most] if most < wide else np.arange(wide)[None]
        near = np.broadcast_to(near, (len(x), min(most, wide)))
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(cost, near, 1), axis=1, kind="stable"), 1)
        moved = np.where(np.take_along_axis(allowed, near, 1), steps[np.take_along_axis(border, near, 1)], _FAR)
        chosen = np.cumsum(moved, axis=1) - moved / 2 < np.abs(excess)
        target = np.take_along_axis(rank, near, 1) + np.where(down, -1, 1)
        fresh = np.where(chosen, order[target.clip(0, len(order) - 1)], np.take_along_axis(own, near, 1))
        np.put_along_axis(own, near, fresh.astype(codes.dtype), 1)
        if own is not part:
            part[free] = own[place]
