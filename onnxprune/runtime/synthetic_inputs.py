"""Make inputs for a model from what its graph says about them: sizes, index ranges, masks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import onnxruntime as ort
from onnx import NodeProto

from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute
from onnxprune.model.scopes import Scope, scopes_of
from onnxprune.runtime.session import Feeds, Input, inputs_of, run

# Tried in this order for dimensions that are free: multiples of 32 suit most networks, and 512 and
# 576 the windows of audio models.
_SIZES = (64, 224, 16, 512, 128, 32, 320, 576, 8, 256, 3, 2, 1)
SAMPLES = 8  # unless more or fewer are asked for
_PASSED = frozenset({"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Slice", "Expand"})
_HOPS = 12


class CannotSynthesise(Exception):
    """No inputs were found on which the model runs; the message says what was in the way."""


def synthesise(model: Model, session: ort.InferenceSession, samples: int) -> list[Feeds]:
    """`samples` sets of inputs on which the session runs, the same ones each time.

    Raises:
        CannotSynthesise: no combination of sizes and ranges that was tried runs.
    """
    inputs = inputs_of(session)
    for item in inputs:
        if item.dtype is None:
            raise CannotSynthesise(f"input '{item.name}' is {item.type}")
    scope = scopes_of(model.proto)[0]
    limits = {i.name: _limit(model, scope, i.name) for i in inputs if np.issubdtype(i.dtype, np.integer)}
    free = any(not isinstance(d, int) for i in inputs for d in i.shape)
    problem = ""
    sizes = _SIZES if free else _SIZES[:1]
    for ranges, last_only, size in product(
        (limits, {}) if limits else ({},), (False, True) if free else (False,), sizes
    ):
        shapes = {i.name: _shape(i, size, last_only) for i in inputs}
        made = [_feeds(inputs, shapes, ranges, seed) for seed in range(samples)]
        try:
            run(session, made[0])
        except RuntimeFailure as error:
            problem = str(error)
        else:
            return made
    raise CannotSynthesise(problem)


def _feeds(inputs: list[Input], shapes: dict[str, tuple[int, ...]], limits: dict[str, Array], seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    return {item.name: _values(rng, item, shapes[item.name], limits.get(item.name)) for item in inputs}


def _shape(item: Input, size: int, last_only: bool) -> tuple[int, ...]:
    """A free first dimension, or one called batch, is 1; other free ones (or only the last) are `size`."""

    def dimension(axis: int, given: int | str | None) -> int:
        if isinstance(given, int):
            return given
        batch = "batch" in str(given).lower() or str(given) == "N" or (axis == 0 and len(item.shape) > 1)
        return 1 if batch or (last_only and axis < len(item.shape) - 1) else size

    return tuple(dimension(axis, given) for axis, given in enumerate(item.shape))


def _values(rng: np.random.Generator, item: Input, shape: tuple[int, ...], allowed: Array | None) -> Array:
    if item.dtype == np.bool_ or "mask" in item.name.lower():
        return np.ones(shape, item.dtype)
    if np.issubdtype(item.dtype, np.floating):
        return rng.standard_normal(shape).astype(item.dtype)
    return rng.choice(allowed if allowed is not None else np.array([0, 1]), shape).astype(item.dtype)


def _limit(model: Model, scope: Scope, name: str) -> Array:
    """The whole numbers that an input may hold, judged by the operators that read it."""
    rows = 2
    for inner, node, position in _readers(scope, name, _HOPS):
        if node.op_type == "Gather" and position == 1:
            shape = _table_shape(inner, node.input[0])
            axis = attribute(node, "axis", 0)
            if shape and -len(shape) <= axis < len(shape):
                return np.arange(shape[axis])
        if node.op_type == "OneHot" and position == 0:
            depth = inner.constant(node.input[1])
            if depth is not None:
                rows = max(rows, int(model.array(depth).reshape(-1)[0]))
        if node.op_type == "Equal":
            other = inner.constant(node.input[1 - position])
            if other is not None and model.array(other).size == 1:
                return model.array(other).reshape(-1)
    return np.arange(rows)


def _readers(scope: Scope, name: str, hops: int) -> Iterator[tuple[Scope, NodeProto, int]]:
    for inner in scope.inner():
        for node, position in inner.readers.get(name, ()):
            yield inner, node, position
            if node.op_type in _PASSED and position == 0 and hops:
                yield from _readers(inner, node.output[0], hops - 1)


def _table_shape(scope: Scope, name: str) -> tuple[int, ...]:
    """Shape of the constant behind `name`, through operators that keep its first axis."""
    for _ in range(_HOPS):
        tensor = scope.constant(name)
        if tensor is not None:
            return tuple(tensor.dims)
        owner = scope.owner(name)
        node = owner.producers.get(name) if owner is not None else None
        if node is None or not node.input or node.op_type not in ("Cast", "Identity", "DequantizeLinear"):
            return ()
        name = node.input[0]
    return ()
