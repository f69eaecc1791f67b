"""Second moments of what layers read, measured by running the model on data: the inputs' part of each output's error.

A layer computes W x; an error E in W puts E H E^T into the squared error of its outputs, where H = mean of x x^T
(Hassibi and Stork 1993). The layers' inputs become outputs of one session; a convolution's inputs are its patches.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

from onnxprune.core.dtypes import Array
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import Scope
from onnxprune.model.weight import Weight
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.session import Feeds, inputs_of, open_session, run

WIDEST = 4096  # inputs of a layer up to which the moments (their square) are held
_ROWS, _TIMES = 4096, 2  # vectors of a layer that are measured: so many, or that many times its inputs
_MEASURED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_AT_A_TIME = 8  # samples of a run, whose activations are held together


def moments(
    model: Model, weights: Sequence[Weight], source: Path, samples: int, half: int | None = None
) -> list[Array | None]:
    """For each weight the mean of x x^T over the vectors x that it is multiplied with: float32 [2, groups, in, in].

    The first axis is the two halves of the samples (of the places of a single run), `in` runs over the weight's input
    axes in their order. None where the readers are not known as a Conv, Gemm or MatMul of the main graph, or read more
    than `WIDEST` inputs.

    Args:
        model: the model.
        weights: of the model.
        source: inputs, see `sample_files.load`.
        samples: at most so many of them.
        half: 0 or 1 for these of a half only.

    Raises:
        DataError: the inputs do not fit the model.
        RuntimeFailure: the model does not run.
    """
    layers = [reading_layers(weight) for weight in weights]
    names = sorted({node.input[0] for found in layers for node in found})
    if not names:
        return [None] * len(weights)
    sums: list[_Sum | None] = []
    for number, pieces, values in recorded(model, names, source, samples, half):
        if not number:
            sums = [
                _Sum(weight, found, pieces) if found else None for weight, found in zip(weights, layers, strict=True)
            ]
        for total in sums:
            if total is not None:
                total.add(values, number)
    return [None if total is None else total.mean() for total in sums]


def recorded(
    model: Model, names: Sequence[str], source: Path, samples: int, half: int | None
) -> Iterator[tuple[int, int, Feeds]]:
    """Run the model on samples, a few at a time: the number of a run, how many there are, and values by name.

    Args:
        model: the model.
        names: of values of the main graph, which come beside the inputs.
        source: see `moments`, as the rest and the errors.
        samples: at most so many of them.
        half: 0 or 1 for these of a half only.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        _write_exposed(model, names, path)
        session = open_session(path)
        inputs = inputs_of(session)
        feeds, _ = sample_files.load(source, inputs, samples, half)
        pieces = [piece for feed in feeds for piece in sample_files.pieces(inputs, feed, _AT_A_TIME)]
        for number, piece in enumerate(pieces):
            yield number, len(pieces), {**piece, **run(session, piece)}


def reading_layers(weight: Weight) -> list[NodeProto]:
    """The nodes that read the weight, where all are layers whose inputs can be measured; see `moments`."""
    main = not weight.scope.path and isinstance(weight.scope.body, GraphProto)
    if not main or weight.element not in _MEASURED or not weight.in_axes or not weight.size:
        return []
    readers = list(_reading(weight.scope, weight.value))
    inside = any(weight.value in scope.readers for scope in weight.scope.inner() if scope is not weight.scope)
    alike = len({(node.op_type, attribute(node, "group", 1)) for node, _ in readers}) == 1
    if inside or not alike or not all(_measurable(weight, node, position) for node, position in readers):
        return []
    return [node for node, _ in readers]


def _reading(scope: Scope, value: str) -> Iterator[tuple[NodeProto, int]]:
    """The nodes that read a value, behind nodes that round it."""
    for node, position in scope.readers.get(value, ()):
        if position == 0 and node.op_type in ("QuantizeLinear", "DequantizeLinear") and not domain(node):
            yield from _reading(scope, node.output[0])
        else:
            yield node, position


def _measurable(weight: Weight, node: NodeProto, position: int) -> bool:
    width = math.prod(weight.shape[axis] for axis in weight.in_axes)
    if domain(node) or position != 1 or node.input[0] == node.input[1] or width > WIDEST:
        return False
    if node.op_type == "Conv":
        return len(weight.in_axes) == len(weight.shape) - 1
    return len(weight.shape) == 2 and (
        node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transA", 0))
    )


def _write_exposed(model: Model, names: Sequence[str], path: Path) -> None:
    """Write the model with values as outputs of the main graph."""
    with model.edited() as proto:
        graph = proto.graph
        held = {value.name for value in (*graph.output, *graph.input)}
        graph.output.extend(ValueInfoProto(name=name) for name in names if name not in held)
        model.write(path)


class _Sum:
    """The sum of x x^T of one weight's inputs."""

    def __init__(self, weight: Weight, nodes: Sequence[NodeProto], pieces: int) -> None:
        self._nodes, self._weight = nodes, weight
        width = math.prod(weight.shape[axis] for axis in weight.in_axes)
        groups = int(attribute(nodes[0], "group", 1))  # MatMul and Gemm have no such attribute
        self._sum = np.zeros((2, groups, width, width), np.float32)
        self._count = np.zeros(2)
        self._single = pieces == 1
        self._most = -(-max(_ROWS, _TIMES * width) // (pieces * len(nodes)))

    def add(self, values: Feeds, number: int) -> None:
        """Measure the inputs of one run."""
        rng = np.random.default_rng(number)
        for node in self._nodes:
            rows = vectors(values[node.input[0]], node, self._weight.shape, self._most, rng)
            for half, part in enumerate((rows[:, ::2], rows[:, 1::2])) if self._single else ((number % 2, rows),):
                wide = part.astype(np.float64)  # so that another number of threads changes no bit of most sums
                with np.errstate(over="ignore", invalid="ignore"):  # `mean` gives nothing then
                    self._sum[half] += wide.transpose(0, 2, 1) @ wide
                self._count[half] += part.shape[1]

    def mean(self) -> Array | None:
        """The moments; None where inputs are all 0 or beyond float32, or a single one."""
        if not self._count.all():
            return None
        found = self._sum / self._count.reshape(2, 1, 1, 1).astype(np.float32)
        return found if np.isfinite(found).all() and found.any(axis=(1, 2, 3)).all() else None


def vectors(x: Array, node: NodeProto, shape: Sequence[int], most: int, rng: np.random.Generator) -> Array:
    """What a layer multiplies its weight with, up to `most` vectors drawn: float32 [groups, vectors, inputs].

    Args:
        x: its input.
        node: the Conv, Gemm or MatMul.
        shape: of its weight.
        most: vectors, over all samples.
        rng: draws them.
    """
    if node.op_type == "Conv":
        rows = patches(x, node, shape, most, rng)
    else:
        rows = x.reshape(1, -1, x.shape[-1])
        if rows.shape[1] > most:
            rows = rows[:, rng.choice(rows.shape[1], most, replace=False)]
    return rows.astype(np.float32, copy=False)


def patches(x: Array, node: NodeProto, shape: Sequence[int], most: int, rng: np.random.Generator) -> Array:
    """What a convolution multiplies its weight with at up to `most` places drawn: [groups, places, in * kernel].

    Args:
        x: its input [N, channels, ...].
        node: the Conv.
        shape: of its weight.
        most: places, over all samples.
        rng: draws them.
    """
    kernel, rank = shape[2:], len(shape) - 2
    strides = attribute(node, "strides", None) or [1] * rank
    dilations = attribute(node, "dilations", None) or [1] * rank
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], strides, reach)
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    out = [(size - r) // s + 1 for size, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    places = len(x) * math.prod(out)
    drawn = np.arange(places) if places <= most else np.sort(rng.choice(places, most, replace=False))
    sample, *at = np.unravel_index(drawn, (len(x), *out))
    index: list[Array] = []
    for axis in range(rank):
        offsets = (dilations[axis] * np.arange(kernel[axis])).reshape([-1 if a == axis else 1 for a in range(rank)])
        index.append((at[axis] * strides[axis]).reshape(-1, *[1] * rank) + offsets)
    taken = x.transpose(0, *range(2, rank + 2), 1)[
        (sample.reshape(-1, *[1] * rank), *index)
    ]  # [places, kernel, channels]
    groups = int(attribute(node, "group", 1))
    taken = np.moveaxis(taken, -1, 1).reshape(len(drawn), groups, -1)
    return np.ascontiguousarray(taken.transpose(1, 0, 2))


def _pads(node: NodeProto, size: Sequence[int], strides: Sequence[int], reach: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis."""
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    rank = len(size)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, strides, reach, strict=True)]
        halves = [(t // 2, t - t // 2) for t in totals]
        return halves if auto == "SAME_UPPER" else [(b, a) for a, b in halves]
    given = attribute(node, "pads", None)
    if auto == "VALID" or not given:
        return [(0, 0)] * rank
    return list(zip(given[:rank], given[rank:], strict=True))
