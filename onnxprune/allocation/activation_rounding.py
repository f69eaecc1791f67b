"""Error of layers whose activations are rounded to 8 bits at each run, measured on samples: who bears int8-dynamic.

DynamicQuantizeLinear has one scale for all that a run gives it. Here that is the scale of all samples together: no
batch of them has a wider one. A layer is refused whose product comes out too far off, as a whole or in one of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto

from onnxprune.calibration.calibration_set import CalibrationSet
from onnxprune.calibration.recording import Value, recorded
from onnxprune.core.chunked import EVERY, ChunkedArray, ranges
from onnxprune.core.dtypes import Array
from onnxprune.encodings.candidates import Candidates
from onnxprune.encodings.graph.fusion import MIN_FUSED_ELEMENTS, Readers
from onnxprune.encodings.values.base import Coded
from onnxprune.encodings.values.dynamic import MAX_INPUTS, Int8Dynamic
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight

LIMIT, ROW_LIMIT = 0.05, 0.15  # relative L2 error of a product, and of its worst row
_ROWS = 1024  # of a layer's input that are multiplied, drawn over all samples
_UNREAD = f"no MatMul or Gemm alone reads it, or it has fewer than {MIN_FUSED_ELEMENTS:,} entries"
_UNSUPPORTED = "kernels of the targets were not seen to multiply its integers"
_INSIDE = "it is read inside a body or a function, where nothing is measured"
_WIDE = f"its layer has more than {MAX_INPUTS:,} inputs"
_OPSET = f"the model's opset is lower than {Int8Dynamic().opset(fused=True)}"
_INFINITE = "what it is multiplied with is not finite on the data, or of extraordinary size"
_HELD = "its values are not finite, or of extraordinary size"


def refusals(
    model: Model, weights: Sequence[Weight], integers: frozenset[str], calibration: CalibrationSet
) -> list[str]:
    """Why each of the weights may not become int8-dynamic; "" where its layer bears it.

    Args:
        model: the model.
        weights: of the model.
        integers: the value forms whose integers kernels of the targets may read.
        calibration: the samples.

    Raises:
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run.
    """
    allowed = Int8Dynamic.name in integers
    found = [_layer(Candidates(model, weight)) if allowed else _UNSUPPORTED for weight in weights]
    layers = [layer for layer in found if isinstance(layer, _Layer)]
    if layers:
        _record(model, layers, calibration)
    return [layer if isinstance(layer, str) else layer.refusal(model) for layer in found]


@dataclass
class _Layer:
    """A layer and what was seen of its input: the range of all, and some rows [rows, inputs]."""

    candidates: Candidates
    readers: Readers
    low: float = 0.0
    high: float = 0.0
    rows: tuple[Array, ...] = ()

    @property
    def source(self) -> str:
        """The name of its input."""
        return self.readers.node.input[0]

    def see(self, x: Array, most: int, rng: np.random.Generator) -> None:
        """Take the range of an input, and up to `most` rows of it."""
        self.low = float(np.minimum(self.low, x.min(initial=0.0)))  # NaN where there is one
        self.high = float(np.maximum(self.high, x.max(initial=0.0)))
        rows = x.reshape(-1, x.shape[-1])
        drawn = rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]
        self.rows += (drawn.copy(),)

    def refusal(self, model: Model) -> str:
        """Why it does not bear rounded activations, or ""."""
        array = self.candidates.array
        coded = Int8Dynamic().code(self.candidates.weight, array, self.readers.transposed)
        if coded is None:
            return _HELD
        if not np.isfinite([self.low, self.high]).all():
            return _INFINITE
        with np.errstate(over="ignore", invalid="ignore"):
            whole, worst = self._errors(array, coded)
        model.payloads.forget_pages()
        if not np.isfinite([whole, worst]).all():
            return _INFINITE
        if whole <= LIMIT and worst <= ROW_LIMIT:
            return ""
        return (
            f"on the data its product would be {100 * whole:.1f} % off, its worst row {100 * worst:.1f} % "
            f"(at most {100 * LIMIT:g} and {100 * ROW_LIMIT:g} %)"
        )

    def _errors(self, array: ChunkedArray, coded: Coded) -> tuple[float, float]:
        """Relative L2 error of the product, as a whole and of its worst row."""
        assert coded.scale is not None
        rows = np.concatenate(self.rows)
        rounded = rounded_to_bytes(rows, self.low, self.high)
        carrier = ChunkedArray.of(coded.carrier)
        size, error = np.zeros(len(rows)), np.zeros(len(rows))
        for start, stop in ranges(0, carrier.shape[1], array.unit_of(carrier.shape[0])):
            own = array.read(start, stop, EVERY).T if self.readers.transposed else array.block(start, stop)
            exact = rows @ own
            ours = (rounded @ carrier.block(start, stop).astype(np.float32)) * coded.scale[start:stop].astype(
                np.float32
            )
            size += np.square(exact, dtype=np.float64).sum(1)
            error += np.square(ours - exact, dtype=np.float64).sum(1)
        live = size > 0
        if not live.any():
            return 0.0, 0.0
        return float(np.sqrt(error.sum() / size.sum())), float(np.sqrt((error[live] / size[live]).max()))


def rounded_to_bytes(x: Array, low: float, high: float) -> Array:
    """What DynamicQuantizeLinear and its scale make of values in a batch that reaches from low to high (0 within)."""
    step = np.float32((high - low) / 255) or np.float32(1)
    zero = np.rint(np.clip(-low / step, 0, 255))
    return (np.clip(np.rint(x / step) + zero, 0, 255) - zero).astype(np.float32) * step


def _layer(candidates: Candidates) -> _Layer | str:
    """The layer that reads a weight, or why it has no product of integers."""
    form, weight = Int8Dynamic(), candidates.weight
    readers = candidates.readers(form)
    if readers is None:
        return _OPSET if candidates.opset < form.opset(fused=True) else _UNREAD
    if readers.others:
        return _UNREAD
    if weight.scope.path or not isinstance(weight.scope.body, GraphProto):
        return _INSIDE
    return _WIDE if weight.shape[int(readers.transposed)] > MAX_INPUTS else _Layer(candidates, readers)


def _record(model: Model, layers: Sequence[_Layer], calibration: CalibrationSet) -> None:
    """Run the model on the samples, and let each layer see its input."""
    read = [Value("", layer.source) for layer in layers]
    for number, pieces, values in recorded(model, read, calibration):
        for layer in layers:
            layer.see(values[layer.source][0], -(-_ROWS // pieces), np.random.default_rng(number))
