"""The words of the command line as functions: what the CLI calls and prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from onnxprune.allocation import curves as curve_files
from onnxprune.allocation.rate_distortion import LOSS, LOSS_ON_DATA
from onnxprune.api.options import PathLike, check_request
from onnxprune.api.remote import local
from onnxprune.api.result import Result
from onnxprune.api.transform import transform
from onnxprune.errors import ModelError, NotVerified, OptionError, ToleranceMissed
from onnxprune.model.model import Model
from onnxprune.pipeline import registry
from onnxprune.pipeline.base import Pass, named
from onnxprune.pipeline.progress import silent
from onnxprune.pipeline.registry import make_pass
from onnxprune.runtime.judge import Question
from onnxprune.search import trials
from onnxprune.search.budget import CALIBRATION, Search
from onnxprune.search.importance import importance_of

_HALVINGS = 8
_STORING = frozenset({"decode", "dead_neurons", "encode"})  # passes that are there for the file's size


@local(writes="out")
def compress(
    model: PathLike,
    out: PathLike | None = None,
    *,
    sparsity: float | None = None,
    quality: float | None = None,
    threshold: float | None = None,
    scope: str = "layer",
    pattern: str = "",
    set: Sequence[str] = (),
    include: Sequence[str] = (),
    skip: Sequence[str] = (),
    values: str | Sequence[str] = "auto",
    loss: float | None = None,
    prefer: str = "speed",
    encoding: str = "auto",
    strip: bool = True,
    channels: float | None = None,
    multiple: int = 1,
    scan: PathLike | None = None,
    max_drop: float | None = None,
    time_limit: float | None = None,
    tolerance: float | None = None,
    **checks: Any,
) -> Result:
    """Prune by magnitude, remove dead neurons, store each weight in its smallest form, verify.

    Weights that are encoded already are decoded first. Without `out` the file is `MODEL.pruned.onnx`. The rules
    (`sparsity` to `skip`) are those of the magnitude pass; with none of them the loss decides. `values` is auto, a
    value form, and "PATTERN=FORM" for single weights; `values`, `loss`, `prefer` and `encoding` are those of the
    encode pass. `channels` removes a share of whole channels first (`multiple` is the pass's); `strip=False` leaves
    all shapes alone. With a `scan` (see `sensitivity.scan`) `sparsity` is of all layers that it has, shared out such
    that each costs the metric about the same, and `set` changes single ones; without a rule the loss of a layer counts
    for what it costs the metric there. Where the loss decides, a `tolerance` halves it until the result keeps within.
    With `max_drop` the largest loss is searched for at which the metric is no more than that worse than the original's,
    on both halves of the data (`search`). After `time_limit` seconds the best that was found is written. The rest
    of the keywords are those of `transform`.

    Raises:
        ToleranceMissed: the result is not within the tolerance, or no loss is within the drop.
        OnnxPruneError: see `onnxprune.errors`.
        TypeError: a keyword is not one of `transform`.
    """
    # Whoever misspells one learns it now, not after a search.
    signature(transform).bind(model, out, (), tolerance=tolerance, smaller=(), alike=False, **checks)
    if channels is not None and not strip:
        raise OptionError("channels changes shapes, no-strip leaves them alone: give one")
    if time_limit is not None and max_drop is None:
        raise OptionError("time-limit goes with max-drop")
    name = "" if scan is None and max_drop is None else Model.load(model).sha256()
    importance: tuple[str, ...] = ()
    ruled = bool(sparsity is not None or quality is not None or threshold is not None or ":" in pattern or set)
    if scan is not None:
        if scope != "layer":
            raise OptionError(f"scope {scope} shares the sparsity out, and so does the scan: give one")
        curves = curve_files.of_model(Path(scan), name)
        if ruled:
            set, sparsity = [*curves.targets(sparsity), *set], None
        else:
            importance = _importance(Model.load(model), curves)
    form, by_name = _values(values, "auto")
    storing = _STORING if ruled or pattern else _STORING | {"magnitude"}
    target = Path(_beside(Path(model)) if out is None else out)
    data = checks.get("data")

    def steps_of(budget: float) -> list[Pass]:
        magnitude = make_pass(  # made even where the loss does it all: it checks the options
            "magnitude", sparsity=sparsity, quality=quality, threshold=threshold, scope=scope, pattern=pattern,
            set=tuple(set), include=tuple(include), skip=tuple(skip), loss=None if ruled else budget,
        )  # fmt: skip
        encode_pass = make_pass(
            "encode", values=form, set=by_name, skip=tuple(skip), loss=budget, keep_zeros=ruled, prefer=prefer,
            encoding=encoding, importance=importance, data=str(data or ""),
            half=max_drop is not None and data is not None, samples=None if max_drop is None else CALIBRATION,
        )  # fmt: skip
        steps = [make_pass("decode")]
        if channels is not None:
            steps.append(make_pass("channels", sparsity=channels, multiple=multiple))
        if ruled or form != "auto" or pattern:
            steps.append(magnitude)
        if strip:
            steps.append(make_pass("dead_neurons", encoded=True, multiple=multiple))
        return [*steps, encode_pass]

    def attempt(budget: float) -> Result:
        return transform(
            model, target, steps_of(budget), tolerance=tolerance, smaller=storing, alike=encoding != "auto", **checks
        )

    if max_drop is not None:
        if loss is not None or tolerance is not None or (ruled and form != "auto"):
            raise OptionError("max-drop searches for the loss: leave out loss and tolerance, and values beside a rule")
        return _searched(Path(model), name, target, steps_of, max_drop, time_limit, checks)
    if loss is None:
        loss = LOSS if data is None or ruled else LOSS_ON_DATA
    if tolerance is not None and not (ruled and form != "auto"):
        for _ in range(_HALVINGS):
            try:
                return attempt(loss)
            except NotVerified:
                raise
            except ToleranceMissed:
                loss /= 2
    return attempt(loss)


def _searched(
    model: Path, name: str, target: Path, steps_of: Callable[[float], list[Pass]], max_drop: float,
    time_limit: float | None, checks: dict[str, Any],
) -> Result:  # fmt: skip
    """The result of the largest loss at which the metric is within the drop; see `search`.

    Args:
        model: the original.
        name: its SHA-256.
        target: the file to write.
        steps_of: the passes for a loss.
        max_drop: see `compress`.
        time_limit: see `compress`.
        checks: the keywords of `transform`.
    """
    check_request(model, target, checks.get("in_place", False), None, checks.get("verify", True), None)
    data = checks.get("data")
    search = Search(
        model, lambda loss, place: transform(model, place, steps_of(loss), verify=False, jobs=checks.get("jobs")),
        Question(checks.get("metric"), checks.get("evaluate"), checks.get("lower_is_better", False)),
        None if data is None else Path(data), checks.get("samples"), max_drop, time_limit,
        checks.get("progress", silent),
    )  # fmt: skip
    common = search.common(name, " ".join(map(str, steps_of(1.0))))
    with trials.opened(target.with_name(f"{target.name}.trials"), common) as known:
        found = search.run(known)
        result = transform(model, target, steps_of(found.loss), **checks)
        known.done()
    return dataclasses.replace(result, search=found)


def _importance(model: Model, curves: curve_files.Curves) -> tuple[str, ...]:
    make_pass("decode").run(model)
    return importance_of(model, curves)


def _values(values: str | Sequence[str], default: str) -> tuple[str, tuple[str, ...]]:
    """The form for all weights, and the forms for some of them."""
    entries = [values] if isinstance(values, str) else list(values)
    plain = [entry for entry in entries if "=" not in entry]
    if len(plain) > 1:
        raise OptionError(f"values {plain[0]} and {plain[1]} contradict each other: give one, and PATTERN=FORM")
    return (plain or [default])[0], tuple(entry for entry in entries if "=" in entry)


def _beside(source: Path) -> Path:
    if not source.name:
        raise ModelError(f"'{source}' is not a file")
    return source.with_name(f"{source.stem}.pruned.onnx")


def prune(model: PathLike, out: PathLike, **options: Any) -> Result:
    """Zero the smallest weights; the file stays dense.

    Options are those of the magnitude pass and of `transform`.
    """
    rules = {f.name for f in dataclasses.fields(named("magnitude", registry.table()))}
    magnitude = make_pass("magnitude", **{name: options.pop(name) for name in rules & options.keys()})
    return transform(model, out, [make_pass("decode"), magnitude], **options)


def encode(
    model: PathLike, out: PathLike, *, values: str | Sequence[str] = "exact", loss: float | None = None,
    prefer: str = "speed", encoding: str = "auto", **checks: Any,
) -> Result:  # fmt: skip
    """Store each weight in its smallest form: as it is, or with other values than exact within their loss."""
    form, by_name = _values(values, "exact")
    step = make_pass("encode", values=form, set=by_name, loss=loss, keep_zeros=True, prefer=prefer, encoding=encoding)
    return transform(model, out, [step], **checks)


def decode(model: PathLike, out: PathLike, **checks: Any) -> Result:
    """Every encoded weight back as a dense initializer, bit for bit."""
    return transform(model, out, [make_pass("decode")], **checks)


def strip(
    model: PathLike, out: PathLike, *, channels: float | None = None, score: str = "l1", scope: str = "layer",
    multiple: int = 1, **checks: Any,
) -> Result:  # fmt: skip
    """Remove dead neurons; with `channels` that share of whole channels first. The rest are options of the pass."""
    steps = [make_pass("decode")]
    if channels is not None:
        steps.append(make_pass("channels", sparsity=channels, score=score, scope=scope, multiple=multiple))
    return transform(model, out, [*steps, make_pass("dead_neurons", multiple=multiple)], **checks)
