"""strip_metadata: no doc strings and no metadata that no runtime reads."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.core.override import override
from onnxprune.encodings.file_contents import annotated, drop_notes, notes_nbytes
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class StripMetadata(Pass):
    """Drop the doc strings and metadata of nodes, values, tensors and functions, such as an exporter's stack traces.

    Those of the model, of its graph and of its inputs and outputs stay: ONNX Runtime hands them to callers.
    """

    name = "strip_metadata"

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change = Change()
        dropped = 0
        for message in annotated(model.proto):
            nbytes = notes_nbytes(message)
            if nbytes:
                dropped += nbytes
                drop_notes(message)
        if dropped:
            change.notes.append(f"{dropped:,} bytes of doc strings and metadata are gone")
            change.modified = True
        return change
