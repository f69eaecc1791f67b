"""Result: what happened to a model, field by field what `--json` holds."""

from __future__ import annotations

import dataclasses
import platform
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.core import threads
from onnxprune.encodings.inventory import WeightFacts
from onnxprune.model.weight import Reason
from onnxprune.pipeline.change import Removed

if TYPE_CHECKING:
    from onnxprune.layer_costs.decoding import Decoding
    from onnxprune.layer_costs.gain import Gain
    from onnxprune.runtime.judge import Judged
    from onnxprune.search.budget import Searched
    from onnxprune.search.promise import Promised
    from onnxprune.search.speed import SpeedUp

_GZIP_EXACT, _GZIP_WINDOW, _GZIP_WINDOWS = 512 << 10, 16 << 10, 64  # within 5.1 % on 42 real models, in 0.04 s


@dataclass(frozen=True)
class FileFacts:
    """A model on disk, its external data included.

    `gzip_bytes` of more than 512 KiB is extrapolated from windows spread over the file, at most half of it.
    """

    path: str
    bytes: int
    gzip_bytes: int


@dataclass
class Deviation:
    """How the result's outputs differ from the original's; `source` says on what inputs.

    `input_kinds` says in words what each input was taken for where they were synthesised: images, token ids, or random
    numbers where nothing was recognised. `metric` is there where one was asked for, or the data has targets; `decoding`
    where the result has encoded weights.
    """

    source: str  # data, synthetic, or none
    samples: int = 0
    reason: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    metric: Judged | None = None
    input_kinds: dict[str, str] = field(default_factory=dict)
    decoding: Decoding | None = None


@dataclass
class Cost:
    """What one run on inputs of these shapes costs: floating-point operations, and milliseconds here.

    Milliseconds are processor time of one thread, and the two models run in turn: by the clock, with threads that wait
    for each other and for whatever else runs, a model can be twice as fast as itself.
    """

    inputs: dict[str, list[int]]
    flops: dict[str, int]
    latency_ms: dict[str, float]


@dataclass(frozen=True)
class Skipped:
    """A weight that a pass left alone, and why; in JSON `name` and the text of `reason`."""

    name: str
    reason: Reason


@dataclass
class Result:
    """What happened to a model: the JSON of `--json`, field by field.

    `integers` counts the matrices that stay small integers in front of MatMul when the model is loaded. `cost`, of
    models whose shapes changed: `flops` and `latency_ms`, before and after, of one run on `inputs`. `search` is there
    with a `max_drop`, `promise` with data and no word on what may be lost, `speed_up` where one was asked for (its
    shares, as `channels`, make the same file without a search), `activations` where convolutions compute with 8-bit
    integers. `contents` says what the bytes of the result are; see `file_contents`.
    """

    input: FileFacts
    output: FileFacts
    ratio: float
    parameters: dict[str, int]
    weights: list[WeightFacts]
    skipped: list[Skipped]
    removed: list[Removed]
    cost: Cost | None
    integers: int
    deviation: Deviation
    passes: list[str]
    notes: list[str]
    versions: dict[str, str]
    search: Searched | None = None
    promise: Promised | None = None
    speed_up: SpeedUp | None = None
    activations: Gain | None = None
    contents: dict[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        skipped = [{"name": entry.name, "reason": entry.reason.text} for entry in self.skipped]
        return dataclasses.asdict(self) | {"skipped": skipped}


def versions() -> dict[str, str]:
    """The versions that the result depends on."""
    names = ("onnxprune", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def file_facts(path: Path, companions: Iterable[Path]) -> FileFacts:
    """Sizes of a model on disk together with its external data."""
    files = [path, *companions]
    return FileFacts(str(path), sum(f.stat().st_size for f in files), sum(_gzipped(f) for f in files))


def _gzipped(path: Path) -> int:
    """Bytes of the file after gzip, extrapolated from evenly spread windows where it is large."""
    size = path.stat().st_size
    if size <= _GZIP_EXACT:
        return len(_gzip(path.read_bytes()))

    windows = min(_GZIP_WINDOWS, size // (2 * _GZIP_WINDOW))

    def window(number: int) -> int:
        with path.open("rb") as file:
            file.seek((size - _GZIP_WINDOW) * number // (windows - 1))
            return len(_gzip(file.read(_GZIP_WINDOW)))

    packed = sum(threads.run(window, range(windows)))
    return round(packed / (_GZIP_WINDOW * windows) * size)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()
