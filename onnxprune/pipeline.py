"""Pass: the contract. A pass is frozen options plus `run`; a pipeline is a list of them."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.errors import OnnxPruneError, OptionError, PassError
from onnxprune.model.model import Model

METADATA = "onnxprune.passes"
Progress = Callable[[str, int, int], None]  # (pass, bytes of weights done, bytes in all)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Removed:
    """An axis of a weight that became shorter: `indices` of it, ascending, are gone."""

    name: str
    axis: int
    before: int
    after: int
    indices: list[int]


@dataclass(frozen=True)
class Encoded:
    """What is known of an encoded weight without decoding it."""

    shape: tuple[int, ...]
    zeros: int


@dataclass
class Change:
    """What a pass did.

    Attributes:
        weights: name -> facts about a weight that it looked at (requested, zeros, encoding ...).
        skipped: name -> why it left a weight alone.
        notes: what a user should know, one sentence each.
        removed: what was cut out of weights.
        encoded: name -> what is known of a weight that it encoded.
        modified: whether the model differs from before.
    """

    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    modified: bool = False


def removals(changes: Sequence[Change]) -> list[Removed]:
    """What was cut out of each axis of each weight by all passes, counted in the original axis."""
    left: dict[tuple[str, int], tuple[int, Array]] = {}
    for cut in (cut for change in changes for cut in change.removed):
        size, kept = left.get((cut.name, cut.axis), (cut.before, np.arange(cut.before)))
        left[cut.name, cut.axis] = size, np.delete(kept, cut.indices)
    return [
        Removed(name, axis, size, len(kept), np.setdiff1d(np.arange(size), kept).tolist())
        for (name, axis), (size, kept) in left.items()
    ]


def silent(name: str, done: int, total: int) -> None:
    """Progress for nobody."""


def tracked(
    progress: Progress, name: str, items: Sequence[Item], nbytes: Callable[[Item], int]
) -> Iterator[tuple[int, Item]]:
    """The items with their numbers; progress hears of the bytes of each when the next one is asked for."""
    sizes = [nbytes(item) for item in items]
    done, total = 0, sum(sizes)
    for number, item in enumerate(items):
        progress(name, done, total)
        yield number, item
        done += sizes[number]
    progress(name, done, total)


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A transformation of a model. Fields of a subclass are its options; `str()` recreates it.

    Option types are numbers, strings, booleans and tuples of strings, so that a pass can be
    written on a command line: `magnitude{sparsity=0.9, skip=["head*"]}`.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, model: Model, progress: Progress = silent) -> Change:
        """Edit the model in place and say honestly what changed."""

    def __str__(self) -> str:
        """The spec: the name, and the options that differ from their defaults as a TOML inline table."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        table = ", ".join(f"{key}={json.dumps(value)}" for key, value in given.items())
        return f"{self.name}{{{table}}}" if table else self.name


def parse(spec: str, table: dict[str, type[Pass]]) -> Pass:
    """A pass from its spec: `name` or `name{option=value, ...}`.

    Raises:
        PassError: no pass of that name.
        OptionError: the options are not a TOML inline table or not the pass's own.
    """
    name, brace, rest = spec.strip().partition("{")
    kind = named(name, table)
    try:
        options = tomllib.loads("x = {" + rest)["x"] if brace else {}
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"pass '{spec}': the options must look like {{sparsity=0.9, scope=\"global\"}}") from error
    return create(kind, options)


def named(name: str, table: dict[str, type[Pass]]) -> type[Pass]:
    """The class of a pass.

    Raises:
        PassError: no pass of that name.
    """
    if name not in table:
        raise PassError(f"unknown pass '{name}'; there are {', '.join(sorted(table))}")
    return table[name]


def create(kind: type[Pass], options: dict[str, Any]) -> Pass:
    """A pass with the options, checked against its fields."""
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError(f"pass '{kind.name}' has no option '{unknown[0]}'; it has {', '.join(known) or 'none'}")
    tidy = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    hints = get_type_hints(kind)
    for key, value in tidy.items():
        if not _fits(value, hints[key]):
            raise OptionError(f"pass '{kind.name}': option '{key}' cannot be {value!r}")
    try:
        return kind(**tidy)
    except (TypeError, ValueError) as error:
        raise OptionError(f"pass '{kind.name}': {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an option's type."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


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
