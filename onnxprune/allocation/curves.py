"""What a sensitivity scan found: a metric against sparsity, layer by layer, as a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.core.files import staged, write
from onnxprune.errors import CurvesError, OptionError
from onnxprune.pipeline.per_weight import PerWeight

VERSION = 1
_BISECTIONS = 60


@dataclass(frozen=True)
class CurvePoint:
    """The metric with one layer at a sparsity and every other layer as it was."""

    sparsity: float
    metric: float


@dataclass(frozen=True)
class Curve:
    """One layer: the weight's name, its kind, its number of entries, and the points by rising sparsity."""

    name: str
    kind: str
    size: int
    points: tuple[CurvePoint, ...]


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

    def shares(self, drop: float) -> dict[str, float]:
        """Layer -> the largest sparsity up to which its metric drops by no more than this, between points on a line."""
        return {layer.name: self._share(layer, drop) for layer in self.layers}

    def _share(self, layer: Curve, drop: float) -> float:
        sign, reached, worst = 1 if self.lower_is_better else -1, 0.0, 0.0
        for point in layer.points:
            worse = max(worst, sign * (point.metric - self.baseline))  # less noise: to prune more is never better
            if worse > drop:
                return reached + (drop - worst) / (worse - worst) * (point.sparsity - reached)
            reached, worst = point.sparsity, worse
        return reached

    def reaching(self, sparsity: float) -> dict[str, float]:
        """Layer -> its sparsity under the least common bound on the drop at which so much of all layers is pruned.

        Raises:
            OptionError: the scan does not go so far.
        """
        low, high = 0.0, self._deepest
        if not 0 <= sparsity <= self._reached(high) + 1e-12:
            raise OptionError(
                f"the scan reaches a sparsity of {self._reached(high):.4g}, not {sparsity:g}: scan higher --levels"
            )
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._reached(middle) < sparsity else (low, middle)
        shares = self.shares(high)
        # Curves that are flat jump: what is too much comes off all layers alike.
        return {name: share * min(1.0, sparsity / (self._reached(high) or 1.0)) for name, share in shares.items()}

    @property
    def _deepest(self) -> float:
        """A drop that no point of any curve exceeds."""
        return max(abs(p.metric - self.baseline) for c in self.layers for p in c.points) + 1e-12

    def _reached(self, drop: float) -> float:
        """How much of all layers is pruned where each may drop so far."""
        shares = self.shares(drop)
        return sum(layer.size * shares[layer.name] for layer in self.layers) / sum(c.size for c in self.layers)

    def targets(self, sparsity: float | None) -> tuple[str, ...]:
        """The sparsity of each layer as the magnitude pass's `set` wants it, such that so much is pruned of all.

        Raises:
            OptionError: the curves are of channels, or do not go so far.
        """
        self._of_weights()
        if sparsity is None:
            raise OptionError("a scan says how to share a sparsity out: give the sparsity of the whole")
        return PerWeight(tuple(self.reaching(sparsity).items())).texts()

    def comparable(self) -> dict[str, float]:
        """Layer -> the sparsity at which it drops as far as the others: half of what each of them reaches.

        A layer that never drops is there with all that was tried.

        Raises:
            OptionError: the curves are of channels.
        """
        self._of_weights()
        sign = 1 if self.lower_is_better else -1
        deepest = [max(sign * (point.metric - self.baseline) for point in layer.points) for layer in self.layers]
        return self.shares(min((drop for drop in deepest if drop > 0), default=0.0) / 2)

    def _of_weights(self) -> None:
        if self.of != "weights":
            raise OptionError(f"a scan of {self.of}: what is pruned are weights, which needs one without --channels")

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


def of_model(path: Path, model: str) -> Curves:
    """The curves in a file, which must be of a model.

    Args:
        path: the file.
        model: SHA-256 of the model; see `Model.sha256`.

    Raises:
        CurvesError: the file holds none, or those of another model.
    """
    curves = read(path)
    if curves.model != model:
        raise CurvesError(f"{path} is a scan of another model: scan this one")
    return curves


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


def _point(held: dict[str, Any]) -> CurvePoint:
    sparsity = _number(held["sparsity"])
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity}")
    return CurvePoint(sparsity, _number(held["metric"]))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number
