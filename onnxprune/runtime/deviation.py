"""How far the outputs of two models lie apart, gathered batch by batch."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array
from onnxprune.errors import OptionError

_TEXT = "OSU"  # kinds of numpy types: strings, which ONNX Runtime gives as objects


MISPLACED = "NaN or Inf stand in other places"  # why an output differs
CLOSE_DB = 20.0  # of SQNR: below, answers change often enough to be looked at
FAR_DB = 7.0  # below, there is little left of what the original says
_PIECE = 1 << 20  # entries that are compared at once, in float64
# Parts of an output: see `parts_of`.
_APART = 100.0  # times the mean square of the next smaller index, at the least
_ENTRIES = 32  # of each index, at the least: fewer tell no magnitude
_LARGE = 1.0  # the mean square of the larger ones, at the least: probabilities are of one kind


def is_classes(dtype: np.dtype) -> bool:
    """Whether entries of a type are labels and indices, which are equal or not, and no numbers."""
    return dtype.kind in _TEXT + "b" or (dtype.kind in "iu" and dtype.itemsize >= 4)


@dataclass(frozen=True)
class Part:
    """Some of the `size` indices along an axis, ascending."""

    axis: int
    size: int
    indices: tuple[int, ...]

    def of(self, array: Array) -> Array:
        """The entries of the part."""
        return array.take(self.indices, self.axis)

    def __str__(self) -> str:
        """In words, such as "4 to 83 of axis 1", or "17 of 56 along axis 1" where they do not follow each other."""
        first, last, count = self.indices[0], self.indices[-1], len(self.indices)
        if last - first >= count:
            return f"{count} of {self.size} along axis {self.axis}"
        return f"{first} to {last} of axis {self.axis}" if count > 1 else f"{first} of axis {self.axis}"


@dataclass
class OutputDeviation:
    """One output over all samples.

    Floats and integers of 8 and 16 bits, which are quantised values, are numbers. Strings, bools and wider integers,
    which are labels and indices, are classes: equal or not. Sequences and maps are compared part by part.

    Attributes:
        series: whether its only axis counts samples or steps, see `session.series_of`: it is no row then.
        max_abs: largest absolute difference; infinite where shapes, finiteness or classes differ.
        rows, agreed: rows of numbers (last axis) and classes, and those of them that agree, see `top1_agreement`.
        classes: entries that were compared as classes.
        non_finite: entries that are NaN or the same infinity in both; no number counts them.
        differs: what of the output makes its values incomparable; empty where nothing does.
    """

    name: str
    series: bool = False
    max_abs: float = 0.0
    rows: int = 0
    agreed: int = 0
    classes: int = 0
    non_finite: int = 0
    differs: str = ""
    _sums: Array = field(default_factory=lambda: np.zeros(5), repr=False)  # a.a, b.b, a.b, (a-b).(a-b), entries
    _entries: int = 0  # of the reference
    _first: Any = None
    _constant: bool = True
    _is_part: bool = False
    _parts: list[tuple[Part, OutputDeviation]] = field(default_factory=list, repr=False)

    def add(self, a: Any, b: Any) -> None:
        """Take in one batch of the reference `a` and of the result `b`."""
        if isinstance(a, list | dict):
            self._add_parts(a, b)
            return
        if a is None and b is None:  # an optional value that is not there
            return
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            self.differ("its shape differs")
        elif (a.dtype.kind in _TEXT) != (b.dtype.kind in _TEXT):
            self.differ("its type differs")
        elif a.size:
            self._first = a.flat[0] if not self._entries else self._first
            self._constant = self._constant and bool((a == self._first).all())
            if is_classes(a.dtype):
                self._add_classes(a, b)
            else:
                for part, own in self._apart(a):
                    own.add(part.of(a), part.of(b))
                a, b = (array.reshape(-1, array.shape[-1] if array.ndim else 1) for array in (a, b))
                for start, stop in ranges(0, len(a), max(1, _PIECE // a.shape[1])):
                    self._add_numbers(a[start:stop], b[start:stop])
            self._entries += a.size

    def _apart(self, a: Array) -> list[tuple[Part, OutputDeviation]]:
        """The parts of other magnitudes, as the first batch shows them, with what is known of each."""
        if not self._entries and not self._is_part:
            self._parts = [(part, OutputDeviation(str(part), _is_part=True)) for part in parts_of(a)]
        if any(part.axis >= a.ndim or part.size != a.shape[part.axis] for part, _ in self._parts):
            self._parts = []  # an axis of another length has other indices
        return self._parts

    def differ(self, what: str) -> None:
        """Take note of what makes the values incomparable."""
        self.differs, self.max_abs = self.differs or what, math.inf
        self.rows += 1

    def _add_parts(self, a: Any, b: Any) -> None:
        """A sequence or a map: part by part."""
        keys = list(a) if isinstance(a, dict) else range(len(a))
        if type(a) is not type(b) or len(a) != len(b):
            self.differ("its length differs")
        elif isinstance(b, dict) and b.keys() != a.keys():
            self.differ("its keys differ")
        else:
            for key in keys:
                self.add(a[key], b[key])

    def _add_classes(self, a: Array, b: Array) -> None:
        equal = int(np.count_nonzero(a == b))
        self.classes += a.size
        self.rows += a.size
        self.agreed += equal
        if equal < a.size:
            self.max_abs = math.inf

    def _add_numbers(self, a: Array, b: Array) -> None:
        """Some rows: [rows, last axis]."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):  # Inf - Inf
            difference = x - y
        if np.isfinite(difference).all():  # so are both: the usual case takes no masks
            if self._has_rows(a):
                self.rows += len(a)
                self.agreed += int(np.count_nonzero(a.argmax(-1) == b.argmax(-1)))
            self._add_sums(x.reshape(-1), y.reshape(-1), difference.reshape(-1))
            return
        finite = np.isfinite(x) & np.isfinite(y)
        comparable = finite | (x == y) | (np.isnan(x) & np.isnan(y))
        if not comparable.all():
            self.differs, self.max_abs = self.differs or MISPLACED, math.inf
        self.non_finite += int(np.count_nonzero(comparable & ~finite))
        if self._has_rows(a):
            same = comparable.all(-1)
            counted = ~(same & np.isnan(x).any(-1))  # of NaN nothing is the largest
            self.rows += int(np.count_nonzero(counted))
            self.agreed += int(np.count_nonzero(counted & same & (x.argmax(-1) == y.argmax(-1))))
        self._add_sums(x[finite], y[finite], difference[finite])

    def _has_rows(self, a: Array) -> bool:
        return not self.series and a.shape[1] > 1 and a.dtype.kind == "f"

    def _add_sums(self, x: Array, y: Array, difference: Array) -> None:
        if difference.size:
            self.max_abs = max(self.max_abs, float(difference.max()), -float(difference.min()))
        with np.errstate(over="ignore"):  # squares beyond float64: as far off as can be
            self._sums += [x @ x, y @ y, x @ y, difference @ difference, difference.size]

    @property
    def says_nothing(self) -> str:
        """What the reference is, where no result can be told from it by its values; empty where one can."""
        if self.differs:
            return ""
        if not self._entries:
            return "empty"
        if self.non_finite == self._entries:
            return "NaN or Inf throughout"
        if self._entries > 1 and self._constant:
            shown = f"{self._first:.3g}" if isinstance(self._first, float | np.floating) else str(self._first)
            return f"{shown} throughout"
        return ""

    @property
    def numbers(self) -> bool:
        """Whether it has finite numbers, or differs in what numbers need."""
        return bool(self.differs or self._sums[4])

    @property
    def tells(self) -> bool:
        """Whether its numbers say how far the result is off; NaN in other places do."""
        return self.numbers and not self.says_nothing and self.differs in ("", MISPLACED)

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal power / error power); of the worst of its parts where these are of other magnitudes.

        Infinite where the numbers are equal, minus infinity where what `differs` says differs or squares of errors are
        beyond float64, NaN without numbers.
        """
        if not self.numbers:
            return math.nan
        if self.differs:
            return -math.inf
        worst = self._worst_part
        return self._whole_db if worst is None else worst.sqnr_db

    @property
    def _whole_db(self) -> float:
        """The SQNR of all its numbers together."""
        signal, _, _, error, _ = self._sums
        if error == 0:
            return math.inf
        return 10 * math.log10(signal / error) if signal and math.isfinite(error) else -math.inf

    @property
    def _worst_part(self) -> OutputDeviation | None:
        """The part of the least SQNR that tells something, see `parts_of`; None where the whole has less."""
        worst = min((own for _, own in self._parts if own.tells), key=lambda own: own.sqnr_db, default=None)
        return worst if worst is not None and worst.sqnr_db < self._whole_db else None

    @property
    def relative_l2(self) -> float:
        """||a - b|| / ||a||, of the part that `sqnr_db` is of."""
        return 10 ** (-self.sqnr_db / 20)

    @property
    def cosine(self) -> float:
        """Between all numbers of the two outputs; 0 where what `differs` says differs, NaN without numbers."""
        aa, bb, ab, error, _ = self._sums
        if not self.numbers:
            return math.nan
        if self.differs:
            return 0.0
        if aa == 0 or bb == 0 or not np.isfinite((aa, bb, ab)).all():
            return 1.0 if error == 0 else 0.0
        return float(min(1.0, ab / math.sqrt(aa) / math.sqrt(bb)))

    @property
    def mean_squared(self) -> float:
        """Mean of (a - b)^2; infinite where what `differs` says differs, NaN without numbers."""
        error, count = self._sums[3:]
        if not self.numbers:
            return math.nan
        return math.inf if self.differs else float(error / count)

    @property
    def top1_agreement(self) -> float | None:
        """Share of rows (last axis) with the same largest entry, and of classes that are equal; None without either."""
        return self.agreed / self.rows if self.rows else None

    def facts(self) -> dict[str, Any]:
        """For JSON: infinities and NaN, which JSON lacks, are null."""
        values = {
            "max_abs": self.max_abs,
            "relative_l2": self.relative_l2,
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "top1_agreement": self.top1_agreement,
        }
        words = {
            "classes": self.classes, "non_finite": self.non_finite, "differs": self.differs,
            "says_nothing": self.says_nothing, "part": self._worst_part.name if self._worst_part else "",
        }  # fmt: skip
        finite = {k: v if v is None or math.isfinite(v) else None for k, v in values.items()}
        return {"name": self.name} | finite | words


def compare(
    reference: Iterable[dict[str, Any]], result: Iterable[dict[str, Any]], series: Container[str] = ()
) -> list[OutputDeviation]:
    """One deviation per output; runs are taken one by one, so that neither model's need to be held.

    Args:
        reference: what one model gives, run by run.
        result: what another does.
        series: the outputs that are no rows, see `OutputDeviation`.

    Raises:
        OptionError: the outputs do not have the same names.
    """
    found: list[OutputDeviation] = []
    for a, b in zip(reference, result, strict=True):
        if not found and set(a) != set(b):
            raise OptionError(f"the models cannot be compared: outputs {', '.join(a)} and {', '.join(b)}")
        found = found or [OutputDeviation(name, name in series) for name in a]
        for output in found:
            output.add(a[output.name], b[output.name])
    return found


def parts_of(array: Array) -> list[Part]:
    """The indices along the second or the last axis whose numbers are of one magnitude; none where all are.

    Boxes in pixels beside scores from 0 to 1: the energy of the boxes is some 100,000 times that of the scores, and of
    the whole it would hide any error of these.

    Args:
        array: an output of numbers, [samples, ...].
    """
    for axis in dict.fromkeys((1, array.ndim - 1)) if array.ndim > 1 else ():
        size = array.shape[axis]
        if size < 2 or array.size < _ENTRIES * size:
            continue
        others = tuple(a for a in range(array.ndim) if a != axis)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.square(array, dtype=np.float64).mean(axis=others)
        if not np.isfinite(squares).all():
            continue
        order = np.argsort(squares, kind="stable")
        low, high = squares[order[:-1]], squares[order[1:]]
        cuts = np.flatnonzero((high > _APART * low) & (high > _LARGE)) + 1
        if len(cuts):
            return [Part(axis, size, tuple(np.sort(own).tolist())) for own in np.split(order, cuts)]
    return []
