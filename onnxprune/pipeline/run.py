"""Run passes in order, and record in the model's metadata which of them changed it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from onnxprune.errors import OnnxPruneError
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent

Found = TypeVar("Found")
Observer = Callable[[Model, Pass, Change], None]
METADATA = "onnxprune.passes"


def unobserved(model: Model, step: Pass, change: Change) -> None:
    """A pass ran, and nobody asked."""


@dataclass
class Run:
    """Passes on a model, in order.

    Attributes:
        model: what they have made of it.
        steps: those that ran.
        changes: what each of them did.
        ran: called after each with the model, the pass and its change.
    """

    model: Model
    steps: list[Pass] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    ran: Observer = unobserved

    def copy(self, ran: Observer | None = None) -> Run:
        """The same passes on a copy of the model, to go on from here by itself; `ran` is called from now on."""
        return Run(self.model.copy(), list(self.steps), list(self.changes), ran or unobserved)

    def take(self, step: Pass, work: Callable[[Model, Progress], Change], progress: Progress = silent) -> None:
        """Run a pass; `work` is its `run`, or the part of it that is still to be done.

        Raises:
            OnnxPruneError: from the pass, with the passes that had already run.
        """
        with self._named():
            change = work(self.model, progress)
            self.ran(self.model, step, change)
        self.steps.append(step)
        self.changes.append(change)

    def measure(self, work: Callable[[Model, Progress], Found], progress: Progress = silent) -> Found:
        """What a pass finds out of the model in front of its work; see `take` for errors."""
        with self._named():
            return work(self.model, progress)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error says what had already run."""
        try:
            yield
        except OnnxPruneError as error:
            if self.steps:
                error.add_note(f"already run: {' '.join(map(str, self.steps))}")
            raise

    def record(self) -> None:
        """Write what changed the model into its metadata: once, after the last pass."""
        applied = [str(step) for step, change in zip(self.steps, self.changes, strict=True) if change.modified]
        if applied:
            _record(self.model, applied)


def run(model: Model, passes: Sequence[Pass], progress: Progress = silent, ran: Observer = unobserved) -> list[Change]:
    """Run the passes in order; those that changed the model are written into its metadata.

    Args:
        model: edited in place.
        passes: in order.
        progress: called with (pass, bytes of weights done, bytes in all).
        ran: called after each with the model, the pass and its change.

    Raises:
        OnnxPruneError: from a pass, with the passes that had already run.
    """
    whole = Run(model, ran=ran)
    for step in passes:
        whole.take(step, step.run, progress)
    whole.record()
    return whole.changes


def _record(model: Model, applied: Iterable[str]) -> None:
    entry = next((p for p in model.proto.metadata_props if p.key == METADATA), None)
    if entry is None:
        entry = model.proto.metadata_props.add(key=METADATA)
    # What stands there already moves to the end: a model that is made once more must not grow by it, and what was done
    # last is said last.
    applied, before = list(applied), f" {entry.value} "
    for spec in applied:
        before = before.replace(f" {spec} ", " ")
    entry.value = " ".join([before.strip(), *dict.fromkeys(applied)]).strip()
