"""Planes of codes: which codes a plane holds itself, so that all of them take the fewest bytes.

A plane holds a number for each entry that the planes before it left: a code, or an escape to the next one. Frequent
codes stand in the first plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.encodings.positions.digits import DigitLayout, layout_for, layouts_from

NODES = 560  # bytes of the nodes, names and small constants of each plane but the first, about
_MOST = 256  # codes
_RADICES = (2, 3, 4, 5, 6, 7, 9, 16, 40)  # of planes with an escape: those that waste least of the words of `digits`
_ESCAPES = 3  # planes with an escape


@dataclass(frozen=True)
class Plane:
    """What one plane holds.

    Attributes:
        entries: how many numbers there are; of all planes but the first one more than it needs, for running sums end
            behind the last.
        base: which code its number 0 stands for, the frequent ones first.
        codes: how many codes it holds.
        escapes: whether its number `codes` leaves an entry to the next plane.
    """

    entries: int
    base: int
    codes: int
    escapes: bool

    @property
    def layout(self) -> DigitLayout:
        """Of its words."""
        return layout_for(max(self.codes + self.escapes, 2), self.entries)

    @property
    def nbytes(self) -> int:
        """Of its words."""
        return self.layout.nbytes(self.entries)


def frequent_first(counts: Array) -> Array:
    """Codes by how many entries have them, most first; code 0 is the first one, whatever it has.

    Args:
        counts: [codes].
    """
    return np.concatenate([[0], 1 + np.argsort(-counts[1:], kind="stable")])


def split(counts: Array) -> list[Plane]:
    """The planes of codes.

    Args:
        counts: [codes], how many entries have each, in the order of `frequent_first`. Where code 0 has none, no plane
            holds it.

    Returns:
        At least two planes; one where nothing is to be gained by more, or there are too few codes.
    """
    first = int(counts[0] == 0 and len(counts) > 1)
    own = counts[first:]
    taken = best(own[None], np.array([len(own)]))[1][0]
    planes: list[Plane] = []
    at = 0
    for radix in (*taken, 0):
        entries = int(own[at:].sum()) + bool(planes)
        planes.append(Plane(entries, first + at, radix - 1 if radix else len(own) - at, bool(radix)))
        at += radix - 1
    return planes


def best(counts: Array, codes: Array) -> tuple[Array, list[tuple[int, ...]]]:
    """The planes of several codebooks that take the fewest bytes.

    Args:
        counts: [codebooks, most codes], how many entries have each code, most first; 0 behind the last code.
        codes: intp [codebooks], how many there are.

    Returns:
        Bytes [codebooks], those of `NODES` included and not rounded up to words, and the radices of the planes with
        an escape; () where a single plane is the least.
    """
    escapes, radices, ends = _tried()
    left = np.zeros((len(counts), counts.shape[1] + 1))  # entries of each code and all that follow
    left[:, :-1] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    last, bits = counts.shape[1], _bits()
    rest = codes[:, None] - ends[:, -1]
    total = bits[rest.clip(0)] * left[:, ends[:, -1].clip(max=last)]
    for plane in range(_ESCAPES):
        total += bits[radices[:, plane]] * left[:, ends[:, plane].clip(max=last)]
    total = np.where(rest < 2, np.inf, total / 8 + NODES * escapes)
    total[:, 0] = bits[codes] * left[:, 0] / 8
    found = total.argmin(axis=1)
    taken = [tuple(radices[at][: escapes[at]].tolist()) for at in found]
    return np.take_along_axis(total, found[:, None], 1)[:, 0], taken


@cache
def _tried() -> tuple[Array, Array, Array]:
    """What is tried: how many planes with an escape, their radices, and how many codes are in the planes before each.

    Returns:
        intp [tried]; [tried, `_ESCAPES`], with 1 where there is no plane; [tried, `_ESCAPES` + 1].
    """
    found: list[Sequence[int]] = [()]
    for count in range(1, _ESCAPES + 1):
        found += product(_RADICES, repeat=count)
    radices = np.array([[*each, *[1] * (_ESCAPES - len(each))] for each in found], np.intp)
    ends = np.cumsum(np.pad(radices - 1, [(0, 0), (1, 0)]), axis=1)
    return np.array([len(each) for each in found]), radices, ends


@cache
def _bits() -> Array:
    """[radix], the fewest bits that a number below it takes; a radix of 1 or less takes none."""
    fewest = [min(8 * w.dtype.itemsize / w.digits for w in layouts_from(radix)) for radix in range(2, _MOST + 1)]
    return np.array([0.0, 0.0, *fewest])
