"""The options of the public functions as objects: made and checked once, before anything is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from onnxprune.core.files import PathLike
from onnxprune.encodings.values.dynamic import Int8Dynamic
from onnxprune.errors import OptionError
from onnxprune.pipeline.base import check_types
from onnxprune.pipeline.progress import Progress, silent
from onnxprune.runtime.judge import Metric, Question
from onnxprune_passes import Activations, Encode, Magnitude

Options = TypeVar("Options")


def taken(kind: type[Options], keywords: Mapping[str, Any], **more: Any) -> Options:
    """The options that a class has among the keywords; `more` comes before those."""
    given = {**keywords, **more}
    own = {field.name: given[field.name] for field in fields(kind) if field.name in given}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, Iterable) and not isinstance(v, str) else v for k, v in own.items()})


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The samples that the inputs of the layers are measured on.

    Attributes:
        data: see `Checks`.
        samples: at most so many; None: the pass's own number.
        half: see the encode pass.
    """

    data: PathLike | None = None
    samples: int | None = None
    half: bool = False

    @property
    def path(self) -> str:
        """The data as an option of a pass."""
        return "" if self.data is None else str(self.data)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is pruned; the fields are options of the magnitude pass."""

    sparsity: float | None = None
    quality: float | None = None
    threshold: float | None = None
    scope: str = "layer"
    pattern: str = ""
    set: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    saliency: str = ""

    def __post_init__(self) -> None:
        """Check the types; the pass checks the rest."""
        check_types(self)

    @property
    def given(self) -> bool:
        """Whether a rule says how much is pruned; a loss does otherwise."""
        shares = (self.sparsity, self.quality, self.threshold)
        return any(share is not None for share in shares) or ":" in self.pattern or bool(self.set)

    def magnitude(self, loss: float | None, calibration: Calibration) -> Magnitude:
        """The pass that prunes by the rule.

        Args:
            loss: see the pass.
            calibration: samples to record the layers' inputs on.
        """
        samples = Magnitude.samples if calibration.samples is None else calibration.samples
        return Magnitude(
            sparsity=self.sparsity, quality=self.quality, threshold=self.threshold, loss=loss, scope=self.scope,
            pattern=self.pattern, set=self.set, include=self.include, skip=self.skip, saliency=self.saliency,
            data=calibration.path, samples=samples, half=calibration.half,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Storing:
    """How weights are stored.

    Attributes:
        values: the form of the values of every weight.
        by_weight: "PATTERN=FORM" for some weights; the last match counts.
        loss: see the encode pass; None leaves it to the function.
        prefer: see the encode pass, as `encoding`.
        encoding: the encoding of the positions.
        target: the runtimes that the file is for, see the encode pass.
    """

    values: str = "auto"
    by_weight: tuple[str, ...] = ()
    loss: float | None = None
    prefer: str = "speed"
    encoding: str = "auto"
    target: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the types; the pass checks the rest."""
        check_types(self)

    @classmethod
    def of(cls, keywords: Mapping[str, Any], default: str) -> Storing:
        """From the keywords of a function whose `values` may name a form, and others by weight.

        Raises:
            OptionError: they name two forms for every weight.
        """
        values = keywords.get("values", default)
        entries = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
        if not all(isinstance(entry, str) for entry in entries):
            raise OptionError(f"values cannot be {values!r}")
        plain = [entry for entry in entries if "=" not in entry]
        if len(plain) > 1:
            raise OptionError(f"values {plain[0]} and {plain[1]} contradict each other: give one, and PATTERN=FORM")
        by_weight = tuple(entry for entry in entries if "=" in entry)
        target = keywords.get("target", ())
        named = (target,) if isinstance(target, str) else target
        return taken(cls, {**keywords, "target": named}, values=(plain or [default])[0], by_weight=by_weight)

    @property
    def needs_data(self) -> bool:
        """Whether a form is for layers that have to show on data that they bear it."""
        return any(form.rpartition("=")[2] == Int8Dynamic.name for form in (self.values, *self.by_weight))

    def encode(
        self, loss: float, *, keep_zeros: bool, skip: tuple[str, ...] = (), importance: tuple[str, ...] = (),
        calibration: Calibration = Calibration(),
    ) -> Encode:  # fmt: skip
        """The pass that stores the weights.

        Args:
            loss: what `auto` may lose, summed over all weights.
            keep_zeros: whether no further entry becomes zero.
            skip: patterns of weights that keep exact values.
            importance: "PATTERN=NUMBER", what the loss of some weights counts.
            calibration: samples to measure the layers' inputs on.
        """
        return Encode(
            encoding=self.encoding, values=self.values, set=self.by_weight, skip=skip, loss=loss,
            keep_zeros=keep_zeros, data=calibration.path, importance=importance,
            samples=Encode.samples if calibration.samples is None else calibration.samples, half=calibration.half,
            prefer=self.prefer, target=self.target,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Computing:
    """What layers compute with.

    Attributes:
        activations: float, or int8: convolutions that gain from it compute with 8-bit activations and weights.

    Raises:
        OptionError: there are no such activations.
    """

    activations: str = "float"

    def __post_init__(self) -> None:
        """Check the option."""
        check_types(self)
        if self.activations not in ("float", "int8"):
            raise OptionError(f"activations '{self.activations}' is not float or int8")

    @property
    def integers(self) -> bool:
        """Whether layers may compute with integers."""
        return self.activations == "int8"

    def check(self, data: PathLike | None, target: Iterable[str]) -> None:
        """Refuse int8 without samples, and for runtimes in which it was not timed.

        Args:
            data: see `Checks`.
            target: see `Storing`.

        Raises:
            OptionError: it is refused.
        """
        others = [spec for spec in target if spec.partition(">=")[0].strip() != "onnxruntime"]
        if self.integers and others:
            raise OptionError(f"activations int8 is for onnxruntime alone, and the target is {', '.join(others)}")
        if self.integers and data is None:
            raise OptionError("activations int8 measures what layers read and how fast they are: give --data")

    def steps(self, calibration: Calibration) -> list[Activations]:
        """What runs before weights are encoded.

        Args:
            calibration: samples that the ranges of the activations are measured on.
        """
        if not self.integers:
            return []
        samples = Activations.samples if calibration.samples is None else calibration.samples
        return [Activations(data=calibration.path, samples=samples, half=calibration.half)]


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """What decides on the loss, where no option does.

    Attributes:
        scan: a sensitivity scan.
        max_drop: how much worse the metric may be.
        time_limit: seconds after which the search for the loss ends.

    Raises:
        OptionError: a time limit without a search.
    """

    scan: PathLike | None = None
    max_drop: float | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if self.time_limit is not None and self.max_drop is None:
            raise OptionError("time-limit goes with max-drop")


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How a result is judged and written.

    Attributes:
        data: an .npz file or a folder with arrays named after the inputs, and perhaps `targets`; None synthesises
            inputs.
        samples: how many samples at most (data), or how many (synthesised).
        tolerance: how much worse than the original's the metric may be; of sqnr the least that the result must have.
        metric: see `judge.Question`, as `evaluate` and `lower_is_better`.
        evaluate: a command in place of a metric.
        lower_is_better: the number of a function or a command is an error.
        verify: whether to run original and result in ONNX Runtime.
        in_place: whether the output may be the input.
        masks: a file for the masks of what the magnitude pass pruned.
        names_from: the checkpoint that the model was exported from, whose names the masks get.
        jobs: threads that work on the weights.
        progress: called with (pass, bytes of weights done, bytes in all).

    Raises:
        OptionError: they contradict each other, or a number makes no sense.
    """

    data: PathLike | None = None
    samples: int | None = None
    tolerance: float | None = None
    metric: Metric | None = None
    evaluate: str | None = None
    lower_is_better: bool = False
    verify: bool = True
    in_place: bool = False
    masks: PathLike | None = None
    names_from: PathLike | None = None
    jobs: int | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if self.tolerance is not None and not self.verify:
            raise OptionError("a tolerance cannot be checked without verification")
        if self.tolerance is not None and math.isnan(self.tolerance):
            raise OptionError("the tolerance must be a number, not NaN")
        check_samples(self.samples)
        if self.masks is None and self.names_from is not None:
            raise OptionError("names_from names what is in a mask file: give masks too")
        _ = self.question

    @property
    def question(self) -> Question:
        """What models are judged by."""
        return Question(self.metric, self.evaluate, self.lower_is_better)


def check_samples(samples: int | None) -> None:
    """Refuse a number of samples below 1."""
    if samples is not None and samples < 1:
        raise OptionError(f"samples must be at least 1, not {samples}")
