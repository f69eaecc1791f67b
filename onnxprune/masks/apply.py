"""Masks between a model and a mask file: taken from zeros, laid over weights, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.core.files import digest
from onnxprune.errors import MaskError, OptionError
from onnxprune.masks.alignment import align, weights_of
from onnxprune.masks.file import MaskFile
from onnxprune.masks.header import WeightShape
from onnxprune.masks.matching.link import Link, Parameter, Pruning
from onnxprune.masks.matching.match import Matches, match
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change, Removed, WeightRecord, removals

NO_NAMES = Matches({}, {})
PRUNES, RESTORES = "magnitude", "decode"  # the passes that a recorder waits for


@dataclass
class Taken:
    """The masks of a model as its ONNX weights have them.

    Attributes:
        weights: every weight, in the order of reading.
        kept: pruned weight -> True where an entry is kept.
        prunings: pruned weight -> what pruned it.
    """

    weights: tuple[WeightShape, ...]
    kept: dict[str, Array] = field(default_factory=dict)
    prunings: dict[str, Pruning] = field(default_factory=dict)


def take(model: Model, prunings: Mapping[str, Pruning]) -> Taken:
    """The zeros (zero points where quantised) of the weights that were pruned."""
    taken = Taken(weights_of(model))
    for weight in find(model):
        if weight.name in prunings:
            taken.kept[weight.name] = weight.array(model) != weight.zero_value
            taken.prunings[weight.name] = prunings[weight.name]
            model.payloads.forget_pages()
    return taken


class Recorder:
    """Takes the masks of a run in the shapes that the source has: called after each of its passes.

    `names` is the checkpoint that the source was exported from, or what was matched already.

    Raises:
        OptionError: none of the passes prunes by a rule.
    """

    def __init__(self, model: Model, passes: Sequence[Pass], names: Mapping[str, Array] | Matches | None) -> None:
        if not any(step.name == PRUNES for step in passes):
            raise OptionError("masks are of what a rule prunes: give sparsity, quality, threshold, set or pattern")
        self.checkpoint = None if isinstance(names, Matches) else names
        self.matches = names if isinstance(names, Matches) else NO_NAMES
        self.taken = Taken(weights_of(model))
        self.changes: list[Change] = []

    def copy(self) -> Recorder:
        """The same masks, to be taken on from here by itself."""
        twin = copy(self)
        twin.taken = replace(self.taken, kept=dict(self.taken.kept), prunings=dict(self.taken.prunings))
        twin.changes = list(self.changes)
        return twin

    def __call__(self, model: Model, step: Pass, change: Change) -> None:
        """A pass ran."""
        self.changes.append(change)
        if self.checkpoint is not None and self.matches is NO_NAMES and step.name in (RESTORES, PRUNES):
            self.matches = match(model, self.checkpoint)  # if it can be, before the values go
        if step.name == RESTORES:
            self.taken = Taken(weights_of(model))
        elif step.name == PRUNES:
            records = change.weights.items()
            prunings = {name: Pruning(str(step), r.requested, r.threshold) for name, r in records}
            self._take(take(model, prunings))

    def _take(self, now: Taken) -> None:
        """The masks of now, in the shapes of the source: what was removed since is pruned too."""
        shapes = {w.name: w for w in _without(self.taken.weights, removals(self.changes))}
        for name in (n for n, shape in shapes.items() if n in now.kept or shape.removed):
            left = [
                np.setdiff1d(np.arange(n), shapes[name].removed.get(a, ())) for a, n in enumerate(shapes[name].shape)
            ]
            mask = self.taken.kept[name] = np.zeros(shapes[name].shape, bool)
            mask[np.ix_(*left)] = now.kept.get(name, True)
            self.taken.prunings[name] = now.prunings.get(name, Pruning())


def _without(weights: Iterable[WeightShape], removed: Iterable[Removed]) -> tuple[WeightShape, ...]:
    """The weights with what was removed from each of their axes."""
    gone: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in removed:
        gone.setdefault(cut.name, {})[cut.axis] = tuple(cut.indices)
    return tuple(replace(w, removed=gone.get(w.name, {})) for w in weights)


def to_file(
    taken: Taken, source: Path, matches: Matches = NO_NAMES, removed: Iterable[Removed] = ()
) -> tuple[MaskFile, list[str]]:
    """The mask file of what was taken, keyed and oriented by the matches.

    A parameter that several weights hold keeps what any of them keeps.

    Args:
        taken: masks of the weights.
        source: the model that they are of.
        matches: which parameter each weight is; without them masks are keyed by weight.
        removed: what left the weights since, counted in their own axes.

    Returns:
        The mask file, and notes for the user.

    Raises:
        MaskError: a weight without a match has the name of a parameter that another weight holds.
    """
    parameters, masks, notes = dict(matches.parameters), {}, []
    for name, parameter in matches.parameters.items():
        pruned = [link.weight for link in parameter.links if link.weight in taken.kept]
        mask = _joined(parameter, taken.kept)
        if pruned and mask.all() and not all(taken.kept[weight].all() for weight in pruned):
            notes.append(f"'{name}' gets no mask: '{pruned[0]}' is pruned, and other weights that hold it are not")
        elif pruned:
            masks[name] = mask
            parameters[name] = replace(parameter, pruning=_agreed([taken.prunings[w] for w in pruned]))
    linked = {link.weight for parameter in matches.parameters.values() for link in parameter.links}
    known = {n for name, parameter in matches.parameters.items() for n in (name, *parameter.aliases)}
    for weight, kept in taken.kept.items():
        if weight in linked:
            continue
        if weight in known:
            raise MaskError(f"the weight '{weight}' was not matched, and a parameter of that name is another weight")
        if matches is not NO_NAMES:
            reason = matches.unmatched.get(weight) or "is not in the original"
            notes.append(f"the mask of '{weight}' keeps its ONNX name: {reason}")
        masks[weight], parameters[weight] = kept, Parameter(kept.shape, (Link(weight),), (), taken.prunings[weight])
    return MaskFile(digest(source), _without(taken.weights, removed), parameters, masks), notes


def _joined(parameter: Parameter, kept: Mapping[str, Array]) -> Array:
    """What any of its weights keeps; what none of them holds is kept too."""
    mask, held = np.zeros(parameter.shape, bool), np.zeros(parameter.shape, bool)
    for link in parameter.links:
        part, there = (link.of.of(array) if link.of else array for array in (mask, held))
        part |= link.to_parameter(kept[link.weight], parameter.shape) if link.weight in kept else True
        there |= True
    return mask | ~held


def _agreed(prunings: Sequence[Pruning]) -> Pruning:
    """What is the same in all of them."""
    first = vars(prunings[0])
    return Pruning(**{key: v if all(vars(p)[key] == v for p in prunings) else None for key, v in first.items()})


def lay(masks: MaskFile, model: Model, where: str, matches: Matches = NO_NAMES) -> dict[str, Array]:
    """Weight of the model -> True where the masks keep an entry, in the weight's shape.

    The weights are those that the matches name, else those of the names in the mask file, else those at the same
    places.

    Args:
        masks: the mask file.
        model: the model.
        where: the model, for errors.
        matches: which parameter each weight of the model is.

    Raises:
        MaskError: the masks do not fit the model; with the weight's name.
    """
    there = weights_of(model)
    named = {n: p for name, p in matches.parameters.items() for n in (name, *p.aliases)}
    if matches is NO_NAMES:
        links = [(name, link) for name in masks.masks for link in masks.parameters[name].links]
        was = {w.name: w for w in masks.weights}
        into = align(masks.weights, there, {link.weight: None for _, link in links}, where)
    else:
        links = [(name, link) for name in masks.masks for link in _found(named, name, masks, where).links]
        was = {w.name: w for w in there}
        into = {name: was[name] for name in (link.weight for _, link in links)}
    whole = {weight: np.ones(was[weight].shape, bool) for weight in into}
    for name, link in links:
        array = whole[link.weight]
        part = link.into.of(array) if link.into else array
        part &= link.to_weight(masks.masks[name], array.shape)
    return {
        into[weight].name: array if into[weight].shape == array.shape else was[weight].cut(array)
        for weight, array in whole.items()
    }


def _found(named: Mapping[str, Parameter], name: str, masks: MaskFile, where: str) -> Parameter:
    entry = next((named[n] for n in (name, *masks.parameters[name].aliases) if n in named), None)
    if entry is None:
        raise MaskError(f"{where}: no weight holds the parameter '{name}' of the checkpoint")
    if entry.shape != masks.masks[name].shape:
        raise MaskError(
            f"{where}: the parameter '{name}' is {list(entry.shape)}, its mask {list(masks.masks[name].shape)}"
        )
    return entry


def survivors(model: Model, laid: Mapping[str, Array]) -> dict[str, int]:
    """Weight -> how many entries are not zero that its mask prunes; only weights that have any."""
    found = {}
    for weight in find(model):
        if weight.name in laid:
            alive = int(np.count_nonzero((weight.array(model) != weight.zero_value) & ~laid[weight.name]))
            model.payloads.forget_pages()
            if alive:
                found[weight.name] = alive
    return found


def settle(model: Model, weight: Weight, values: Array, kept: Array | None, change: Change) -> None:
    """Give a weight new values, and record it.

    Args:
        model: the model.
        weight: of the model.
        values: in its shape.
        kept: its mask, True where an entry is kept; None keeps all.
        change: takes the record, and whether the values differ.
    """
    if kept is not None:
        values = np.where(kept, values, weight.zero_value)
    if not np.array_equal(values, weight.array(model)):
        weight.set_array(model, values)
        change.modified = True
    requested = None if kept is None else 1 - np.count_nonzero(kept) / kept.size
    change.weights[weight.name] = WeightRecord(valued=True, requested=requested)
    model.payloads.forget_pages()
