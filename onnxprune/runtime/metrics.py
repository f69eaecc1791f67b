"""Metrics: one number that says how good a model is, from its outputs, and which way is better.

| name | what | against |
|---|---|---|
| top1, top5 | rows (last axis: classes) whose target is the largest entry, or among five, in percent | targets |
| expected_top1 | top1 as margins make it likely: over pairs of a row and an error of its like, see `stays` | both |
| agreement | rows with the same largest entry, and equal classes (integers, strings), in percent | the original |
| expected_agreement | agreement of the rows as margins make it likely | the original |
| sqnr | 10 log10(signal power / error power), in dB, within -1000..1000 | the original |
| cosine | between all values of the two outputs | the original |
| mse | mean squared error, lower is better | targets of an output's shape; without them the original |

Against the original the worst output counts, against targets the first output that they fit. `OutputDeviation` says
which outputs are of numbers and which of classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.core.chunked import ranges
from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.errors import DataError, OptionError
from onnxprune.runtime.deviation import OutputDeviation
from onnxprune.runtime.samples import TARGETS

Outputs = Mapping[str, Any]
EXPECTED = {"top1": "expected_top1", "agreement": "expected_agreement"}
NAMES = ("top1", "top5", "expected_top1", "agreement", "expected_agreement", "sqnr", "cosine", "mse")
UNITS = {**dict.fromkeys(NAMES[:5], " %"), "sqnr": " dB"}
_AGAINST_TARGETS = ("top1", "top5", "expected_top1")
_NEAR = (32, 256)  # the fewest and the most rows of like margins
_ROWS = 4096  # of windows that are compared at once
_SURE = 1e-3  # how far the sum of probabilities may be from 1
_ROUNDING = 1e-9  # of the metrics' size: 1.59 + 0.05 is below 1.64 in binary, and was not meant to be
MOST_DB = 1000.0  # equal outputs have infinitely many, which JSON lacks


@dataclass(frozen=True)
class Limit:
    """The worst value of a metric that is good enough."""

    value: float
    lower_is_better: bool

    @classmethod
    def of(cls, metric: float, tolerance: float, lower_is_better: bool) -> Limit:
        """What may be missed of the metric of the unpruned model."""
        return cls(metric + tolerance if lower_is_better else metric - tolerance, lower_is_better)

    def holds(self, metric: float) -> bool:
        """Whether a metric is within it."""
        miss = metric - self.value if self.lower_is_better else self.value - metric
        size = max(abs(metric), abs(self.value))
        return miss <= (_ROUNDING * size if math.isfinite(size) else 0.0)


def shown(name: str, value: float) -> str:
    """A metric for people, with its unit."""
    equal = name == "sqnr" and value >= MOST_DB
    return "equal" if equal else f"{value:.6g}{UNITS.get(name, '')}"


def default(targets: Array | None) -> str:
    """The metric where none is named: top1 for targets that are classes, mse for other numbers, agreement without.

    Raises:
        OptionError: the targets are text.
    """
    if targets is None:
        return "agreement"
    if targets.dtype.kind in "SU":
        raise OptionError(
            f"'{TARGETS}' are text, which only a function of yours can read: give --metric MODULE:FUNCTION"
        )
    return "top1" if np.issubdtype(targets.dtype, np.integer) else "mse"


class Score(ABC):
    """A metric, gathered feed by feed."""

    @abstractmethod
    def add(self, reference: Outputs, outputs: Outputs, targets: Array | None) -> None:
        """Take in what the original and the model give for one feed."""

    @abstractmethod
    def value(self) -> float:
        """The metric over all that was added."""


def score(name: str, targets: bool, series: Container[str] = ()) -> Score:
    """The score of a metric by its name.

    Args:
        name: one of `NAMES`.
        targets: whether the data has targets.
        series: the outputs that are no rows, see `session.series_of`.

    Raises:
        OptionError: the metric needs targets.
    """
    if name in _AGAINST_TARGETS:
        if not targets:
            raise OptionError(f"metric {name} needs an array '{TARGETS}' in the data: the right class of each sample")
        return _Expected() if name == "expected_top1" else _Ranks(name, 1 if name == "top1" else 5)
    if name == "expected_agreement":
        return _ExpectedAgreement(series)
    return _Errors() if name == "mse" and targets else _Against(name, series)


def needs_reference(name: str, targets: bool) -> bool:
    """Whether the metric compares with the outputs of the original."""
    return isinstance(score(name, targets), _Against | _Expected | _ExpectedAgreement)


class _Against(Score):
    """How far the outputs lie from the original's: the worst output counts."""

    def __init__(self, name: str, series: Container[str]) -> None:
        self.name, self.series = name, series
        self.outputs: dict[str, OutputDeviation] = {}

    @override
    def add(self, reference: Outputs, outputs: Outputs, targets: Array | None) -> None:
        for name, value in reference.items():
            held = self.outputs.setdefault(name, OutputDeviation(name, name in self.series))
            held.add(value, outputs.get(name))

    @override
    def value(self) -> float:
        return of_deviations(self.name, list(self.outputs.values()))


def of_deviations(name: str, outputs: list[OutputDeviation]) -> float:
    """The worst of agreement, sqnr, cosine or mse over the outputs.

    Raises:
        OptionError: no output has classes to agree on, or only classes where numbers are compared.
    """
    if name == "agreement":
        shares = [share for o in outputs if (share := o.top1_agreement) is not None]
        if not shares:
            raise OptionError("no output has classes to agree on: choose --metric sqnr or cosine")
        return 100 * min(shares)
    if outputs and all(o.classes and not o.numbers for o in outputs):
        raise OptionError(f"no output has numbers for {name}: choose --metric agreement")
    compared = [o for o in outputs if o.numbers]
    if name == "sqnr":
        return max(-MOST_DB, min([MOST_DB, *(o.sqnr_db for o in compared)]))
    if name == "cosine":
        return min((o.cosine for o in compared), default=1.0)
    return max((o.mean_squared for o in compared), default=0.0)


class _Ranks(Score):
    """Rows whose target is among the k largest entries."""

    def __init__(self, name: str, k: int) -> None:
        self.name, self.k = name, k
        self.right = self.rows = 0

    @override
    def add(self, reference: Outputs, outputs: Outputs, targets: Array | None) -> None:
        labels = _labels(outputs, targets)
        if labels is not None and self.k == 1 and _scores(outputs, targets) is None:
            self.right += int(np.count_nonzero(labels == targets))
            self.rows += labels.size
            return
        rows, wanted = _classes(self.name, outputs, targets)
        own = np.take_along_axis(rows, wanted[:, None], 1)
        ahead = (rows == own) & (np.arange(rows.shape[1]) < wanted[:, None])  # of equal entries the first wins
        rank = np.count_nonzero((rows > own) | ahead, axis=1)
        self.right += int(np.count_nonzero((rank < self.k) & ~np.isnan(rows).any(1)))
        self.rows += len(rows)

    @override
    def value(self) -> float:
        return 100 * self.right / self.rows


class _Margins:
    """Margins of rows, and what they lost."""

    def __init__(self) -> None:
        self.margins: list[Array] = []
        self.errors: list[Array] = []

    def add(self, before: Array, after: Array, classes: Array) -> None:
        """Take in rows of two models, by the classes whose margins count."""
        margins, errors = margins_lost(before, after, classes)
        self.margins.append(margins)
        self.errors.append(errors)

    def percent(self) -> float:
        """See `stays`."""
        return 100 * stays(np.concatenate(self.margins), np.concatenate(self.errors))


class _Expected(Score):
    """The share of rows that would be right with the errors of others of like margins, in percent."""

    def __init__(self) -> None:
        self.rows = _Margins()

    @override
    def add(self, reference: Outputs, outputs: Outputs, targets: Array | None) -> None:
        if _scores(reference, targets) is None and _labels(reference, targets) is not None:
            raise OptionError("the outputs name classes without scores: choose --metric top1")
        (before, wanted), (after, _) = (_classes("expected_top1", found, targets) for found in (reference, outputs))
        self.rows.add(before, after, wanted)

    @override
    def value(self) -> float:
        return self.rows.percent()


class _ExpectedAgreement(Score):
    """The share of rows whose largest entry would stay with the errors of others of like margins, in percent."""

    def __init__(self, series: Container[str]) -> None:
        self.series = series
        self.outputs: dict[str, _Margins] = {}

    @override
    def add(self, reference: Outputs, outputs: Outputs, targets: Array | None) -> None:
        for name, before in reference.items():
            after = outputs.get(name)
            if name in self.series:
                continue
            if isinstance(before, np.ndarray) and before.dtype.kind == "f" and before.ndim and before.shape[-1] > 1:
                held = self.outputs.setdefault(name, _Margins())
                if before.size and isinstance(after, np.ndarray) and after.shape == before.shape:
                    rows, found = (array.reshape(-1, array.shape[-1]) for array in (before, after))
                    held.add(rows, found, rows.argmax(1))

    @override
    def value(self) -> float:
        found = [rows.percent() for rows in self.outputs.values() if rows.margins]
        if not found:
            raise OptionError("no output has scores of classes: choose --metric agreement, sqnr or cosine")
        return min(found)


def _classes(metric: str, outputs: Outputs, targets: Array | None) -> tuple[Array, Array]:
    """The rows of the first output that targets are the classes of, and the targets."""
    assert targets is not None
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"metric {metric} needs '{TARGETS}' of whole numbers, not {targets.dtype}")
    scores = _scores(outputs, targets)
    if scores is None:
        raise DataError(f"'{TARGETS}' {targets.shape} are not the classes of the rows; {_shapes(outputs)}")
    name, found = scores
    rows, wanted = found.reshape(-1, found.shape[-1]), targets.reshape(-1).astype(np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= rows.shape[1]):
        bad = wanted.min() if wanted.min() < 0 else wanted.max()
        raise DataError(f"'{TARGETS}' hold {bad}: output '{name}' has the classes 0 to {rows.shape[1] - 1}")
    return rows, wanted


def _scores(outputs: Outputs, targets: Array | None) -> tuple[str, Array] | None:
    """The first output with a row of scores for each of the targets."""
    size = 0 if targets is None else targets.size
    return _fitting(outputs, lambda v: v.dtype.kind == "f" and v.ndim and v.shape[-1] > 1 and v[..., 0].size == size)


def _labels(outputs: Outputs, targets: Array | None) -> Array | None:
    """The first output that names a class for each of the targets, as classifiers of scikit-learn do beside a map."""
    if targets is None or targets.dtype.kind not in "iu":
        return None
    found = _fitting(outputs, lambda v: v.dtype.kind in "iu" and v.shape == targets.shape)
    return None if found is None else found[1]


def are_probabilities(rows: Array) -> bool:
    """Whether each of the rows sums to 1, and no entry is below 0."""
    return bool((rows >= 0).all() and (np.abs(rows.sum(1, dtype=np.float64) - 1) <= _SURE).all())


def margins_of(rows: Array, classes: Array, probabilities: bool) -> Array:
    """How far the score of each row's class is above the best other one, in float64; log odds of probabilities."""
    places = np.arange(len(rows))
    own = rows[places, classes].astype(np.float64)
    others = rows.copy()
    others[places, classes] = -np.inf
    best = others.max(1).astype(np.float64)
    if probabilities:
        own, best = (np.log(np.maximum(each, np.finfo(np.float32).tiny)) for each in (own, best))
    return own - best


def margins_lost(before: Array, after: Array, classes: Array) -> tuple[Array, Array]:
    """The margins of rows of one model by the given classes, and what they lost in those of another."""
    sure = are_probabilities(before)
    margins = margins_of(before, classes, sure)
    return margins, margins - margins_of(after, classes, sure)


def stays(margins: Array, errors: Array) -> float:
    """The share of pairs of a margin and an error in which the error is smaller, over errors of rows of like margins.

    A few rows tell more so than by counting those whose own error is larger than their margin. Errors grow with
    margins: each is held against those of the rows whose margins are nearest, a quarter of all, but 32 to 256. Of fewer
    rows all count, which tells of more change than there is.
    """
    order = np.argsort(margins, kind="stable")
    margins, errors = margins[order], np.nan_to_num(errors[order], nan=np.inf)
    count = len(margins)
    near = min(count, max(_NEAR[0], min(count // 4, _NEAR[1])))
    starts = np.clip(np.arange(count) - near // 2, 0, count - near)
    windows = np.lib.stride_tricks.sliding_window_view(errors, near)
    held = 0
    for start, stop in ranges(0, count, _ROWS):
        held += int(np.count_nonzero(windows[starts[start:stop]] < margins[start:stop, None]))
    return held / (count * near)


class _Errors(Score):
    """The mean squared error against targets."""

    def __init__(self) -> None:
        self.squares, self.count = 0.0, 0

    @override
    def add(self, reference: Outputs, outputs: Outputs, targets: Array | None) -> None:
        assert targets is not None
        fits = lambda v: v.dtype.kind in "fiu" and v.shape == targets.shape  # noqa: E731
        held = _fitting(outputs, fits)
        if held is None:
            raise DataError(f"metric mse needs '{TARGETS}' {targets.shape} of an output's shape; {_shapes(outputs)}")
        difference = held[1].astype(np.float64).reshape(-1) - targets.astype(np.float64).reshape(-1)
        self.squares += float(difference @ difference)
        self.count += difference.size

    @override
    def value(self) -> float:
        found = self.squares / self.count if self.count else 0.0
        return found if math.isfinite(found) else math.inf


def _fitting(outputs: Outputs, fits: Callable[[Array], Any]) -> tuple[str, Array] | None:
    """The first output that the targets fit."""
    tensors = ((name, value) for name, value in outputs.items() if isinstance(value, np.ndarray))
    return next(((name, value) for name, value in tensors if fits(value)), None)


def _shapes(outputs: Outputs) -> str:
    """What the outputs are, in words."""
    shapes = [f"{name} {value.shape}" for name, value in outputs.items() if isinstance(value, np.ndarray)]
    return f"the outputs are {', '.join(shapes) or 'no tensors'}"
