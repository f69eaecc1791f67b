"""apply_masks: zero what a mask file prunes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxprune.core.override import override
from onnxprune.errors import OptionError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent, tracked


@dataclass(frozen=True, kw_only=True)
class ApplyMasks(Pass):
    """Zero what a mask file prunes; quantised weights get their zero point.

    Options:
        masks: the mask file.
        names_from: a checkpoint of this very model, for a model that shares neither names nor structure with the one
            that was pruned: its weights are found by value.
    """

    name = "apply_masks"
    masks: str = ""
    names_from: str = ""

    @override
    def check(self) -> None:
        if not self.masks:
            raise OptionError("masks must name a mask file")

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        # Not while the passes are listed: few commands read masks.
        from onnxprune.masks import checkpoints
        from onnxprune.masks import file as mask_files
        from onnxprune.masks.apply import NO_NAMES, lay, settle
        from onnxprune.masks.matching import match

        file = mask_files.read(Path(self.masks))
        matches = match.match(model, checkpoints.read(Path(self.names_from))) if self.names_from else NO_NAMES
        laid = lay(file, model, str(model.path or "the model"), matches)
        weights = [w for w in find(model) if w.name in laid]
        for _, weight in tracked(progress, self.name, weights, lambda weight: weight.nbytes(model)):
            settle(model, weight, weight.array(model), laid[weight.name], change)
        return change
