"""Result: what happened to a model, field by field what `--json` holds."""

from __future__ import annotations

import dataclasses
import platform
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.core import threads
from onnxprune.core.dtypes import name_of
from onnxprune.encodings.graft import planted_in
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.change import Change, Encoded, Removed
from onnxprune.runtime.judge import Judged
from onnxprune.search import Searched

_GZIP_EXACT, _GZIP_WINDOW, _GZIP_WINDOWS = 2 << 20, 16 << 10, 64  # within 5 % on eleven real models, in 0.04 s


@dataclass(frozen=True)
class FileFacts:
    """A model on disk, its external data included.

    `gzip_bytes` of more than 2 MB is extrapolated from windows spread over the file.
    """

    path: str
    bytes: int
    gzip_bytes: int


@dataclass
class WeightFacts:
    """A weight before and after; `zeros` counts what was pruned or is 0 in the shape before, cut out or not."""

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
    shape_after: list[int]


@dataclass
class Deviation:
    """How the result's outputs differ from the original's; `source` says on what inputs.

    `metric` is there where one was asked for, or the data has targets.
    """

    source: str  # data, synthetic, or none
    samples: int = 0
    reason: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    metric: Judged | None = None


@dataclass
class Cost:
    """What one run on inputs of these shapes costs: floating-point operations, and milliseconds here."""

    inputs: dict[str, list[int]]
    flops: dict[str, int]
    latency_ms: dict[str, float]


@dataclass
class Result:
    """What happened to a model: the JSON of `--json`, field by field.

    `integers` counts the matrices that stay small integers in front of MatMul when the model is loaded. `cost`, of
    models whose shapes changed: `flops` and median `latency_ms`, before and after, of one run on `inputs`. `search` is
    there with a `max_drop`.
    """

    input: FileFacts
    output: FileFacts
    ratio: float
    parameters: dict[str, int]
    weights: list[WeightFacts]
    skipped: list[dict[str, str]]
    removed: list[Removed]
    cost: Cost | None
    integers: int
    deviation: Deviation
    passes: list[str]
    notes: list[str]
    versions: dict[str, str]
    search: Searched | None = None

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def versions() -> dict[str, str]:
    """The versions that the result depends on."""
    names = ("onnxprune", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def inspect_model(model: Model, known: Mapping[str, Encoded] | None = None) -> list[WeightFacts]:
    """Every weight-like constant, encoded ones included.

    Args:
        model: the model.
        known: encoded weights that need not be decoded to be counted.
    """
    found = []
    for weight in find(model):
        encoding, size = "coo" if weight.store == "sparse" else "dense", weight.nbytes(model)
        found.append(
            WeightFacts(weight.name, list(weight.shape), weight.dtype, weight.kind, weight.size,
                        weight.zeros(weight.slabs(model)), None, encoding, size, size, list(weight.shape))
        )  # fmt: skip
    for group in planted_in(model):
        size = group.nbytes(model)
        stored = group.encoding if group.values == "exact" else f"{group.encoding} {group.stored_as}"
        held = (known or {}).get(group.name)
        if held is None:
            array = group.array(model)
            held = Encoded(array.shape, int(np.count_nonzero(array == group.zero(model))))
        found.append(
            WeightFacts(group.name, list(held.shape), name_of(group.element), "encoded", prod(held.shape), held.zeros,
                        None, stored, size, size, list(held.shape))
        )  # fmt: skip
    return found


def weight_facts(
    before: dict[str, WeightFacts], model: Model, changes: Sequence[Change]
) -> tuple[list[WeightFacts], dict[str, int]]:
    """The weights that a pass looked at, and the parameters of the whole model."""
    touched: dict[str, dict[str, Any]] = {}
    for change in changes:
        for name, record in change.weights.items():
            touched.setdefault(name, {}).update(record)
    known = {name: fact for change in changes for name, fact in change.encoded.items()}
    after = {w.name: w for w in inspect_model(model, known)}
    weights = []
    for name, fact in before.items():
        now = after.get(name) or _removed(fact)
        record = touched.get(name, {})
        if "requested" in record or now.encoding != fact.encoding or now.bytes_after != fact.bytes_before:
            weights.append(
                dataclasses.replace(
                    fact, zeros=record.get("zeros", fact.total - now.total + now.zeros),
                    requested=record.get("requested"), encoding=now.encoding, bytes_after=now.bytes_after,
                    shape_after=now.shape,
                )
            )  # fmt: skip
    total = sum(f.total for f in before.values())
    left = sum(f.total for f in after.values())
    return weights, {"before": total, "after": left, "nonzero": left - sum(f.zeros for f in after.values())}


def _removed(fact: WeightFacts) -> WeightFacts:
    """A weight that nothing needs any more."""
    return dataclasses.replace(fact, shape=[0] * len(fact.shape), total=0, zeros=0, encoding="removed", bytes_after=0)


def file_facts(path: Path, companions: Iterable[Path]) -> FileFacts:
    """Sizes of a model on disk together with its external data."""
    files = [path, *companions]
    return FileFacts(str(path), sum(f.stat().st_size for f in files), sum(_gzipped(f) for f in files))


def _gzipped(path: Path) -> int:
    """Bytes of the file after gzip, extrapolated from evenly spread windows where it is large."""
    size = path.stat().st_size
    if size <= _GZIP_EXACT:
        return len(_gzip(path.read_bytes()))

    def window(number: int) -> int:
        with path.open("rb") as file:
            file.seek((size - _GZIP_WINDOW) * number // (_GZIP_WINDOWS - 1))
            return len(_gzip(file.read(_GZIP_WINDOW)))

    packed = sum(threads.run(window, range(_GZIP_WINDOWS)))
    return round(packed / (_GZIP_WINDOW * _GZIP_WINDOWS) * size)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()
