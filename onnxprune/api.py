"""The words of the command line as functions: what the CLI calls and prints."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxprune import checkpoints, maskfile, masking, packed, packing, pipeline, registry, threads, trials
from onnxprune import curves as curve_files
from onnxprune import data as data_files
from onnxprune.accounting import account
from onnxprune.compatibility import Compatibility, compatibility
from onnxprune.cost import layers
from onnxprune.data import Samples
from onnxprune.deviation import compare
from onnxprune.discovery import find
from onnxprune.encodings.graft import layouts_of, loose_weights, planted_in, uproot
from onnxprune.errors import ModelError, NotVerified, OptionError, OutputError, RuntimeFailure, ToleranceMissed
from onnxprune.evaluation import Judge, Question
from onnxprune.importance import importance_of
from onnxprune.layer_costs import Costs
from onnxprune.model import Model, replacing
from onnxprune.pipeline import Change, Pass, Progress, silent
from onnxprune.rate import LOSS, LOSS_ON_DATA
from onnxprune.recall import keeping
from onnxprune.remote import local
from onnxprune.result import Cost, Deviation, Result, file_facts, inspect_model, versions, weight_facts
from onnxprune.runtime import inputs_of, latency, open_session, run
from onnxprune.scopes import custom_domains
from onnxprune.search import CALIBRATION, Search
from onnxprune.synthesis import SAMPLES, CannotSynthesise, synthesise

_HALVINGS = 8
_OF_RESULTS = ("requested", "bytes_after", "shape_after")  # facts that only two models have
_STORING = frozenset({"decode", "dead_neurons", "encode"})  # passes that are there for the file's size
IN_MEMORY = 512 << 20  # bytes of a packed model that `session` restores without a file

PathLike = str | os.PathLike[str]


def load(path: PathLike) -> Model:
    """Open a model; see `Model.load`."""
    return Model.load(path)


def save(model: Model, path: PathLike) -> None:
    """Write a model atomically; see `Model.save`."""
    model.save(path)


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
    _check_request(model, target, checks.get("in_place", False), None, checks.get("verify", True), None)
    data = checks.get("data")
    search = Search(
        model, lambda loss, place: transform(model, place, steps_of(loss), verify=False, jobs=checks.get("jobs")),
        Question(checks.get("metric"), checks.get("evaluate"), checks.get("lower_is_better", False)),
        None if data is None else Path(data), checks.get("samples"), max_drop, time_limit,
        checks.get("progress", silent),
    )  # fmt: skip
    common = search.common(name, " ".join(map(str, steps_of(1.0))))
    with keeping(), trials.opened(target.with_name(f"{target.name}.trials"), common) as known:
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
    rules = {f.name for f in dataclasses.fields(pipeline.named("magnitude", registry.table()))}
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


def make_pass(name: str, **options: Any) -> Pass:
    """An installed pass by name; None leaves an option at its default."""
    kind = pipeline.named(name, registry.table())
    return pipeline.create(kind, {k: v for k, v in options.items() if v is not None})


def passes() -> dict[str, tuple[type[Pass], str]]:
    """Every installed pass: name -> (class, provider)."""
    return registry.available()


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
        jobs: threads that work on the weights; None is one per core, up to `threads.MOST`. The result is the same.
        progress: called with (pass, bytes of weights done, bytes in all).

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
    """
    source, target = Path(model), Path(out)
    question = Question(metric, evaluate, lower_is_better)
    _check_request(source, target, in_place, tolerance, verify, samples)
    table = registry.table()
    chain = [pipeline.parse(step, table) if isinstance(step, str) else step for step in steps]
    with threads.using(jobs):
        opened = Model.load(source)
        opened.payloads.scratch = target.parent
        before, stored = {w.name: w for w in inspect_model(opened)}, _stored(opened)
        if target.exists() and any(target.samefile(file) for file in opened.companions()):
            raise OutputError(f"{target} holds the external data of {source}: choose another output")
        input_facts = file_facts(source, opened.companions())
        recorder = _recorder(opened, chain, masks, names_from, (source, target))
        changes = pipeline.run(opened, chain, progress, recorder or pipeline.unobserved)
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
            removed = pipeline.removals(changes)
            deviation, cost = Deviation("none"), None
            if verify:
                deviation, cost = _verified(source, place, data, samples, tolerance, question, costs=bool(removed))
            output_facts = dataclasses.replace(file_facts(place, written), path=str(target))
            # Reads every weight, before the file is in place: what is damaged is not written.
            weights, parameters = weight_facts(before, opened, changes)
            if recorder is not None and masks is not None:
                file, said = masking.to_file(recorder.taken, source, recorder.matches, removed)
                maskfile.write(Path(masks), file)
                notes += said
    return Result(
        input=input_facts,
        output=output_facts,
        ratio=input_facts.bytes / output_facts.bytes,
        parameters=parameters,
        weights=weights,
        skipped=[{"name": n, "reason": r} for c in changes for n, r in c.skipped.items()],
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
) -> masking.Recorder | None:
    """What takes the masks while the passes run, if they are asked for."""
    if masks is None:
        if names_from is not None:
            raise OptionError("names_from names what is in a mask file: give masks too")
        return None
    if Path(masks).resolve() in {path.resolve() for path in models}:
        raise OutputError(f"{masks} is a model: choose another file for the masks")
    return masking.Recorder(model, chain, None if names_from is None else checkpoints.read(Path(names_from)))


@local(writes="out")
def pack(model: PathLike, out: PathLike) -> packed.Sizes:
    """Write a model and its external data as one small file; see `packing.pack`."""
    source = Path(model)
    return packing.pack(source, Path(out), {} if packed.is_packed(source) else layouts_of(Model.load(source)))


@local(writes="out")
def unpack(model: PathLike, out: PathLike) -> packed.Sizes:
    """Restore a packed model byte for byte; see `packed.unpack`."""
    return packed.unpack(Path(model), Path(out))


@local()
def session(
    model: PathLike,
    *,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    sess_options: ort.SessionOptions | None = None,
    **options: Any,
) -> ort.InferenceSession:
    """An ONNX Runtime session for a model, packed or not; the keywords are those of `InferenceSession`.

    A packed model is restored in memory, or in a temporary folder where it is large or has external data.

    Raises:
        PackedError: the packed file is damaged.
        RuntimeFailure: ONNX Runtime does not load the model.
    """

    def opened(source: str | bytes) -> ort.InferenceSession:
        try:
            return ort.InferenceSession(source, sess_options, providers=list(providers), **options)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RuntimeFailure(f"ONNX Runtime does not load {os.fspath(model)}: {error}") from error

    if not packed.is_packed(model):
        return opened(os.fspath(model))
    held = packed.Packed(Path(model))
    if len(held.files) == 1 and held.nbytes <= IN_MEMORY:
        return opened(held.model_bytes())
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "model.onnx"
        packed.unpack(Path(model), place)
        return opened(os.fspath(place))


@local()
def inspect(model: PathLike | Model) -> list[dict[str, Any]]:
    """Facts about every weight: shape, kind, axes, std, zeros, bytes, encoding, consumers, why it is left alone.

    Of a `Model` the encoded weights are decoded on the way: in the graph, not in a file.
    """
    opened = model if isinstance(model, Model) else Model.load(model)
    facts = {f.name: f for f in inspect_model(opened)}
    for group in planted_in(opened):
        uproot(opened, group, group.array(opened))  # in memory only: decoded, it shows who reads it
    rows = []
    details = {w.name: w for w in find(opened)}
    for name, fact in facts.items():
        row = {
            k: v for k, v in dataclasses.asdict(fact).items() if k not in ("requested", "bytes_after", "shape_after")
        }
        row["bytes"] = row.pop("bytes_before")
        weight = details.get(name)
        if weight is not None:
            row["kind"] = weight.kind
            row["std"] = _std(weight.array(opened))
            row |= {
                "out_axis": weight.out_axis, "in_axes": list(weight.in_axes), "consumers": list(weight.consumers),
                "left_alone": weight.reason,
            }  # fmt: skip
            opened.payloads.forget_pages()
        rows.append(row)
    return rows


@local()
def costs(model: PathLike, *, data: PathLike | None = None, samples: int | None = None) -> Costs:
    """What each layer holds and does: parameters, bytes, operations, shares that are not zero, milliseconds.

    The shares of activations are measured on `data`, see `transform`, or on synthesised inputs. An encoded model is
    decoded to find its layers; bytes and milliseconds are those of the file as it is.

    Raises:
        DataError: the data does not fit, or no inputs could be synthesised.
        RuntimeFailure: ONNX Runtime does not load or run the model.
    """
    _check_samples(samples)
    return account(Path(model), None if data is None else Path(data), samples)


@local()
def compat(model: PathLike) -> Compatibility:
    """The forms of the encoded weights, and the runtimes that read them; see `compatibility`."""
    return compatibility(Model.load(model))


def _std(array: Any) -> float | None:
    value = float(array.astype(np.float32).std(dtype=np.float64)) if array.size else 0.0
    return value if np.isfinite(value) else None


@local(reads=("a", "b"))
def verify(
    a: PathLike, b: PathLike, *, data: PathLike | None = None, samples: int | None = None,
    tolerance: float | None = None, metric: str | None = None, evaluate: str | None = None,
    lower_is_better: bool = False,
) -> Deviation:  # fmt: skip
    """Run two models on the same inputs and compare their outputs; the options are those of `transform`.

    Raises:
        ToleranceMissed: the tolerance was given and missed, or could not be checked.
    """
    question = Question(metric, evaluate, lower_is_better)
    _check_request(Path(a), None, False, tolerance, True, samples)
    return _verified(Path(a), Path(b), data, samples, tolerance, question)[0]


def _check_request(
    source: Path, target: Path | None, in_place: bool, tolerance: float | None, verify: bool, samples: int | None
) -> None:
    if tolerance is not None and not verify:
        raise OptionError("a tolerance cannot be checked without verification")
    if tolerance is not None and math.isnan(tolerance):
        raise OptionError("the tolerance must be a number, not NaN")
    _check_samples(samples)
    if target is not None and not in_place and target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the input; give --in-place to overwrite it")


def _check_samples(samples: int | None) -> None:
    if samples is not None and samples < 1:
        raise OptionError(f"samples must be at least 1, not {samples}")


def _copy(model: Model, source: Path, place: Path) -> None:
    """An unchanged model is the same bytes; external data is written anew because its name may be taken."""
    if model.companions():
        model.write(place)
    else:
        shutil.copyfile(source, place)


def _stored(model: Model) -> frozenset[tuple[str, str, bool]]:
    """Name and encoding of each encoded weight, and whether a MatMul reads it as small integers."""
    coo = {(weight.name, "coo", False) for weight in loose_weights(model) if weight.store == "sparse"}
    return frozenset({(group.name, group.encoding, group.fused) for group in planted_in(model)} | coo)


def _integers(stored: Collection[tuple[str, str, bool]]) -> set[str]:
    return {name for name, _, fused in stored if fused}


def _size(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(file.stat().st_size for file in folder.iterdir())


def _verified(
    source: Path, result: Path, data: PathLike | None, samples: int | None, tolerance: float | None,
    question: Question, *, costs: bool = False,
) -> tuple[Deviation, Cost | None]:  # fmt: skip
    """Run both models on the same inputs; `costs` also counts and times a run of each."""
    model = Model.load(source)
    custom = sorted(custom_domains(model.proto))
    if custom:
        return _unverified(f"it uses custom operators of {', '.join(custom)}", tolerance), None
    session = open_session(source)
    if data is not None:
        kind = "data"
        held = data_files.cut(data_files.read(Path(data)), str(data), inputs_of(session), samples)
    else:
        kind, count = "synthetic", samples or SAMPLES
        try:
            held = Samples(synthesise(model, session, count), count, {})
        except CannotSynthesise as error:
            open_session(result)  # it must load all the same
            return _unverified(f"no inputs could be synthesised ({error}); give --data", tolerance), None
    feeds = held.feeds
    reference = [run(session, feed) for feed in feeds]
    before = latency(session, feeds[0]) if costs else 0.0
    asked = tolerance is not None or question.asked or held.targets
    judge = Judge(session, question, held, reference) if asked else None
    del session
    session = open_session(result)
    outputs = compare(reference, [run(session, feed) for feed in feeds])
    judged = None if judge is None else judge.compared(source, result, tolerance)
    cost = None
    if costs:
        counts = {"before": source, "after": result}
        cost = Cost(
            inputs={name: list(array.shape) for name, array in feeds[0].items()},
            flops={when: sum(layer.flops for layer in layers(path, feeds[0])) for when, path in counts.items()},
            latency_ms={"before": before, "after": latency(session, feeds[0])},
        )
    return Deviation(kind, held.count, "", [o.facts() for o in outputs], judged), cost


def _unverified(reason: str, tolerance: float | None) -> Deviation:
    if tolerance is not None:
        raise NotVerified(f"the tolerance cannot be checked: {reason}")
    return Deviation("none", reason=reason)
