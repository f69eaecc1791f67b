"""Load, run passes, verify against the original, write atomically."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from onnxprune.api.options import PathLike, check_request
from onnxprune.api.remote import local
from onnxprune.api.result import Deviation, Result, Skipped, file_facts, versions
from onnxprune.api.verify import verified
from onnxprune.core import threads
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.inventory import inspect_model, weight_facts
from onnxprune.errors import OptionError, OutputError
from onnxprune.masks import apply, checkpoints
from onnxprune.masks import file as mask_files
from onnxprune.model.discovery import find
from onnxprune.model.model import Model, replacing
from onnxprune.pipeline import registry
from onnxprune.pipeline.base import Pass, parse
from onnxprune.pipeline.change import Change, removals
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.pipeline.run import run as run_passes
from onnxprune.pipeline.run import unobserved
from onnxprune.runtime.judge import Question


@local(writes="out")
def transform(
    model: PathLike,
    out: PathLike,
    steps: Sequence[Pass | str],
    *,
    data: PathLike | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    metric: str | None = None,
    evaluate: str | None = None,
    lower_is_better: bool = False,
    verify: bool = True,
    in_place: bool = False,
    masks: PathLike | None = None,
    names_from: PathLike | None = None,
    smaller: Collection[str] = (),
    alike: bool = False,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Load, run the passes, verify against the original, write atomically.

    Args:
        model: an ONNX file.
        out: the file to write; external data goes beside it.
        steps: passes, or their specs.
        data: an .npz file or a folder with arrays named after the inputs, and perhaps `targets`; None synthesises
            inputs.
        samples: how many samples at most (data), or how many (synthesised).
        tolerance: how much worse than the original's the metric may be, in points for percent; a miss writes nothing.
            Of sqnr it is the least that the result must have, in dB.
        metric: a name of `metrics.NAMES`, or MODULE:FUNCTION; see `evaluation.Question`. Without one it is top1 or mse
            against targets, else agreement.
        evaluate: a command that prints a number for `{model}`, in place of a metric.
        lower_is_better: the number of a function or a command is an error.
        verify: whether to run original and result in ONNX Runtime.
        in_place: allow `out` to be `model`.
        masks: a file for the masks of what the magnitude pass pruned, in the shapes of the source.
        names_from: the checkpoint that the model was exported from, whose names and orientation the masks get.
        smaller: passes that are there for bytes: where only these changed the model, the file is no smaller and no more
            weights are read as integers, it stays as it was.
        alike: only if all weights have the encodings that they had, too.
        jobs: threads that work on the weights; None is one per core, up to `core.threads.MAX_THREADS`. The result is
            the same.
        progress: called with (pass, bytes of weights done, bytes in all).

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
    """
    source, target = Path(model), Path(out)
    question = Question(metric, evaluate, lower_is_better)
    check_request(source, target, in_place, tolerance, verify, samples)
    table = registry.table()
    chain = [parse(step, table) if isinstance(step, str) else step for step in steps]
    with threads.using(jobs):
        opened = Model.load(source)
        opened.payloads.scratch = target.parent
        before, stored = {w.name: w for w in inspect_model(opened)}, _stored(opened)
        if target.exists() and any(target.samefile(file) for file in opened.companions()):
            raise OutputError(f"{target} holds the external data of {source}: choose another output")
        input_facts = file_facts(source, opened.companions())
        recorder = _recorder(opened, chain, masks, names_from, (source, target))
        changes = run_passes(opened, chain, progress, recorder or unobserved)
        notes = [note for change in changes for note in change.notes]
        with replacing(target) as place:
            changed = {step.name for step, change in zip(chain, changes, strict=True) if change.modified}
            if changed:
                opened.write(place)
            now = _stored(opened)
            served = now == stored if alike else _integers(now) <= _integers(stored)
            kept = recorder is not None  # masks are of what was pruned
            if changed and not kept and changed <= set(smaller) and served and _size(place.parent) >= input_facts.bytes:
                for old in place.parent.iterdir():
                    old.unlink()
                opened, changed = Model.load(source), set()
                changes = [Change(change.weights, change.skipped) for change in changes]
                notes = ["no smaller form was found: the model stays as it was"]
            if not changed:
                _copy(opened, source, place)
            written = [p for p in sorted(place.parent.iterdir()) if p != place]
            removed = removals(changes)
            deviation, cost = Deviation("none"), None
            if verify:
                deviation, cost = verified(source, place, data, samples, tolerance, question, costs=bool(removed))
            output_facts = dataclasses.replace(file_facts(place, written), path=str(target))
            # Reads every weight, before the file is in place: what is damaged is not written.
            weights, parameters = weight_facts(before, opened, changes)
            if recorder is not None and masks is not None:
                file, said = apply.to_file(recorder.taken, source, recorder.matches, removed)
                mask_files.write(Path(masks), file)
                notes += said
    return Result(
        input=input_facts,
        output=output_facts,
        ratio=input_facts.bytes / output_facts.bytes,
        parameters=parameters,
        weights=weights,
        skipped=[Skipped(name, reason) for change in changes for name, reason in change.skipped.items()],
        removed=removed,
        cost=cost,
        integers=len(_integers(_stored(opened))),
        deviation=deviation,
        passes=[str(step) for step in chain],
        notes=list(dict.fromkeys(notes)),
        versions=versions(),
    )


def _recorder(
    model: Model, chain: Sequence[Pass], masks: PathLike | None, names_from: PathLike | None, models: Sequence[Path]
) -> apply.Recorder | None:
    """What takes the masks while the passes run, if they are asked for."""
    if masks is None:
        if names_from is not None:
            raise OptionError("names_from names what is in a mask file: give masks too")
        return None
    if Path(masks).resolve() in {path.resolve() for path in models}:
        raise OutputError(f"{masks} is a model: choose another file for the masks")
    return apply.Recorder(model, chain, None if names_from is None else checkpoints.read(Path(names_from)))


def _copy(model: Model, source: Path, place: Path) -> None:
    """An unchanged model is the same bytes; external data is written anew because its name may be taken."""
    if model.companions():
        model.write(place)
    else:
        shutil.copyfile(source, place)


def _stored(model: Model) -> frozenset[tuple[str, str, bool]]:
    """Name and encoding of each encoded weight, and whether a MatMul reads it as small integers."""
    coo = {(weight.name, "coo", False) for weight in find(model) if weight.store == "sparse"}
    return frozenset({(group.name, group.encoding, group.fused) for group in encoded_weights(model)} | coo)


def _integers(stored: Collection[tuple[str, str, bool]]) -> set[str]:
    return {name for name, _, fused in stored if fused}


def _size(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(file.stat().st_size for file in folder.iterdir())
