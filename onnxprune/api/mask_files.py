"""Masks out and in as functions: what `onnxprune masks` and `onnxprune update` call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import numpy as np

from onnxprune.api.options.keywords import CheckKeywords, explicit
from onnxprune.api.options.objects import Checks, taken
from onnxprune.api.remote import local
from onnxprune.api.result import Result
from onnxprune.api.transform import transformed
from onnxprune.core.files import PathLike
from onnxprune.errors import MaskError, OutputError, ToleranceMissed
from onnxprune.masks import checkpoints
from onnxprune.masks import file as mask_files
from onnxprune.masks.apply import NO_NAMES, lay, survivors, take, to_file
from onnxprune.masks.file import MaskFile
from onnxprune.masks.matching import match
from onnxprune.masks.matching.link import Pruning
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.run import METADATA
from onnxprune.pruning.scores import magnitudes
from onnxprune_passes import ApplyMasks, Decode, Update


@local(reads=("pruned", "original"), writes="out")
def export_masks(
    pruned: PathLike, out: PathLike, *, names_from: PathLike | None = None, original: PathLike | None = None
) -> tuple[MaskFile, list[str]]:
    """Write the zeros of a pruned model as a mask file; returns it, and what a user should know.

    Args:
        pruned: the model, encoded or not.
        out: the file, npz where its name ends so.
        names_from: the checkpoint that the model was exported from: masks get the names and the orientation that its
            parameters have.
        original: the model before it was pruned. With it any weight counts as pruned that lost entries, and is matched
            by the values that it had; without it those count that hold zeros and are pruned by default.

    Raises:
        MaskError: nothing is pruned, or the original is another model.
        OnnxPruneError: a file cannot be read or written.
    """
    _check_output(Path(out), pruned, names_from, original)
    model = _decoded(pruned)
    before = None if original is None else _decoded(original)
    prunings = _default_prunings(model) if before is None else _prunings_since(before, model, Path(original or ""))
    if not prunings:
        raise MaskError(f"{os.fspath(pruned)} holds no weight that is pruned")
    taken = take(model, prunings)
    matches = NO_NAMES if names_from is None else match.match(before or model, checkpoints.read(Path(names_from)))
    file, notes = to_file(taken, Path(original or pruned), matches)
    if before is None and matches.unmatched.keys() & taken.kept.keys():
        notes.append("values that were rounded or shared are matched by what they were: give --original")
    mask_files.write(Path(out), file)
    return file, notes


def _check_output(out: Path, *inputs: PathLike | None) -> None:
    if out.resolve() in {Path(p).resolve() for p in inputs if p is not None}:
        raise OutputError(f"{out} is an input: choose another output")


def _decoded(path: PathLike) -> Model:
    """A model with dense weights, in memory only."""
    model = Model.load(path)
    Decode().run(model)
    return model


def _rule(model: Model) -> str | None:
    """The passes that the model says it went through."""
    return next((p.value for p in model.proto.metadata_props if p.key == METADATA), None)


def _default_prunings(model: Model) -> dict[str, Pruning]:
    """The weights that are pruned by default and hold zeros; the rule is what the model says of itself."""
    rule = _rule(model)
    found = {}
    for weight in find(model):
        if weight.reason is None and weight.zeros(weight.array(model)):
            found[weight.name] = Pruning(rule)
        model.payloads.forget_pages()
    return found


def _prunings_since(before: Model, model: Model, original: Path) -> dict[str, Pruning]:
    """The weights that hold more zeros than before."""
    rule = _rule(model)
    old, found = {w.name: w for w in find(before)}, {}
    for weight in find(model):
        was = old.get(weight.name)
        if was is None or was.shape != weight.shape:
            raise MaskError(
                f"{original} is not what was pruned, or channels were removed since (`--masks` keeps them): it "
                f"has no '{weight.name}' of {list(weight.shape)}"
            )
        array = weight.array(model)
        if weight.zeros(array) > was.zeros(was.array(before)):
            found[weight.name] = Pruning(rule, None, _threshold(was, was.array(before), array))
        for opened in (before, model):
            opened.payloads.forget_pages()
    return found


def _threshold(weight: Weight, before: np.ndarray, after: np.ndarray) -> float | None:
    """The least magnitude that was kept, if all that went were below or equal."""
    scores, gone = magnitudes(weight, before), after == weight.zero_value
    if gone.all():
        return None
    threshold = float(scores[~gone].min())
    return threshold if scores[gone].max() <= threshold else None


@local(writes="out")
@explicit(Checks)
def apply_masks(
    model: PathLike, masks: PathLike, out: PathLike, *, names_from: PathLike | None = None,
    **checks: Unpack[CheckKeywords],
) -> Result:  # fmt: skip
    """Zero what a mask file prunes; encoded weights are decoded first.

    The weights are found by name, else at the same places in the graph, else (with `names_from`) by value.

    Args:
        model: the model.
        masks: the mask file.
        out: the file to write.
        names_from: a checkpoint of `model`.
        checks: the keywords of `transform`, from `data` on.

    Raises:
        MaskError: the masks do not fit the model.
        OnnxPruneError: see `onnxprune.errors`.
    """
    step = ApplyMasks(masks=os.fspath(masks), names_from=_path(names_from))
    return transformed(model, out, [Decode(), step], taken(Checks, checks))


@local()
def check_masks(model: PathLike, masks: PathLike, *, names_from: PathLike | None = None) -> dict[str, int]:
    """See that every masked entry of a model is zero; returns weight -> masked entries.

    Raises:
        ToleranceMissed: with the weights whose zeros did not survive.
    """
    opened, file = _decoded(model), mask_files.read(Path(masks))
    matches = NO_NAMES if names_from is None else match.match(opened, checkpoints.read(Path(names_from)))
    laid = lay(file, opened, os.fspath(model), matches)
    alive = survivors(opened, laid)
    masked = {name: int(kept.size - np.count_nonzero(kept)) for name, kept in laid.items()}
    if alive:
        text = ", ".join(f"'{name}' {count:,} of {masked[name]:,}" for name, count in alive.items())
        raise ToleranceMissed(f"{os.fspath(model)}: masked entries that are not zero: {text}")
    return masked


def read_masks(path: PathLike) -> MaskFile:
    """Read a mask file; see `masks.file.read`."""
    return mask_files.read(Path(path))


@local(writes="out")
@explicit(Checks)
def update(
    model: PathLike, source: PathLike, out: PathLike, *, masks: PathLike | None = None,
    names_from: PathLike | None = None, **checks: Unpack[CheckKeywords],
) -> Result:  # fmt: skip
    """Put retrained weights into a model: from a checkpoint, or from a re-exported .onnx of the same structure.

    `names_from` says by value which parameter is which weight; without it the mask file says so. The outputs are
    compared with those of `model`: retraining changes them.

    Args:
        model: the model.
        source: the retrained checkpoint, or the re-exported model.
        out: the file to write.
        masks: a mask file: the entries that it prunes are zero afterwards.
        names_from: the checkpoint that `model` was exported from.
        checks: the keywords of `transform`, from `data` on.

    Raises:
        CheckpointError: a parameter is missing or does not fit.
        MaskError: the masks do not fit the model.
        OnnxPruneError: see `onnxprune.errors`.
    """
    step = Update(source=os.fspath(source), masks=_path(masks), names_from=_path(names_from))
    return transformed(model, out, [Decode(), step], taken(Checks, checks))


def _path(path: PathLike | None) -> str:
    return "" if path is None else os.fspath(path)
