"""fold: a weight that nodes compute from constants alone is held in place of what computes it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.channels.folding import fold_weights
from onnxprune.core.override import override
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, some_of
from onnxprune.pipeline.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Fold(Pass):
    """Hold what nodes compute from constants alone where a layer reads it as its weight: a weight norm, a low-rank sum.

    Otherwise such a weight is left alone, since what normalises it reads it too. A file does not grow by it.
    """

    name = "fold"

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        found = fold_weights(model)
        if found:
            change.notes.append(f"{some_of(found)}: held as nodes computed them from constants, which are gone")
            change.modified = True
        return change
