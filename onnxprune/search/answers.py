"""Answers of a model, the classes that its outputs name: how many of them stay in a result of it.

A few samples count few answers: of 30, one that changes is 3 points. They tell more by their margins, see
`metrics.stays`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.runtime.deviation import is_classes
from onnxprune.runtime.metrics import are_probabilities, margins_lost, stays
from onnxprune.runtime.session import Feeds, series_of

if TYPE_CHECKING:
    import onnxruntime as ort


# Answers of a sample up to which they are one, and kinds of them from which on: a text is read right or not, while the
# parts of a picture or a recording are right one by one.
_SERIES, _LETTERS = 50, 9
_ROWS = 2048  # that tell whether an output has classes
_ROWS_BY_COLUMN, _SHUFFLES = 8, 4  # as many tell a class from a coordinate; how often they are shuffled
_EXCLUSIVE = 1.1  # times as far as among shuffled ones: classes stand out 1.2 times and more, coordinates 0.5 to 1.1


@dataclass(frozen=True)
class Kept:
    """How many answers a result keeps.

    Attributes:
        counted: in percent.
        expected: what margins and errors make likely, in percent; None where no scores tell margins.
        count: of how many answers; of samples where each has a short series of them.
    """

    counted: float = 100.0
    expected: float | None = None
    count: int = 0


@dataclass
class _Pairs:
    """Answers of one output before and after, [answers]; with margins where scores tell them."""

    was: list[Array] = field(default_factory=list)
    now: list[Array] = field(default_factory=list)
    margins: list[Array] = field(default_factory=list)
    errors: list[Array] = field(default_factory=list)

    def kept(self, samples: int) -> Kept:
        """How many of the answers on so many samples stay: the commonest one before and after is none."""
        if not any(map(len, self.was)):
            return Kept()
        was, now = np.concatenate(self.was), np.concatenate(self.now)
        kinds, which, counts = np.unique(was, return_inverse=True, return_counts=True)
        telling = (which != counts.argmax()) | (now != kinds[counts.argmax()])
        count = int(np.count_nonzero(telling))
        if not count:
            return Kept()
        series = samples < count <= _SERIES * samples and len(kinds) >= _LETTERS and not len(was) % samples
        of = samples if series else count
        changed = was != now
        counted, expected = np.count_nonzero(changed.reshape(of, -1).any(axis=1) if series else changed) / of, None
        if self.margins:
            margins, errors = np.concatenate(self.margins)[telling], np.concatenate(self.errors)[telling]
            likely = (1 - stays(margins, errors)) * count / of
            expected = _percent(-math.expm1(-likely) if series else likely)  # one change or more, as they come
        return Kept(_percent(counted), expected, of)


def _percent(changed: float) -> float:
    return 100.0 * (1 - min(float(changed), 1.0))


class Answers:
    """The answers of a model on samples.

    Args:
        session: of the model.
        feeds: the samples.
        outputs: what it gives for each feed.
        samples: how many they are.
        scores: the outputs that may be scores of classes, see `heads.Heads`.
    """

    def __init__(
        self, session: ort.InferenceSession, feeds: Sequence[Feeds], outputs: Sequence[dict[str, Any]], samples: int,
        scores: Mapping[str, int | None],
    ) -> None:  # fmt: skip
        self._feeds, self._outputs, self._samples, self._scores = feeds, outputs, samples, scores
        self._series = series_of(session)
        self._sized = {out.name for out in session.get_outputs() if out.shape and isinstance(out.shape[-1], int)}
        self._by_chance = {name for name in scores if _by_chance([output[name] for output in outputs])}

    def kept(self, outputs: Sequence[dict[str, Any]]) -> Kept:
        """How many of the answers a result keeps, of the output where it is least.

        Args:
            outputs: those of the result, for each feed.
        """
        found = []
        for name in self._outputs[0] if self._outputs else ():
            pairs = _Pairs()
            for feed, before, after in zip(self._feeds, self._outputs, outputs, strict=True):
                self._add(pairs, name, feed, before[name], after.get(name))
            found.append(pairs.kept(self._samples))
        return min((each for each in found if each.count), key=_least, default=Kept())

    def _add(self, pairs: _Pairs, name: str, feed: Mapping[str, Array], before: Any, after: Any) -> None:
        """The answers of an output for a feed; a state or an image, shaped as an input, names none, nor does a series.

        The last axis of scores is that of the outputs of a linear layer, or a part of it; where these are not known, it
        has a fixed size, which that of a series has not. Rows of probabilities are classes whatever made them.
        """
        if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray) or before.shape != after.shape:
            return
        if is_classes(before.dtype):
            if any(np.array_equal(before, array) for array in feed.values()):
                return  # handed through
            pairs.was.append(before.reshape(-1))
            pairs.now.append(after.reshape(-1))
            return
        if before.dtype.kind != "f" or not before.size or not before.ndim or before.shape[-1] <= 1:
            return
        if name in self._series or state_like(before, feed):
            return
        x, y = (array.reshape(-1, array.shape[-1]) for array in (before, after))
        if not are_probabilities(x) and not self._scored(name, before.shape[-1]):
            return
        was = x.argmax(1)
        margins, errors = margins_lost(x, y, was)
        pairs.was.append(was)
        pairs.now.append(y.argmax(1))
        pairs.margins.append(margins)
        pairs.errors.append(errors)

    def _scored(self, name: str, size: int) -> bool:
        """Whether a last axis of this size may be classes."""
        if name not in self._scores or name in self._by_chance:
            return False
        width = self._scores[name]
        return name in self._sized if width is None else width % size == 0


def _by_chance(outputs: Sequence[Any]) -> bool:
    """Whether the largest entry of a row stands out no more than by chance: features and coordinates, no classes.

    Of n normal deviates the largest is about 1 / sqrt(2 ln n) of their deviation above the next. Where there are rows
    enough, columns tell more, whatever their sizes: of classes one is large where the others are not, so that it
    stands out further than in rows that take each entry from any row; a coordinate does not ask for the others.
    """
    wide = [array.reshape(-1, array.shape[-1]) for array in outputs if _wide(array)]
    if not wide:
        return False
    rows = np.concatenate([part for part in wide if part.shape[1] == wide[0].shape[1]])
    rows = rows[:: -(-len(rows) // _ROWS)].astype(np.float64)
    above = _margins(rows) / (rows.std(1) + 1e-30)
    if float(np.median(above)) < 1 / math.sqrt(2 * math.log(rows.shape[1])):
        return True
    return len(rows) >= _ROWS_BY_COLUMN * rows.shape[1] and not _exclusive(rows)


def _exclusive(rows: Array) -> bool:
    """Whether the columns of rows are large in turn; those that seldom are count as much as the others."""
    shuffled = np.random.default_rng(0).permuted(np.tile(rows, (_SHUFFLES, 1)), axis=0)
    columns = rows.shape[1]
    counts = [np.bincount(part.argmax(1), minlength=columns) for part in (rows, shuffled)]
    both = (counts[0] > 0) & (counts[1] > 0)
    own, drawn = (
        float((np.bincount(part.argmax(1), _margins(part), columns)[both] / count[both]).sum())
        for part, count in zip((rows, shuffled), counts, strict=True)
    )
    return own > _EXCLUSIVE * drawn


def _margins(rows: Array) -> Array:
    """How far the largest entry of each row is above the next."""
    return np.diff(np.partition(rows, -2, axis=1)[:, -2:], axis=1)[:, 0]


def _wide(array: Any) -> bool:
    floats = isinstance(array, np.ndarray) and array.dtype.kind == "f" and bool(np.isfinite(array).all())
    return floats and bool(array.ndim) and bool(array.size) and array.shape[-1] > 2


def _least(kept: Kept) -> float:
    return kept.counted if kept.expected is None else min(kept.counted, kept.expected)


def state_like(output: Any, feed: Mapping[str, Array]) -> bool:
    """Whether an output looks like an input, floats of its shape: a state for the next run, or an image."""
    floats = isinstance(output, np.ndarray) and output.dtype.kind == "f"
    return floats and any(array.shape == output.shape and array.dtype == output.dtype for array in feed.values())
