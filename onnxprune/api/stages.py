"""The stages of a transformation: open a model, apply passes and write what came of them, report.

Whoever tries several losses opens once and applies a copy for each; see `compress`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.api.options.objects import Checks
from onnxprune.api.result import Deviation, FileFacts, Result, Skipped, file_facts, versions
from onnxprune.api.verify import Verification
from onnxprune.core.files import PathLike
from onnxprune.encodings.file_contents import file_contents
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.inventory import WeightFacts, inspect_model, weight_facts
from onnxprune.errors import ModelError, NotLoaded, OutputError
from onnxprune.model.discovery import label
from onnxprune.model.model import Model, replacing
from onnxprune.model.scopes import scopes_of
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, removals
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.pipeline.run import Run

if TYPE_CHECKING:
    from onnxprune.masks import apply as masks_of

StoredForms = frozenset[tuple[str, str, bool]]


@dataclass(frozen=True)
class Saving:
    """When a model stays as it was: only passes that are there for bytes changed it, and they saved none.

    Attributes:
        passes: the names of those passes.
        alike: whether all weights must have kept their encodings, too; else no more may be read as integers.
    """

    passes: Collection[str] = ()
    alike: bool = False


@dataclass
class Opened:
    """A model on its way to a file.

    Attributes:
        source: the file that it came from.
        model: as it was read; no pass changes it.
        before: facts about its weights, by name.
        stored: name and encoding of its encoded weights, and whether a MatMul reads them as integers.
        nbytes: bytes of its files.
        run: the passes that ran on a copy of it.
        recorder: what takes the masks while they run.
    """

    source: Path
    model: Model
    before: dict[str, WeightFacts]
    stored: StoredForms
    nbytes: int
    run: Run
    recorder: masks_of.Recorder | None = None

    def copy(self) -> Opened:
        """The same, to go on from here by itself."""
        recorder = None if self.recorder is None else self.recorder.copy()
        return replace(self, run=self.run.copy(recorder), recorder=recorder)

    def take(self, steps: Sequence[Pass], progress: Progress = silent) -> None:
        """Run passes; see `Run.take` for errors."""
        for step in steps:
            self.run.take(step, step.run, progress)


@dataclass
class Applied:
    """What passes made of a model, as it was written.

    Attributes:
        model: that model.
        steps: the passes.
        changes: what they did; nothing where the model stayed as it was.
        notes: what a user should know.
    """

    model: Model
    steps: list[Pass]
    changes: list[Change]
    notes: list[str]


def placed(source: Path, out: PathLike | None) -> Path:
    """The file to write: in a folder one of the source's name, and MODEL.pruned.onnx beside it without `out`."""
    if out is None:
        if not source.name:
            raise ModelError(f"'{source}' is not a file")
        return source.with_name(f"{source.stem}.pruned.onnx")
    target = Path(out)
    return target / source.name if os.fspath(out) and target.is_dir() else target


def check_places(checks: Checks, source: Path, target: Path) -> None:
    """Refuse outputs that are inputs, or each other.

    Raises:
        OutputError: the target is the source, which is not allowed, or the masks are one of them or another input.
    """
    if not checks.in_place and target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the input; give --in-place to overwrite it")
    if checks.masks is None:
        return
    inputs = {Path(path).resolve() for path in (checks.data, checks.names_from) if path is not None}
    if Path(checks.masks).resolve() in {source.resolve(), target.resolve()}:
        raise OutputError(f"{checks.masks} is a model: choose another file for the masks")
    if Path(checks.masks).resolve() in inputs:
        raise OutputError(f"{checks.masks} is an input: choose another file for the masks")


def open_model(source: Path, target: Path, steps: Sequence[Pass], checks: Checks) -> Opened:
    """Open a model, and take the facts about it that the report compares with.

    Args:
        source: the file.
        target: the file that will be written; new tensors that memory does not hold lie beside it meanwhile.
        steps: the passes that will run: they are asked for the masks.
        checks: see `Checks`.

    Raises:
        OutputError: the target holds the external data of the model.
        OnnxPruneError: see `Model.load`; or masks are asked for and no pass prunes.
    """
    model = Model.load(source)
    model.payloads.scratch = target.parent
    before = {weight.name: weight for weight in inspect_model(model)}
    companions = model.companions()
    if target.exists() and any(target.samefile(file) for file in companions):
        raise OutputError(f"{target} holds the external data of {source}: choose another output")
    nbytes = sum(file.stat().st_size for file in (source, *companions))
    opened = Opened(source, model, before, _stored(model), nbytes, Run(model.copy()))
    if checks.masks is not None:
        from onnxprune.masks import apply as masks_of  # few commands write masks
        from onnxprune.masks import checkpoints

        names = None if checks.names_from is None else checkpoints.read(Path(checks.names_from))
        opened.recorder = masks_of.Recorder(model, steps, names)
        opened.run.ran = opened.recorder
    return opened


@contextlib.contextmanager
def running(opened: Opened, checks: Checks) -> Iterator[None]:
    """Say which node it is, and how to go on, where the runtime does not load the original.

    Raises:
        NotLoaded: it does not.
    """
    try:
        yield
    except NotLoaded as error:
        if error.model != str(opened.source) or not checks.verify:
            raise
        where = "" if error.node is None else _place(opened.model, *error.node)
        without = "without --data, " if checks.data is not None else ""
        raise NotLoaded(
            error.model, f"{error.reason}{where}; {without}--no-verify goes on without running it", error.node
        ) from error


def _place(model: Model, name: str, operator: str) -> str:
    """Which node it is."""
    if name:
        return f" (node '{name}')"
    scopes = (scope for top in scopes_of(model.proto) for scope in top.inner())
    found = [label(scope, n) for scope in scopes for n in scope.body.node if n.op_type == operator and not n.name]
    if not found:
        return ""
    return f" (node {found[0]})" if len(found) == 1 else f" (one of {len(found)} such nodes, the first is {found[0]})"


def apply(opened: Opened, place: Path, saving: Saving | None = None) -> Applied:
    """Write what the passes made of a model to `place`, alone in its folder; without a change the same bytes."""
    run, saving = opened.run, saving or Saving()
    run.record()
    model, changes = run.model, run.changes
    notes = [note for change in changes for note in change.notes]
    changed = {step.name for step, change in zip(run.steps, changes, strict=True) if change.modified}
    if changed:
        model.write(place)
    masked = opened.recorder is not None  # masks are of what was pruned
    if changed and not masked and changed <= set(saving.passes) and _saves_nothing(opened, place.parent, saving):
        for old in place.parent.iterdir():
            old.unlink()
        model, changed = opened.model, set()
        changes = [Change(change.weights, change.skipped) for change in changes]
        notes = ["no smaller form was found: the model stays as it was"]
    if not changed:
        _copy(opened, place)
    return Applied(model, run.steps, changes, notes)


def report(
    opened: Opened, applied: Applied, place: Path, target: Path, checks: Checks, verification: Verification
) -> Result:
    """Verify what was written to `place`, take its facts, write the masks.

    Args:
        opened: the model as it was.
        applied: what the passes made of it.
        place: where the result lies for now.
        target: where it will lie.
        checks: what to check, and the file for the masks.
        verification: against the original.

    Raises:
        ToleranceMissed: the result is not within the tolerance.
        NoGain: layers compute with integers, and the result is no faster.
        OnnxPruneError: the result cannot be run or read, or the masks cannot be written.
    """
    companions = [file for file in sorted(place.parent.iterdir()) if file != place]
    removed, notes = removals(applied.changes), applied.notes
    deviation, cost = Deviation("none"), None
    if checks.verify:
        deviation, cost = verification.of(place, costs=bool(removed))
    integers = [name for change in applied.changes for name in change.integers]
    gain = None
    if integers and checks.data is not None:
        from onnxprune.layer_costs.gain import gained  # which runs models

        gain = gained(opened.source, place, Path(checks.data), integers)
    before: FileFacts = file_facts(opened.source, opened.model.companions())
    after = dataclasses.replace(file_facts(place, companions), path=str(target))
    # Reads every weight, before the file is in place: what is damaged is not written.
    weights, parameters, sizes = weight_facts(opened.before, applied.model, applied.changes)
    kinds = {name: fact.kind for name, fact in opened.before.items()}
    if opened.recorder is not None and checks.masks is not None:
        from onnxprune.masks import apply as masks_of
        from onnxprune.masks import file as mask_files

        recorder = opened.recorder
        file, said = masks_of.to_file(recorder.taken, opened.source, recorder.matches, removed)
        mask_files.write(Path(checks.masks), file)
        notes = [*notes, *said]
    return Result(
        input=before,
        output=after,
        ratio=before.bytes / after.bytes,
        parameters=parameters,
        weights=weights,
        skipped=[Skipped(name, reason) for change in applied.changes for name, reason in change.skipped.items()],
        removed=removed,
        cost=cost,
        integers=len(_integers(_stored(applied.model))),
        deviation=deviation,
        passes=[str(step) for step in applied.steps],
        notes=list(dict.fromkeys(notes)),
        versions=versions(),
        activations=gain,
        contents=file_contents(applied.model, sizes, kinds, after.bytes),
    )


def finish(
    opened: Opened, target: Path, checks: Checks, verification: Verification, saving: Saving | None = None,
    judge: Callable[[Path], None] | None = None,
) -> Result:  # fmt: skip
    """`apply` and `report`: the target is replaced when all went well.

    Args:
        opened: the model, with the passes that ran.
        target: the file to write.
        checks: what to check, and the file for the masks.
        verification: against the original.
        saving: when the model stays as it was; None: only where no pass changed it.
        judge: is given what was written, and raises where it is not good enough.

    Raises:
        OnnxPruneError: from `apply`, `judge` and `report`; the target is then as it was.
    """
    with replacing(target) as place:
        applied = apply(opened, place, saving)
        if judge is not None:
            judge(place)
        return report(opened, applied, place, target, checks, verification)


def _saves_nothing(opened: Opened, folder: Path, saving: Saving) -> bool:
    """Whether the files in the folder are no smaller than the source, and serve no better."""
    now = _stored(opened.run.model)
    same = now == opened.stored if saving.alike else _integers(now) <= _integers(opened.stored)
    return same and sum(file.stat().st_size for file in folder.iterdir()) >= opened.nbytes


def _copy(opened: Opened, place: Path) -> None:
    """An unchanged model is the same bytes; external data is written anew because its name may be taken."""
    if opened.model.companions():
        opened.model.write(place)
    else:
        shutil.copyfile(opened.source, place)


def _stored(model: Model) -> StoredForms:
    """Name and encoding of each encoded weight, and whether a MatMul reads it as small integers."""
    scopes = (scope for top in scopes_of(model.proto) for scope in top.inner())
    coo = {(scope.path + name, "coo", False) for scope in scopes for name in scope.sparse_initializers}
    return frozenset({(group.name, group.encoding, group.fused) for group in encoded_weights(model)} | coo)


def _integers(stored: StoredForms) -> set[str]:
    return {name for name, _, fused in stored if fused}
