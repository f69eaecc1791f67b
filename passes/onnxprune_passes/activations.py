"""activations: convolutions compute with 8-bit integers where that gains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxprune.core.override import override
from onnxprune.errors import NoGain, OptionError
from onnxprune.model.discovery import label
from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, some_of
from onnxprune.pipeline.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Activations(Pass):
    """Let convolutions compute with uint8 activations and int8 weights, with what stands between them.

    Which ones goes by structure, see `activations.regions`. The ranges of the activations are measured on samples.
    Weights stay as they are, behind nodes that round them when the model is loaded: later passes store them.

    Options:
        data: an .npz file or a folder (see `samples.load`) that the activations are measured on.
        samples: at most so many samples of the data.
        half: only samples of the first half that `samples.cut` makes: the second is held out.
    """

    name = "activations"
    data: str
    samples: int = 64
    half: bool = False

    @override
    def check(self) -> None:
        if not self.data:
            raise OptionError("activations: data is wanted, which the ranges of activations are measured on")

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        # Not while the passes are listed: few commands compute with integers.
        from onnxprune.activations.calibration import grids
        from onnxprune.activations.editing import Editor
        from onnxprune.activations.folding import fold
        from onnxprune.activations.quantise import OPSET, quantise, values_of
        from onnxprune.activations.regions import dense_convolutions, integer_nodes
        from onnxprune.channels.cleanup import remove_unused
        from onnxprune.runtime.opset import raise_to

        change, trial = Change(), model.copy()
        refusal = raise_to(trial, OPSET) if trial.opset < OPSET and dense_convolutions(trial) else ""
        if refusal:
            raise NoGain(f"activations int8 needs opset {OPSET}: {refusal}")
        editor = Editor(trial, scopes_of(trial.proto)[0])
        for weight, node in dense_convolutions(trial):
            fold(trial, weight, node, editor)
        found = integer_nodes(trial)
        if not found:
            return change
        half = 0 if self.half else None
        quantise(trial, found, grids(trial, values_of(found), Path(self.data), self.samples, half), editor)
        remove_unused(trial)
        model.proto, model.payloads = trial.proto, trial.payloads
        convolutions = [each for each in found if each.weight is not None]
        change.integers = [label(each.weight.scope, each.node) for each in convolutions if each.weight is not None]
        change.notes.append(f"{len(convolutions)} convolutions compute with 8-bit integers: {some_of(change.integers)}")
        change.modified = True
        return change
