"""The keywords of the public functions, named and typed once: `Unpack` shows them to mypy, `explicit` to `help()`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from inspect import Parameter, signature
from typing import ParamSpec, TypedDict, TypeVar, get_args, get_type_hints

from onnxprune.core.files import PathLike
from onnxprune.pipeline.progress import Progress
from onnxprune.runtime.held_data import Data
from onnxprune.runtime.judge import Metric

P = ParamSpec("P")
R = TypeVar("R")


class JudgeKeywords(TypedDict, total=False):
    """On what a result is judged; see `objects.Checks`."""

    data: Data | None
    samples: int | None
    tolerance: float | None
    metric: Metric | None
    evaluate: str | None
    lower_is_better: bool
    verify: bool
    in_place: bool


class CheckKeywords(JudgeKeywords, total=False):
    """What every function takes that writes a model; see `objects.Checks`."""

    jobs: int | None
    progress: Progress


class MaskKeywords(TypedDict, total=False):
    """Where the masks of what a rule prunes go; see `objects.Checks`."""

    masks: PathLike | None
    names_from: PathLike | None


class RuleKeywords(TypedDict, total=False):
    """What is pruned; see `objects.Rule`."""

    sparsity: float | None
    quality: float | None
    threshold: float | None
    scope: str
    pattern: str
    set: Sequence[str]
    include: Sequence[str]
    skip: Sequence[str]
    saliency: str


class StoringKeywords(TypedDict, total=False):
    """How weights are stored; see `objects.Storing`."""

    values: str | Sequence[str]
    loss: float | None
    prefer: str
    encoding: str
    target: str | Sequence[str]


class ComputingKeywords(TypedDict, total=False):
    """What layers compute with; see `objects.Computing`."""

    activations: str


class ShapeKeywords(TypedDict, total=False):
    """Which shapes change; see `stripping.Stripping`."""

    strip: bool
    channels: float | str | Sequence[float | str] | None
    speed_up: float | None
    multiple: int | None
    strip_metadata: bool
    freeze: bool


class SearchKeywords(TypedDict, total=False):
    """What decides on the loss; see `objects.Deciding`."""

    scan: PathLike | None
    max_drop: float | None
    time_limit: float | None


class TransformKeywords(CheckKeywords, MaskKeywords, total=False):
    """The keywords of `transform`."""


class PruneKeywords(RuleKeywords, TransformKeywords, total=False):
    """The keywords of `prune`."""


class EachKeywords(
    RuleKeywords, StoringKeywords, ComputingKeywords, ShapeKeywords, SearchKeywords, JudgeKeywords, MaskKeywords,
    total=False,
):  # fmt: skip
    """The keywords of `compress` that say what becomes of a model."""


class CompressKeywords(EachKeywords, CheckKeywords, total=False):
    """The keywords of `compress`."""


def explicit(*options: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function of `**keywords: Unpack[...]` name them one by one in its signature, and refuse all others at once.

    Args:
        options: the classes that have the defaults, by field.
    """
    names = ((kind, each.name) for kind in options for each in fields(kind))
    defaults = {name: getattr(kind, name) for kind, name in names if hasattr(kind, name)}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = signature(function)
        *named, rest = own.parameters.values()
        (keywords,) = get_args(get_type_hints(function)[rest.name])
        spelt = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)
            for name, hint in get_type_hints(keywords).items()
        ]
        shown = own.replace(parameters=[*named, *spelt])

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                shown.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}: {error}") from None
            return function(*args, **kwargs)

        call.__signature__ = shown  # type: ignore[attr-defined]
        return call

    return decorate
