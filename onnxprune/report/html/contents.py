"""What a report says, before it has a form: facts of every weight, and sketches of the values of some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.allocation.curves import Curves
from onnxprune.api import inspect
from onnxprune.api.result import Deviation, FileFacts, Result, Skipped, file_facts, versions
from onnxprune.core.dtypes import QUANTISED, Array, numpy_dtype
from onnxprune.core.files import PathLike
from onnxprune.encodings.file_contents import file_contents
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.errors import CurvesError
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Reason, Weight, check_patterns, matches
from onnxprune.pipeline.change import Removed
from onnxprune.pipeline.run import METADATA
from onnxprune.report.html import statistics
from onnxprune.report.html.images import Images
from onnxprune.report.html.statistics import BarHistogram, PatternImage

PICTURED = 12  # weights whose values are drawn unless they are named


Columns = Mapping[str, Mapping[str, float]]  # weight -> title -> number


@dataclass(frozen=True)
class LayerRow:
    """A weight in the table; a side of which nothing is known is None."""

    name: str
    kind: str
    dtype: str
    shape: list[int]
    shape_after: list[int]
    total: int
    zeros: int
    requested: float | None
    encoding: str
    bytes_before: int
    bytes_after: int
    left_alone: str
    more: Mapping[str, Any]


@dataclass(frozen=True)
class Sketch:
    """What is drawn of a weight's values.

    Attributes:
        histogram: of the values before and after, or of the only ones.
        pattern: what is kept, [outputs, inputs] in the shape before wherever it is known what was cut out.
        image: how many weights are kept by pixel [height, width] of the image that the matrix reads, or None.
    """

    layer: LayerRow
    histogram: BarHistogram
    pattern: PatternImage | None
    image: Array | None


@dataclass(frozen=True)
class Contents:
    """A report on one model (`result` is None), or on a model and what became of it.

    Attributes:
        holds: bytes of the file by what they are; see `file_contents`.
    """

    file: FileFacts
    parameters: dict[str, int]
    result: Result | None
    holds: dict[str, int]
    layers: list[LayerRow]
    sketches: list[Sketch]
    curves: Curves | None
    titles: list[str] = field(default_factory=list)  # of further columns of the table


class _Side:
    """One of the two models: facts of its weights, and their values, read one by one."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.model = Model.load(path)
        self.model.payloads.scratch = scratch
        self.file = file_facts(path, self.model.companions())
        self.integers = sum(group.fused for group in encoded_weights(self.model))
        self.passes = [entry.value for entry in self.model.proto.metadata_props if entry.key == METADATA]
        self.rows = {row["name"]: row for row in inspect.inspect(self.model)}
        self.weights = {weight.name: weight for weight in find(self.model)}

    @property
    def parameters(self) -> tuple[int, int]:
        """How many there are, and how many of them are not zero."""
        total = sum(row["total"] for row in self.rows.values())
        return total, total - sum(row["zeros"] for row in self.rows.values())

    def holds(self, dense: _Side) -> dict[str, int]:
        """What the bytes of the file are; the kinds of the weights are those of the dense model."""
        sizes = {name: row["bytes"] for name, row in self.rows.items()}
        kinds = {name: row["kind"] for name, row in (self.rows | dense.rows).items()}
        return file_contents(self.model, sizes, kinds, self.file.bytes)

    def reason(self, name: str) -> Reason | None:
        """Why a weight is left alone, if it is."""
        weight = self.weights.get(name)
        return None if weight is None else weight.reason

    def values(self, name: str) -> Array:
        """The real values of a weight: what is quantised is dequantised."""
        weight = self.weights[name]
        array = weight.array(self.model)
        if weight.element in QUANTISED and weight.zero is not None:
            scale = 1 if weight.scale is None else weight.scale.astype(np.float32)
            return (array.astype(np.float32) - weight.zero.astype(np.float32)) * scale
        return array if array.dtype.kind == "f" and array.itemsize >= 4 else array.astype(np.float32)


def gather(
    model: Path,
    original: Path | None,
    result: Result | None,
    deviation: Deviation,
    curves: Curves | None,
    weights: Sequence[str],
    columns: Columns,
    scratch: Path,
) -> Contents:
    """Read the model, and what it was made of; without a result the two files tell what they can.

    Args:
        model: the model to report on.
        original: the model that it was made of, if there is one.
        result: what `compress` and its like return.
        deviation: of the outputs, for a report without a result.
        curves: of a sensitivity scan.
        weights: patterns of weights to draw; without any the largest ones of linear layers.
        columns: further columns, weight -> title -> number.
        scratch: a folder for what does not fit in memory.

    Raises:
        WeightError: no weight matches one of the patterns.
        CurvesError: the scan is of another model.
    """
    last = _Side(model, scratch)
    first = last if original is None else _Side(original, scratch)
    if curves is not None and not any(curve.name in first.rows for curve in curves.layers):
        raise CurvesError(f"the sensitivity scan is of another model: no layer of it is a weight of {model}")
    if result is None and original is not None:
        result = _compared(first, last, deviation)
    layers = list(_layers(first, last, result, columns))
    total, nonzero = last.parameters
    return Contents(
        file=last.file,
        parameters={"before": total, "after": total, "nonzero": nonzero} if result is None else result.parameters,
        result=result,
        holds=last.holds(first),
        layers=layers,
        sketches=list(_sketches(first, last, _chosen(layers, first, last, weights), result.removed if result else [])),
        curves=curves,
        titles=list(dict.fromkeys(title for cells in columns.values() for title in cells)),
    )


def named(found: Contents, model: Path, original: PathLike | None) -> Contents:
    """The contents with the names that the user gave the files: packed ones were read from temporary files."""
    file = replace(found.file, path=str(model))
    if found.result is None or original is None:
        return replace(found, file=file)
    before = replace(found.result.input, path=str(original))
    after = replace(found.result.output, path=str(model))
    return replace(found, file=file, result=replace(found.result, input=before, output=after))


def _compared(first: _Side, last: _Side, deviation: Deviation) -> Result:
    """What became of a model, as far as two files tell it: not its weights, which are the layers."""
    (before, _), (after, nonzero) = first.parameters, last.parameters
    return Result(
        input=first.file,
        output=last.file,
        ratio=first.file.bytes / last.file.bytes,
        parameters={"before": before, "after": after, "nonzero": nonzero},
        weights=[],
        skipped=[Skipped(name, reason) for name in first.rows if (reason := first.reason(name)) is not None],
        removed=[],
        cost=None,
        integers=last.integers,
        deviation=deviation,
        passes=last.passes,
        notes=[],
        versions=versions(),
    )


def _layers(first: _Side, last: _Side, result: Result | None, columns: Columns) -> Iterator[LayerRow]:
    known = {} if result is None else {w.name: w for w in result.weights}
    for name in dict.fromkeys((*first.rows, *last.rows, *known)):
        before, after, fact = first.rows.get(name), last.rows.get(name), known.get(name)
        row = before or after or vars(fact)
        zeros = row["total"] if after is None else row["total"] - after["total"] + after["zeros"]
        yield LayerRow(
            name=name,
            kind=row["kind"],
            dtype=row["dtype"],
            shape=row["shape"] if fact is None else fact.shape,
            shape_after=[] if after is None else after["shape"],
            total=row["total"] if fact is None else fact.total,
            zeros=zeros if fact is None else fact.zeros,
            requested=None if fact is None else fact.requested,
            encoding="removed" if after is None else after["encoding"],
            bytes_before=(0 if before is None else before["bytes"]) if fact is None else fact.bytes_before,
            bytes_after=0 if after is None else after["bytes"],
            left_alone=row.get("left_alone") or "",
            more=columns.get(name, {}),
        )


def _chosen(layers: list[LayerRow], first: _Side, last: _Side, patterns: Sequence[str]) -> list[LayerRow]:
    """What is drawn: the named weights, or the largest that linear layers read."""
    drawable = [
        layer for layer in layers
        if layer.name in last.weights
        and (weight := first.weights.get(layer.name)) is not None and numpy_dtype(weight.element) is not None
    ]  # fmt: skip
    if patterns:
        check_patterns([first.weights[layer.name] for layer in drawable], patterns)
        return [layer for layer in drawable if any(matches(layer.name, pattern) for pattern in patterns)]
    linear = [layer for layer in drawable if not layer.left_alone]
    largest = {layer.name for layer in sorted(linear, key=lambda layer: -layer.total)[:PICTURED]}
    return [layer for layer in linear if layer.name in largest]


def _sketches(first: _Side, last: _Side, chosen: list[LayerRow], removed: Sequence[Removed]) -> Iterator[Sketch]:
    images = Images(first.model)
    for layer in chosen:
        weight = first.weights[layer.name]
        values = [side.values(layer.name) for side in dict.fromkeys((first, last))]
        kept = statistics.put_back(values[-1] != 0, layer.name, removed)
        pattern = statistics.pattern(statistics.as_matrix(kept, weight.out_axis)) if kept.size else None
        yield Sketch(layer, statistics.histogram(values), pattern, _by_pixel(kept, weight, images))
        for side in (first, last):
            side.model.payloads.forget_pages()


def _by_pixel(kept: Array, weight: Weight, images: Images) -> Array | None:
    """How many weights are kept for each pixel of the image that the matrix reads."""
    size = images.behind(weight)
    if size is None or weight.out_axis is None or kept.shape != weight.shape:
        return None
    return kept.sum(weight.out_axis).reshape(size).sum(0)
