"""What rounds of prune and retrain came to, and which of them wins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import ToleranceMissed
from onnxprune.runtime.metrics import Limit


@dataclass(frozen=True)
class Round:
    """One round after retraining.

    Attributes:
        number: from 1.
        asked: the share of the pruned weights that the schedule asked for; None where only single weights have one.
        sparsity: the share of them that is zero.
        nonzero: entries of all weights, biases included, that are not zero.
        returned: entries that were pruned before retraining and are not after it (splice).
        metric: what the evaluation printed.
        within: whether that is within the tolerance; None without one.
        model: the file.
        masks: its mask file.
    """

    number: int
    asked: float | None
    sparsity: float
    nonzero: int
    returned: int
    metric: float | None
    within: bool | None
    model: str
    masks: str


@dataclass(frozen=True)
class Iteration:
    """All rounds, and the one that was written: the JSON of `--json`, field by field.

    Attributes:
        output: the file that was written.
        parameters: entries of all weights.
        metric: what the evaluation printed for the unpruned model.
        limit: the worst metric that is within the tolerance.
        rounds: what each round came to.
        chosen: the number of the round that was written.
        notes: what a user should know.
    """

    output: str
    parameters: int
    metric: float | None
    limit: float | None
    rounds: tuple[Round, ...]
    chosen: int
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def winner(rounds: Sequence[Round], limit: Limit | None) -> Round:
    """The sparsest round, which is the last one, of those within the limit.

    Raises:
        ToleranceMissed: there is none.
    """
    fitting = [r for r in rounds if r.within is not False]
    if not fitting:
        assert limit is not None
        best = (min if limit.lower_is_better else max)(r.metric for r in rounds if r.metric is not None)
        side = "above" if limit.lower_is_better else "below"
        raise ToleranceMissed(
            f"tolerance missed, nothing written: the best of {len(rounds)} rounds has {best:g}, {side} {limit.value:g}"
        )
    return fitting[-1]
