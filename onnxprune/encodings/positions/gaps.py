"""Distances between kept entries as small numbers (Han et al. 2015, section 3 "relative indices").

A distance above the cap becomes fillers: entries that move on by the cap and write the fill value there.
With a codebook, a gap and the code after it are one symbol, gap * levels + code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.encodings.nodes import Builder, Parts
from onnxprune.encodings.positions import digits
from onnxprune.encodings.positions.digits import DigitLayout, layouts_from

BYTE = 255
_FAR_GAP = 1 << 16


def fillers(distances: Array, cap: int = BYTE) -> Array:
    """How many fillers stand before each entry."""
    return np.maximum(distances - 1, 0) // cap


@dataclass(frozen=True)
class Distances:
    """How many entries lie so far from the one before.

    Attributes:
        counts: of each distance below 65,536, up to the largest that there is.
        far: the larger ones.
    """

    counts: Array
    far: Array

    @classmethod
    def of(cls, distances: Array) -> Distances:
        """Of so many entries."""
        near = distances < _FAR_GAP
        every = bool(near.all())
        far = np.zeros(0, np.int64) if every else distances[~near].astype(np.int64)
        return cls(np.bincount(distances if every else distances[near]), far)

    def __add__(self, other: Distances) -> Distances:
        longer, shorter = sorted((self.counts, other.counts), key=len, reverse=True)
        counts = longer.copy()
        counts[: len(shorter)] += shorter
        return Distances(counts, np.concatenate([self.far, other.far]))

    def entries(self, cap: int = BYTE) -> int:
        """Entries and fillers."""
        near = int((self.counts * (1 + fillers(np.arange(len(self.counts)), cap))).sum())
        return near + len(self.far) + int(fillers(self.far, cap).sum())


def to_gaps(distances: Array, values: Array, fill_value: Array, cap: int = BYTE) -> tuple[Array, Array]:
    """Gaps whose running sum visits every entry, with fillers where a distance is above the cap.

    Args:
        distances: of each entry from the one before, [entries].
        values: of the entries, [entries].
        fill_value: the value of a filler.
        cap: the largest gap.

    Returns:
        The gaps and the values, [entries and fillers] both.
    """
    kind = np.uint8 if cap <= BYTE else np.int32
    extra = fillers(distances, cap)
    total = int(extra.sum())
    if not total:
        return distances.astype(kind), values
    at = np.arange(len(distances)) + np.cumsum(extra)
    gaps = np.full(len(distances) + total, cap, kind)
    gaps[at] = distances - cap * extra
    spread = np.full(len(gaps), fill_value)
    spread[at] = values
    return gaps, spread


@dataclass(frozen=True)
class Joint:
    """How gaps and codes share a word: the largest gap, how many codes there are, the layout, the entries in all."""

    cap: int
    levels: int
    layout: DigitLayout
    entries: int

    @property
    def nbytes(self) -> int:
        """Bytes of the symbols."""
        return self.layout.nbytes(self.entries)


def joint_for(distances: Distances, levels: int) -> Joint:
    """The widths with the fewest bytes."""
    best: Joint | None = None
    for layout in layouts_from(2 * levels):  # a code and a gap of at least 1
        cap = min(layout.radix // levels - 1, _FAR_GAP)
        joint = Joint(cap, levels, DigitLayout(layout.dtype, layout.digits, levels * (cap + 1)), distances.entries(cap))
        if best is None or joint.nbytes < best.nbytes:
            best = joint
    assert best is not None
    return best


def symbols_of(runs: Array, codes: Array, joint: Joint) -> Array:
    """A gap and the code after it as one number."""
    return runs.astype(np.int64) * joint.levels + codes


def filling(joint: Joint, last: Array) -> Array:
    """Gaps of 0 to the last code."""
    return last % joint.levels


def pack_rows(runs: Array, codes: Array, joint: Joint) -> Parts:
    """Symbols [rows, m] as words; the last word of each row is filled up."""
    symbols = symbols_of(runs, codes, joint)
    short = -symbols.shape[-1] % joint.layout.digits
    if short:
        symbols = np.concatenate([symbols, np.repeat(filling(joint, symbols[..., -1:]), short, axis=-1)], axis=-1)
    return digits.pack(symbols, joint.layout, "symbols")


def around(joint: Joint, codebook: Array) -> Parts:
    """What the symbols are taken apart with."""
    return {"levels": np.array(joint.levels, np.int32), "book": codebook}


def taken_apart(parts: Mapping[str, Array], symbols: Array) -> tuple[Array, Array]:
    """Gaps and values of some symbols, in their shape."""
    levels = int(parts["levels"])
    if levels < 1:
        raise ValueError(f"it has {levels} levels")
    runs, codes = np.divmod(symbols.astype(np.int64), levels)
    return runs, parts["book"][codes]


def emit(build: Builder, parts: Parts, shape: list[int]) -> tuple[str, str]:
    """The names of the gaps (int32) and the values, in the shape."""
    symbols = digits.emit(build, parts, "symbols")
    if "powers" in parts:
        symbols = build.reshape(symbols, shape, "run")
    levels = build.constant("levels", parts["levels"])
    steps = build.op("Div", [symbols, levels])
    return steps, build.look_up(parts["book"], build.op("Mod", [symbols, levels]))
