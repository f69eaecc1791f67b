"""Layers fitted one after the other: each reads what the changed ones before it give, and is to give what it gave.

Inputs come from the network as it is by then, targets from the network as it was, so that a layer makes good what those
before it lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx import GraphProto

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.layers import Layer, Use
from onnxprune.calibration.moments import moments
from onnxprune.calibration.recording import hidden
from onnxprune.core.dtypes import Array, array_dtype
from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.pipeline.change import some_of
from onnxprune.pipeline.progress import Progress, tracked
from onnxprune.pruning.least_squares import Halves, Moments
from onnxprune.reconstruction.record import Record
from onnxprune.reconstruction.replay import Replay
from onnxprune.reconstruction.segments import Cut, Segment, cut
from onnxprune.runtime.session import Feeds, open_session

Change = Callable[[Layer, Array, Halves], Array | None]  # (layer, rows, moments) -> the rows that come; None: as it is


@dataclass
class Fitted:
    """What became of the layers.

    Attributes:
        weights: the names of those that were fitted.
        kept: of those that stay as they are.
        biases: how many were shifted.
        samples: on how many samples.
        failure: why layers from some place on were not; empty where all could be recorded.
    """

    weights: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    biases: int = 0
    samples: int = 0
    failure: str = ""

    def notes(self, left: Sequence[str], without: str, because: str = "") -> list[str]:
        """What a user should know of weights that were refitted, and of those that were left out.

        Args:
            left: the names of the latter.
            without: what was done to them.
            because: why, where nothing failed.
        """
        notes = []
        if self.weights:
            notes.append(
                f"{len(self.weights)} weights were refitted and {self.biases} biases shifted on {self.samples} samples "
                "of the data: on these the result looks better than on others"
            )
        if left:
            why = f": {self.failure}" if self.failure else because
            notes.append(f"{without}{why}: {some_of(left)}")
        return notes


def fit(
    model: Model, layers: Sequence[Layer], calibration: CalibrationSet, change: Change, progress: Progress, name: str
) -> Fitted:
    """Change the layers of a model in the order in which they run.

    Args:
        model: edited in place.
        layers: of it.
        calibration: the samples.
        change: is asked for each layer whose inputs are known.
        progress: hears of the bytes of the weights.
        name: of the pass.

    Raises:
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run.
    """
    was, found = model.copy(), cut(model, layers)
    places = [sum(number in segment.layers for segment in found.segments) for number in range(len(layers))]
    fitting = _Fitting(model, change, found)
    fitting.spread_out([layer for layer, count in zip(layers, places, strict=True) if count != 1], calibration)
    pieces, fitting.done.samples = _pieces(model, calibration)
    nbytes = [sum(layers[n].weight.nbytes(model) for n in segment.layers) for segment in found.segments]
    with Replay(was, found, pieces) as before, Replay(model, found, pieces) as now:
        try:
            for number, segment in tracked(progress, name, found.segments, lambda s: nbytes[found.segments.index(s)]):
                fitting.segment(before, now, segment, [layers[n] for n in segment.layers if places[n] == 1])
                later = {
                    value for s in found.segments[number + 1 :] for place in s.nodes for value in found.reads[place]
                }
                for replay in (before, now):
                    replay.values.drop_all_but(later)
                model.payloads.forget_pages()
        except RuntimeFailure as error:
            fitting.done.failure = str(error)
    return fitting.done


def _pieces(model: Model, calibration: CalibrationSet) -> tuple[list[Feeds], int]:
    """The samples in pieces, and how many there are."""
    with TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "model.onnx"
        model.write(path)
        return calibration.pieces(open_session(path))


class _Fitting:
    """Layers on their way to be changed, and which values differ by then."""

    def __init__(self, model: Model, change: Change, found: Cut) -> None:
        self._model, self._change, self._cut = model, change, found
        self._affected: set[str] = set()
        self.done = Fitted()

    def spread_out(self, layers: Sequence[Layer], calibration: CalibrationSet) -> None:
        """Change layers read in several segments, or inside bodies, by what is read in the network as it was."""
        if not layers:
            return
        for layer, halves in zip(layers, moments(self._model, layers, calibration), strict=True):
            if halves is not None:
                self._take(layer, (Moments(halves[0], halves[0]), Moments(halves[1], halves[1])), None)

    def segment(self, before: Replay, now: Replay, segment: Segment, layers: Sequence[Layer]) -> None:
        """Record what the layers of a segment read, change them, and run it."""
        records = {layer.key: Record(layer, before.values.pieces) for layer in layers}
        self._spread(segment)
        part = before.part(segment, [*segment.recorded, *segment.given])
        own = now.part(segment, segment.recorded) if self._affected & set(segment.recorded) else None
        for piece in range(before.values.pieces):
            was = part.run(piece)
            for name in segment.given:
                before.values.keep(piece, name, was[name])
            read = was if own is None else own.run(piece)
            for record in records.values():
                record.add(read if self._cut.draws else was, read, piece)
        for layer in layers:
            record = records[layer.key]
            halves = record.moments(layer.bias is not None)
            if halves is not None:
                self._take(layer, halves, record)
        self._spread(segment)
        differ = [name for name in segment.given if name in self._affected]
        part = now.part(segment, differ)
        for piece in range(now.values.pieces):
            values = part.run(piece) if differ else {}
            for name in segment.given:
                now.values.keep(piece, name, values[name] if name in values else before.values.get(piece, name))

    def _take(self, layer: Layer, halves: Halves, record: Record | None) -> None:
        """Change one layer, and its bias."""
        weight, model = layer.weight, self._model
        rows = layer.rows(weight.array(model).astype("float32"))
        found = self._change(layer, rows, halves)
        if found is None:
            self.done.kept.add(weight.name)
            return
        weight.set_array(model, layer.array(found).astype(array_dtype(weight.element)))
        if layer.bias is not None and record is not None:
            layer.bias.shift(model, record.shift(rows, found))
            self.done.biases += 1
        self.done.weights.add(weight.name)
        self._affected.update(value for use in layer.uses for value in _given(use, model.proto.graph) if value)

    def _spread(self, segment: Segment) -> None:
        """Values of a segment are affected that are made of affected ones."""
        graph: GraphProto = self._model.proto.graph
        for place in segment.nodes:
            if self._affected & self._cut.reads[place]:
                self._affected.update(filter(None, graph.node[place].output))
                self._affected.add(hidden(graph.node[place]))


def _given(use: Use, graph: GraphProto) -> Iterable[str]:
    """The values of the main graph that a use gives, or the node whose body it stands in."""
    scope, node = use.scope, use.node
    while (held := scope.holder()) is not None and scope.parent is not None:
        scope, node = scope.parent, held[0]
    return node.output if scope.body is graph else (name for each in graph.node for name in each.output)
