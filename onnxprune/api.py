"""The words of the command line as functions: what the CLI calls and prints."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxprune import data as data_files
from onnxprune import pipeline, registry
from onnxprune.deviation import METRICS, OutputDeviation, compare, missed
from onnxprune.encodings.graft import loose_weights, planted_in, uproot
from onnxprune.errors import OptionError, OutputError, ToleranceMissed
from onnxprune.model import Model, replacing
from onnxprune.pipeline import Change, Pass, Progress, silent
from onnxprune.runtime import Feeds, inputs_of, open_session, run_all
from onnxprune.synthesis import CannotSynthesise, synthesise
from onnxprune.weights import find

SYNTHETIC_SAMPLES = 8
DEFAULT_SPARSITY = 0.5
_GZIP_EXACT, _GZIP_WINDOW, _GZIP_WINDOWS = 8 << 20, 512 << 10, 8

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class FileFacts:
    """A model on disk, its external data included.

    `gzip_bytes` of more than 8 MB is extrapolated from windows spread over the file.
    """

    path: str
    bytes: int
    gzip_bytes: int


@dataclass
class WeightFacts:
    """A weight before and after."""

    name: str
    shape: list[int]
    dtype: str
    kind: str
    total: int
    zeros: int
    requested: float | None
    encoding: str
    bytes_before: int
    bytes_after: int


@dataclass
class Deviation:
    """How the result's outputs differ from the original's; `source` says on what inputs."""

    source: str  # data, synthetic, or none
    samples: int = 0
    reason: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Result:
    """What happened to a model: the JSON of `--json`, field by field."""

    input: FileFacts
    output: FileFacts
    ratio: float
    parameters: dict[str, int]
    weights: list[WeightFacts]
    skipped: list[dict[str, str]]
    removed: list[dict[str, Any]]
    deviation: Deviation
    passes: list[str]
    notes: list[str]
    versions: dict[str, str]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def load(path: PathLike) -> Model:
    """Open a model; see `Model.load`."""
    return Model.load(path)


def save(model: Model, path: PathLike) -> None:
    """Write a model atomically; see `Model.save`."""
    model.save(path)


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
    skip: Sequence[str] = (),
    values: str = "exact",
    encoding: str = "auto",
    **checks: Any,
) -> Result:
    """Prune by magnitude, store each weight in its smallest form, verify.

    Without a rule half of each weight is pruned, which Han et al. 2015 found free of loss.
    Weights that are encoded already are decoded first. Without `out` the file is
    `MODEL.pruned.onnx`; the rest of the keywords are those of `transform`.
    """
    if sparsity is None and quality is None and threshold is None and ":" not in pattern:
        sparsity = DEFAULT_SPARSITY
    magnitude = make_pass(
        "magnitude", sparsity=sparsity, quality=quality, threshold=threshold, scope=scope, pattern=pattern,
        set=tuple(set), skip=tuple(skip),
    )  # fmt: skip
    encode_pass = make_pass("encode", values=values, encoding=encoding)
    source = Path(model)
    target = source.with_name(f"{source.stem}.pruned.onnx") if out is None and source.name else out or source
    return transform(model, target, [make_pass("decode"), magnitude, encode_pass], **checks)


def prune(model: PathLike, out: PathLike, *, checks: dict[str, Any] | None = None, **options: Any) -> Result:
    """Zero the smallest weights; the file stays dense. Options are those of the magnitude pass."""
    return transform(model, out, [make_pass("decode"), make_pass("magnitude", **options)], **(checks or {}))


def encode(model: PathLike, out: PathLike, *, values: str = "exact", encoding: str = "auto", **checks: Any) -> Result:
    """Store each weight in its smallest form, as it is."""
    return transform(model, out, [make_pass("encode", values=values, encoding=encoding)], **checks)


def decode(model: PathLike, out: PathLike, **checks: Any) -> Result:
    """Every encoded weight back as a dense initializer, bit for bit."""
    return transform(model, out, [make_pass("decode")], **checks)


def make_pass(name: str, **options: Any) -> Pass:
    """An installed pass by name; None leaves an option at its default."""
    return pipeline.create(_kind(name), {k: v for k, v in options.items() if v is not None})


def _kind(name: str) -> type[Pass]:
    table = registry.table()
    return table[name] if name in table else type(pipeline.parse(name, table))


def passes() -> dict[str, tuple[type[Pass], str]]:
    """Every installed pass: name -> (class, provider)."""
    return registry.available()


def transform(
    model: PathLike,
    out: PathLike,
    steps: Sequence[Pass | str],
    *,
    data: PathLike | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    metric: str = "agreement",
    verify: bool = True,
    in_place: bool = False,
    progress: Progress = silent,
) -> Result:
    """Load, run the passes, verify against the original, write atomically.

    Args:
        model: an ONNX file.
        out: the file to write; external data goes beside it.
        steps: passes, or their specs.
        data: an .npz file or a folder with arrays named after the inputs; None synthesises inputs.
        samples: how many samples at most (data), or how many (synthesised).
        tolerance: what the metric may miss; a miss writes nothing.
        metric: agreement, sqnr or cosine; see `deviation.missed`.
        verify: whether to run original and result in ONNX Runtime.
        in_place: allow `out` to be `model`.
        progress: called with (pass, weights done, weights in all).

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
    """
    source, target = Path(model), Path(out)
    _check_request(source, target, in_place, metric, tolerance, verify, samples)
    table = registry.table()
    chain = [pipeline.parse(step, table) if isinstance(step, str) else step for step in steps]
    opened = Model.load(source)
    opened.scratch = target.parent
    before = {w.name: w for w in inspect_model(opened)}
    if target.exists() and any(target.samefile(file) for file in opened.companions()):
        raise OutputError(f"{target} holds the external data of {source}: choose another output")
    input_facts = _file_facts(source, opened.companions())
    changes = pipeline.run(opened, chain, progress)
    with replacing(target) as place:
        if any(change.modified for change in changes):
            opened.write(place)
        else:
            _copy(opened, source, place)
        written = [p for p in sorted(place.parent.iterdir()) if p != place]
        deviation = _verified(source, place, data, samples, tolerance, metric) if verify else Deviation("none")
        output_facts = dataclasses.replace(_file_facts(place, written), path=str(target))
        weights, parameters = _weight_facts(
            before, opened, changes
        )  # reads every weight: what is damaged is not written
    return Result(
        input=input_facts,
        output=output_facts,
        ratio=input_facts.bytes / output_facts.bytes,
        parameters=parameters,
        weights=weights,
        skipped=[{"name": n, "reason": r} for c in changes for n, r in c.skipped.items()],
        removed=[],
        deviation=deviation,
        passes=[str(step) for step in chain],
        notes=[note for change in changes for note in change.notes],
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """The versions that the result depends on."""
    names = ("onnxprune", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def inspect_model(model: Model) -> list[WeightFacts]:
    """Every weight-like constant, encoded ones included."""
    found = []
    for weight in loose_weights(model):
        array = weight.array(model)
        encoding, size = "coo" if weight.store == "sparse" else "dense", weight.nbytes(model)
        found.append(
            WeightFacts(weight.name, list(weight.shape), weight.dtype, weight.kind, weight.size,
                        weight.zeros(array), None, encoding, size, size)
        )  # fmt: skip
        model.forget_pages()
    for group in planted_in(model):
        array = group.array(model)
        size = group.nbytes(model)
        found.append(
            WeightFacts(group.name, list(array.shape), str(array.dtype), "encoded", array.size,
                        int(array.size - (array != 0).sum()), None, f"{group.encoding}", size, size)
        )  # fmt: skip
    return found


def inspect(model: PathLike) -> list[dict[str, Any]]:
    """Facts about every weight: shape, kind, axes, std, zeros, bytes, encoding, consumers, why it is left alone."""
    opened = Model.load(model)
    facts = {f.name: f for f in inspect_model(opened)}
    for group in planted_in(opened):
        uproot(opened, group, group.array(opened))  # in memory only: decoded, it shows who reads it
    rows = []
    details = {w.name: w for w in find(opened)}
    for name, fact in facts.items():
        row = {k: v for k, v in dataclasses.asdict(fact).items() if k not in ("requested", "bytes_after")}
        row["bytes"] = row.pop("bytes_before")
        weight = details.get(name)
        if weight is not None:
            row["kind"] = weight.kind
            row["std"] = _std(weight.array(opened))
            row |= {
                "out_axis": weight.out_axis, "in_axes": list(weight.in_axes), "consumers": list(weight.consumers),
                "left_alone": weight.reason,
            }  # fmt: skip
            opened.forget_pages()
        rows.append(row)
    return rows


def _std(array: Any) -> float | None:
    import numpy as np

    value = float(array.astype(np.float32).std(dtype=np.float64)) if array.size else 0.0
    return value if np.isfinite(value) else None


def verify(
    a: PathLike, b: PathLike, *, data: PathLike | None = None, samples: int | None = None,
    tolerance: float | None = None, metric: str = "agreement",
) -> Deviation:  # fmt: skip
    """Run two models on the same inputs and compare their outputs.

    Raises:
        ToleranceMissed: the tolerance was given and missed, or could not be checked.
    """
    _check_request(Path(a), None, False, metric, tolerance, True, samples)
    return _verified(Path(a), Path(b), data, samples, tolerance, metric)


def _check_request(
    source: Path, target: Path | None, in_place: bool, metric: str, tolerance: float | None, verify: bool,
    samples: int | None,
) -> None:  # fmt: skip
    if metric not in METRICS:
        raise OptionError(f"metric '{metric}' is not one of {', '.join(METRICS)}")
    if tolerance is not None and not verify:
        raise OptionError("a tolerance cannot be checked without verification")
    if tolerance is not None and math.isnan(tolerance):
        raise OptionError("the tolerance must be a number, not NaN")
    if samples is not None and samples < 1:
        raise OptionError(f"samples must be at least 1, not {samples}")
    if target is not None and not in_place and target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the input; give --in-place to overwrite it")


def _copy(model: Model, source: Path, place: Path) -> None:
    """An unchanged model is the same bytes; external data is written anew because its name may be taken."""
    if model.companions():
        model.write(place)
    else:
        place.write_bytes(source.read_bytes())


def _verified(
    source: Path, result: Path, data: PathLike | None, samples: int | None, tolerance: float | None, metric: str
) -> Deviation:
    session = open_session(source)
    inputs = inputs_of(session)
    feeds: list[Feeds]
    if data is not None:
        kind, feeds = "data", data_files.load(Path(data), inputs, samples)
    else:
        try:
            kind, feeds = "synthetic", synthesise(Model.load(source), session, samples or SYNTHETIC_SAMPLES)
        except CannotSynthesise as error:
            if tolerance is not None:
                raise ToleranceMissed(f"the tolerance cannot be checked: {error}; give --data") from error
            open_session(result)  # it must load all the same
            return Deviation("none", reason=f"no inputs could be synthesised ({error}); give --data")
    del session
    outputs = compare(run_all(source, feeds), run_all(result, feeds))
    if tolerance is not None:
        miss = missed(outputs, metric, tolerance)
        if miss:
            raise ToleranceMissed(f"tolerance missed, nothing written: {miss}")
    return Deviation(kind, _count(feeds), "", [o.facts() for o in outputs])


def _count(feeds: Sequence[Feeds]) -> int:
    return sum(max((len(a) for a in feed.values() if a.ndim), default=1) if feed else 1 for feed in feeds)


def _weight_facts(
    before: dict[str, WeightFacts], model: Model, changes: Sequence[Change]
) -> tuple[list[WeightFacts], dict[str, int]]:
    """The weights that a pass looked at, and the parameters of the whole model."""
    touched: dict[str, dict[str, Any]] = {}
    for change in changes:
        for name, record in change.weights.items():
            touched.setdefault(name, {}).update(record)
    after = {w.name: w for w in inspect_model(model)}
    weights = []
    for name, fact in before.items():
        now = after.get(name, fact)
        record = touched.get(name, {})
        if "requested" in record or now.encoding != fact.encoding or now.bytes_after != fact.bytes_before:
            weights.append(
                dataclasses.replace(fact, zeros=now.zeros, requested=record.get("requested"),
                                    encoding=now.encoding, bytes_after=now.bytes_after)
            )  # fmt: skip
    total = sum(f.total for f in before.values())
    left = sum(f.total for f in after.values())
    return weights, {"before": total, "after": left, "nonzero": left - sum(f.zeros for f in after.values())}


def _file_facts(path: Path, companions: Iterable[Path]) -> FileFacts:
    files = [path, *companions]
    return FileFacts(str(path), sum(f.stat().st_size for f in files), sum(_gzipped(f) for f in files))


def _gzipped(path: Path) -> int:
    """Bytes of the file after gzip, extrapolated from evenly spread windows where it is large."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _GZIP_EXACT:
            return len(_gzip(file.read()))
        packed = 0
        for number in range(_GZIP_WINDOWS):
            file.seek((size - _GZIP_WINDOW) * number // (_GZIP_WINDOWS - 1))
            packed += len(_gzip(file.read(_GZIP_WINDOW)))
    return round(packed / (_GZIP_WINDOW * _GZIP_WINDOWS) * size)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


__all__ = [
    "Deviation", "OutputDeviation", "Result", "WeightFacts", "compress", "decode", "encode", "inspect", "load",
    "passes", "prune", "save", "transform", "verify",
]  # fmt: skip
