"""Second moments of what layers read, measured by running the model on data: the inputs' part of each output's error.

A layer computes W x; an error E in W puts E H E^T into the squared error of its outputs, where H = mean of x x^T
(Hassibi and Stork 1993). A convolution's inputs are its patches, those of a recurrent layer all its steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.calibration.calibration_set import Calibration
from onnxprune.calibration.layers import Layer
from onnxprune.calibration.recording import Recorded, recorded, together
from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.quantization.error_feedback import in_blocks

BEYOND = np.errstate(over="ignore", invalid="ignore")  # float32: there are no moments then
_ROWS, _TIMES = 4096, 2  # vectors of a layer that are measured: so many, or that many times its inputs


def moments(
    model: Model, layers: Sequence[Layer | None], calibration: Calibration, most: int | None = None,
    widest: int | None = None,
) -> list[Array | None]:  # fmt: skip
    """For each layer the mean of x x^T over the vectors x that it multiplies with: float32 [2, groups, in, in].

    The first axis is the two halves of the samples (of the places of a single run), `in` runs over the layer's input
    axes in their order. Layers that read the same share one array. None where the samples say nothing: no layer, a
    branch that they do not take, inputs that are all 0 or beyond float32, values of a loop that change their shape.

    Args:
        model: the model.
        layers: of the model.
        calibration: the samples.
        most: vectors of a layer that are measured; None: `_ROWS`, or `_TIMES` its inputs.
        widest: block of inputs that are multiplied with each other, see `in_blocks`; None: all are.

    Raises:
        DataError: the samples do not fit the model.
        RuntimeFailure: the model does not run.
    """
    try:
        return _moments(model, layers, calibration, most, widest)
    except RuntimeFailure:
        outside = [layer if layer is not None and layer.in_main_graph else None for layer in layers]
        if outside == list(layers):
            raise
        return _moments(model, outside, calibration, most, widest)


def _moments(
    model: Model, layers: Sequence[Layer | None], calibration: Calibration, most: int | None, widest: int | None
) -> list[Array | None]:
    known = {layer.key: layer for layer in layers if layer is not None}  # those of one key read the same vectors
    values = [value for layer in known.values() for use in layer.uses for value in layer.reads(use)]
    sums: dict[str, _Sum] = {}
    if values:
        for number, pieces, found in recorded(model, values, calibration):
            if not number:
                sums = {key: _Sum(layer, pieces, most, widest) for key, layer in known.items()}
            for total in sums.values():
                total.add(found, number)
    means: dict[str, Array | None] = {key: sums.pop(key).mean() for key in list(sums)}
    return [None if layer is None else means.get(layer.key) for layer in layers]


class _Sum:
    """The sum of x x^T of one layer's inputs."""

    def __init__(self, layer: Layer, pieces: int, most: int | None, widest: int | None) -> None:
        self._layer = layer
        blocks = 1 if widest is None else -(-layer.inputs // widest)
        self._size = -(-layer.inputs // blocks)
        self._sum = np.zeros((2, layer.groups * blocks, self._size, self._size), np.float32)
        self._waiting: tuple[list[Array], list[Array]] = [], []
        self._count = np.zeros(2)
        self._single = pieces == 1
        wanted = max(_ROWS, _TIMES * layer.inputs) if most is None else most
        self._most = -(-wanted // (pieces * len(layer.uses)))

    @BEYOND
    def add(self, values: Recorded, number: int) -> None:
        """Measure the inputs of one run."""
        for use in self._layer.uses:
            times = list(together(values, [value.key for value in self._layer.reads(use)]))
            for each in times:
                self._add(self._layer.vectors(each, use, -(-self._most // len(times)), number), number)

    def _add(self, rows: Array, number: int) -> None:
        for half, part in enumerate((rows[:, ::2], rows[:, 1::2])) if self._single else ((number % 2, rows),):
            self._count[half] += part.shape[1]
            self._waiting[half].append(part.copy())  # what it is taken from is larger
            if sum(each.shape[1] for each in self._waiting[half]) >= self._size // 2:
                self._multiply(half)

    @BEYOND
    def _multiply(self, half: int) -> None:
        """Many vectors at once, which read the sum once."""
        # In float64, so that another number of threads changes no bit of most sums.
        rows = in_blocks(np.concatenate(self._waiting[half], axis=1, dtype=np.float64), self._size)
        self._waiting[half].clear()
        self._sum[half] += rows.transpose(0, 2, 1) @ rows

    def mean(self) -> Array | None:
        """The moments; None where inputs are all 0 or beyond float32, or a single one."""
        for half, waiting in enumerate(self._waiting):
            if waiting:
                self._multiply(half)
        if not self._count.all():
            return None
        self._sum /= self._count.reshape(2, 1, 1, 1).astype(np.float32)
        return self._sum if np.isfinite(self._sum).all() and self._sum.any(axis=(1, 2, 3)).all() else None
