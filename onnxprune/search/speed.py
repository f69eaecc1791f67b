"""How many channels of each family go for a model to run so many times as fast, at the least cost to its layers.

What a family saves is measured on the whole model, thinned in that family alone; what it costs is what the layers that
read it miss. Dynamic programming chooses among the widths, and the model of all choices together is measured: savings
of layers behind each other overlap, so that the aim rises until the speed-up is there. ZipLM (Kurtic et al. 2023)
prunes to a table of measured latencies so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune.errors import ToleranceMissed
from onnxprune.layer_costs.in_turn import ProcessorTimes
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.search.knapsack import Item, cheapest
from onnxprune_passes import Channels, Decode, Fold
from onnxprune_passes.channels import Removable

_BLOCK = 8  # groups of a family of many that are tried at once
_WIDTHS = 8  # of a family, evenly spread
_UNITS = 1000  # that a run is counted in
_SPARE = 1.01  # on what was asked for: the next measurement differs
_NEAR = 1.05  # times what was asked for: a choice that is no faster is good enough
_LITTLE = 0.003  # of a run: a family that saves less at its least width is left alone
_TRIES = 10
_BRIEF, _LONG = 0.3, 2.0  # seconds that a width is measured, and a choice

# (before, after, seconds) -> milliseconds of a run of the first, and how many times as long one of the second takes
Timer = Callable[[Model, Model, float], tuple[float, float]]
Gone = tuple[int, ...]  # how many groups of each family go


@dataclass(frozen=True)
class SpeedUp:
    """What was found.

    Attributes:
        wanted: how many times as fast the model was to become.
        found: how many times as fast it is.
        before: median milliseconds of processor time of a run of the original, with dense weights.
        after: those of the result, before it is encoded: as many times less as was found.
        shares: "WEIGHT=SHARE" for each family that loses channels, as `set` of the channels pass.
        trials: how many models were measured.
    """

    wanted: float
    found: float
    before: float
    after: float
    shares: tuple[str, ...]
    trials: int


def faster(
    model: Model, path: Path, wanted: float, step: Channels, after: Sequence[Pass], progress: Progress = silent
) -> SpeedUp:
    """Search by the processor time of a run on one sample of the data of `step`.

    Args:
        model: the model.
        path: its file.
        wanted: see `SpeedSearch`, as the rest and the errors.
        step: the pass that removes the channels.
        after: the passes behind it.
        progress: called with ("trials", done, in all).
    """
    from onnxprune.layer_costs.measure import inputs_for  # which runs models

    feeds = inputs_for(model, path, Path(step.data), None).run
    return SpeedSearch(model, wanted, step, after, ProcessorTimes(feeds), progress).run()


class SpeedSearch:
    """One search; `run` finds the shares.

    Args:
        model: the model.
        wanted: how many times as fast it is to become, above 1.
        step: the pass that removes the channels, with samples; its shares are sought.
        after: the passes behind it that change shapes.
        timer: measures two models.
        progress: called with ("trials", models measured, about how many in all).
    """

    def __init__(
        self, model: Model, wanted: float, step: Channels, after: Sequence[Pass], timer: Timer,
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        self._dense = model.copy()
        Decode().run(self._dense)
        Fold().run(self._dense)
        self._wanted, self._step, self._after, self._timer = wanted, step, after, timer
        self._progress, self._trials, self._expected = progress, 0, _TRIES
        self._families: list[Removable] = []
        self._known: dict[tuple[str, ...], SpeedUp] = {}
        self._stripped = self._without(None)

    def run(self) -> SpeedUp:
        """Find the shares that cost least.

        Raises:
            ToleranceMissed: the speed-up is not to be had.
            DataError: the samples do not fit the model.
            RuntimeFailure: the model does not run.
        """
        stripped = self._measured(())
        if self._enough(stripped):
            return stripped
        self._families = self._step.removable(self._dense, self._progress)
        if not self._families:
            raise ToleranceMissed(
                f"speed-up {self._wanted:g} is not to be had: no channels may go, or the data does not tell what that "
                "costs (too few samples, all 0, or not finite), nothing written"
            )
        counts = [self._counts(family) for family in self._families]
        self._expected += sum(len(_measured_of(own)) for own in counts)
        items = [self._item(family, own) for family, own in zip(self._families, counts, strict=True)]

        def choice(aim: int) -> Gone:
            levels = cheapest(items, aim)
            assert levels is not None, "the aim is at most what all of them save"
            return tuple(own[level] for own, level in zip(counts, levels, strict=True))

        slow, fast = self._fastened(choice, sum(int(item.savings.max()) for item in items), stripped)
        return replace(self._measured(self._narrowed(slow, fast)), trials=self._trials)

    def _fastened(self, choice: Callable[[int], Gone], most: int, stripped: SpeedUp) -> tuple[Gone, Gone]:
        """The choice of the highest aim that is measured too slow, and that of the lowest one that is fast enough."""
        share = self._saved(self._wanted * _SPARE, stripped)
        low, high, aim = 0, most + 1, min(math.ceil(share * _UNITS), most)
        for _ in range(_TRIES):
            found = self._measured(choice(aim))
            if self._enough(found):
                high = aim
            else:
                low = aim
            if high - low <= 1 or self._near(found):
                break
            saved = self._saved(found.found, stripped)
            guess = round(aim * share / saved) if saved > 0 else high
            aim = guess if low < guess < high else (low + high) // 2
        fast = choice(min(high, most))
        found = self._measured(fast)
        if not self._enough(found):
            raise ToleranceMissed(
                f"speed-up {self._wanted:g} is not to be had: without the channels that may go the model is "
                f"{found.found:.2f} times as fast here, nothing written"
            )
        return choice(low), fast

    def _narrowed(self, slow: Gone, fast: Gone) -> Gone:
        """Between two choices the first that is fast enough: the widths that were measured may be far apart."""
        while not self._near(self._measured(fast)):
            middle = tuple(map(_between, self._families, slow, fast))
            if middle in (slow, fast) or self._cost(middle) >= self._cost(fast):
                break
            if self._enough(self._measured(middle)):
                fast = middle
            else:
                slow = middle
        return fast

    def _cost(self, gone: Gone) -> float:
        return sum(float(family.costs[:count].sum()) for family, count in zip(self._families, gone, strict=True))

    def _enough(self, found: SpeedUp) -> bool:
        return found.found >= self._wanted * _SPARE

    def _near(self, found: SpeedUp) -> bool:
        return self._enough(found) and found.found <= self._wanted * _NEAR

    @staticmethod
    def _saved(speed: float, stripped: SpeedUp) -> float:
        """The share of a run of the stripped model that a speed-up saves."""
        return 1 - stripped.found / speed

    def _counts(self, family: Removable) -> list[int]:
        """How many groups of a family may go, ascending, from none up."""
        coarse = family.step == 1 and family.groups >= 2 * _BLOCK
        step = _BLOCK if coarse else family.step
        kept = (-(-family.groups * part // (_WIDTHS * step)) * step for part in range(1, _WIDTHS))
        gone = sorted({family.groups - width for width in kept})
        return [0, *(number for number in gone if 0 < number <= len(family.costs))]

    def _item(self, family: Removable, counts: Sequence[int]) -> Item:
        """What the widths of a family save, and what they cost; between those that are measured savings are even."""
        costs = np.concatenate([[0.0], np.cumsum(family.costs)])[list(counts)]
        saved = {0: 0.0}
        for gone in _measured_of(counts):
            step = replace(self._step, sparsity=gone / family.groups, only=(family.name,))
            _, ratio = self._times(self._stripped, self._without(step), _BRIEF)
            saved[gone] = max(1 - ratio, 0)
            if gone == counts[-1] and saved[gone] < _LITTLE:
                self._expected -= len(_measured_of(counts)) - 1
                return Item(np.zeros(len(counts), np.int64), costs)
        known = sorted(saved)
        shares = np.interp(counts, known, [saved[gone] for gone in known])
        return Item((shares * _UNITS).astype(np.int64), costs)

    def _measured(self, gone: Gone) -> SpeedUp:
        """The model without some channels of each family beside the original."""
        shares = tuple(_share(*each) for each in zip(self._families, gone, strict=True) if each[1])
        if shares not in self._known:
            thinned = self._without(replace(self._step, set=shares)) if shares else self._stripped
            before, ratio = self._times(self._dense, thinned, _LONG)
            self._known[shares] = SpeedUp(self._wanted, 1 / ratio, before, before * ratio, shares, self._trials)
        return self._known[shares]

    def _times(self, before: Model, after: Model, seconds: float) -> tuple[float, float]:
        found = self._timer(before, after, seconds)
        self._trials += 1
        self._progress("trials", self._trials, max(self._trials, self._expected))
        return found

    def _without(self, step: Channels | None) -> Model:
        """The model without some channels, the least by norm: which of them go makes it no faster."""
        model = self._dense.copy()
        if step is not None:
            replace(step, data="", score="").run(model)
        for each in self._after:
            each.run(model)
        return model


def _measured_of(counts: Sequence[int]) -> list[int]:
    """Those of the widths of a family that are measured, the least width first."""
    return [counts[place] for place in sorted({1, 2, 4, len(counts) - 1}, reverse=True) if 0 < place < len(counts)]


def _share(family: Removable, gone: int) -> str:
    """The share of a family that stands for a number of groups, in as few digits as tell it."""
    texts = (f"{gone / family.groups:.{digits}g}" for digits in itertools.count(1))
    return f"{family.name}={next(text for text in texts if round(float(text) * family.groups) == gone)}"


def _between(family: Removable, slow: int, fast: int) -> int:
    """How many groups go between two numbers, for a multiple to stay."""
    kept = family.groups - (slow + fast) // 2
    return family.groups - min(-(-kept // family.step) * family.step, family.groups)
