"""Run passes in order, and record in the model's metadata which of them changed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from onnxprune.errors import OnnxPruneError
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent

METADATA = "onnxprune.passes"


def unobserved(step: Pass, change: Change) -> None:
    """A pass ran, and nobody asked."""


def run(
    model: Model, passes: Sequence[Pass], progress: Progress = silent, ran: Callable[[Pass, Change], None] = unobserved
) -> list[Change]:
    """Run the passes in order; what changed the model is written into its metadata. `ran` is called after each.

    Raises:
        OnnxPruneError: from a pass, with the passes that had already run.
    """
    changes: list[Change] = []
    for number, item in enumerate(passes):
        try:
            changes.append(item.run(model, progress))
            ran(item, changes[-1])
        except OnnxPruneError as error:
            if number:
                error.add_note(f"already run: {' '.join(str(p) for p in passes[:number])}")
            raise
    applied = [str(p) for p, change in zip(passes, changes, strict=True) if change.modified]
    if applied:
        _record(model, applied)
    return changes


def _record(model: Model, applied: Iterable[str]) -> None:
    entry = next((p for p in model.proto.metadata_props if p.key == METADATA), None)
    if entry is None:
        entry = model.proto.metadata_props.add(key=METADATA)
    # What stands there already is not said again: a model that is made once more must not grow by it.
    fresh = [spec for spec in applied if f" {spec} " not in f" {entry.value} "]
    entry.value = " ".join([entry.value, *fresh] if entry.value else fresh)
