"""What a sensitivity scan found: a metric against sparsity, layer by layer, as a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import CurvesError
from onnxprune.files import staged, write

VERSION = 1


@dataclass(frozen=True)
class Point:
    """The metric with one layer at a sparsity and every other layer as it was."""

    sparsity: float
    metric: float


@dataclass(frozen=True)
class Curve:
    """One layer: the weight's name, its kind, its number of entries, and the points by rising sparsity."""

    name: str
    kind: str
    size: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curves:
    """A scan of a model.

    Attributes:
        model: sha256 of the model's file and external data.
        metric: the metric's name.
        lower_is_better: whether the metric is an error.
        baseline: the metric of the model as it is.
        samples: on how many samples.
        of: what the sparsity is a share of: weights, or channels.
        layers: one curve each.
    """

    model: str
    metric: str
    lower_is_better: bool
    baseline: float
    samples: int
    of: str
    layers: tuple[Curve, ...]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        text = json.dumps({"version": VERSION} | dataclasses.asdict(self), indent=1)
        with staged(path) as place:
            write(place, [f"{text}\n".encode()])


def read(path: Path) -> Curves:
    """The curves in a file.

    Raises:
        CurvesError: it cannot be read, is of a newer version, or is not what `Curves.save` writes.
    """
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CurvesError(f"cannot read the curves in {path}: {error}") from error
    try:
        if held["version"] != VERSION:
            raise CurvesError(f"{path} is of version {held['version']}, this release reads {VERSION}")
        return _curves(held)
    except (KeyError, TypeError, ValueError) as error:
        raise CurvesError(f"{path} holds no sensitivity scan: {error!r}") from error


def _curves(held: dict[str, Any]) -> Curves:
    layers = [
        Curve(str(c["name"]), str(c["kind"]), int(c["size"]), tuple(_point(p) for p in c["points"]))
        for c in held["layers"]
    ]
    if held["of"] not in ("weights", "channels"):
        raise ValueError(held["of"])
    return Curves(
        str(held["model"]), str(held["metric"]), bool(held["lower_is_better"]), _number(held["baseline"]),
        int(held["samples"]), held["of"], tuple(layers),
    )  # fmt: skip


def _point(held: dict[str, Any]) -> Point:
    sparsity = _number(held["sparsity"])
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity}")
    return Point(sparsity, _number(held["metric"]))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number
