"""decode: every weight that `encode` wrote, back as a plain initializer, bit for bit and under its name."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.allocation import rate_distortion
from onnxprune.core.filled import beside
from onnxprune.core.override import override
from onnxprune.encodings.graph.constant_parts import unmarked
from onnxprune.encodings.graph.encoded import encoded_weights, restore
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, WeightRecord
from onnxprune.pipeline.progress import Progress, silent, tracked


@dataclass(frozen=True, kw_only=True)
class Decode(Pass):
    """Self-decoding groups and sparse initializers become dense tensors.

    The model remembers what they were coded in until it is written: `encode` codes in it what it still holds.
    """

    name = "decode"

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        encoded = encoded_weights(model)
        for _, group in tracked(progress, self.name, encoded, lambda group: group.nbytes(model)):
            coding = group.coding(model)
            with beside(model.payloads.scratch):
                restore(model, group, group.chunked(model))
            if coding is not None:
                model.codings[group.name] = coding
            change.weights[group.name] = WeightRecord(encoding="dense")
        folded = [parts.scope.path + parts.value for parts in list(unmarked(model)) if parts.fold(model)]
        if folded:
            change.notes.append(
                f"{len(folded)} tensors had no marks of onnxprune any more and were told by the nodes that computed "
                f"them: {', '.join(folded[:3])}{', ...' if len(folded) > 3 else ''}"
            )
        for weight in find(model):
            if weight.store == "sparse":
                weight.set_array(model, weight.chunked(model))
                change.weights[weight.name] = WeightRecord(encoding="dense")
        if encoded:
            rate_distortion.recover(model)
        change.modified = bool(change.weights or folded)
        return change
