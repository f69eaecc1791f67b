"""Error feedback without data: what inputs of a layer go together is the layers' doing before it, on any inputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence, Set

import numpy as np

from onnxprune.allocation.synthetic_runs import NUMBERS, Synthesised, repeats, shrink_images, small
from onnxprune.calibration.layers import Layer, layer_of
from onnxprune.calibration.moments import moments
from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.model.scopes import key_of, scopes_of
from onnxprune.model.weight import Weight
from onnxprune.quantization.error_feedback import Feedback
from onnxprune.runtime.input_readers import readers_of
from onnxprune.runtime.synthetic_inputs import CannotSynthesise

_SAMPLES = 16  # of each kind, fewer of images; one where these are not made small
_VECTORS = 512  # of a layer: what goes together is of a few directions
_NUMBERS = 1 << 19  # of a sample of those: an image of 416 pixels
_DAMPING = 0.7  # how far their moments give way to those of independent inputs: the inputs to come are others
_AGREED = 0.4  # squared error that moments of one kind of inputs may leave for the other: else they tell of these alone
_TOGETHER = 256  # inputs that pass errors on to each other: more make the squared error little less, in more time


def synthetic_feedback(model: Model, weights: Sequence[Weight]) -> list[Feedback | None]:
    """How rounding errors are passed on by what the layers read of synthesised inputs, see `Synthesised`.

    None for convolutions of more than one entry a channel, whose errors add up to nothing in each kernel; for layers
    that read the inputs themselves, too many values, unknown ones, or such as differ from kind to kind; and for all
    where the model does not run on such inputs, is large itself, or draws numbers.

    Args:
        model: the model.
        weights: of it.
    """
    nothing: list[Feedback | None] = [None] * len(weights)
    if not small(model) or not repeats(model):
        return nothing
    first = _first(model)
    layers = [_fed(weight, first) for weight in weights]
    if not any(layers):
        return nothing
    for shrunk, samples, most in ((True, _SAMPLES, NUMBERS), (False, 1, _NUMBERS)):
        with contextlib.suppress(CannotSynthesise, RuntimeFailure), model.edited() as proto:
            if shrunk:
                shrink_images(proto)
            found = moments(model, layers, Synthesised(model, samples, most), _VECTORS, _TOGETHER)
            return _feedbacks(layers, found)
    return nothing


def _first(model: Model) -> set[str]:
    """The keys of the nodes that read the model's inputs, directly or prepared."""
    scope = scopes_of(model.proto)[0]
    given = scope.inputs - scope.initializers.keys()
    return {key_of(node) for name in given for _, node, _ in readers_of(scope, name, prepared=True)}


def _fed(weight: Weight, first: Set[str]) -> Layer | None:
    """The layer of a weight whose errors are passed on.

    Args:
        weight: the weight.
        first: see `_first`: what the inputs look like nobody knows.
    """
    layer = layer_of(weight, {})
    if layer is None or layer.in_axes != weight.in_axes or layer.inputs < 2:
        return None
    if not layer.reads_states and any(key_of(node) in first for node in layer.nodes):
        return None
    return layer if math.prod(weight.shape[axis] for axis in weight.in_axes[1:]) == 1 else None


def _feedbacks(layers: Sequence[Layer | None], found: Sequence[Array | None]) -> list[Feedback | None]:
    """The feedback of each layer, one of those that share their moments; None where two kinds do not agree."""
    known: dict[int, Feedback | None] = {}
    for layer, halves in zip(layers, found, strict=True):
        if layer is not None and halves is not None and id(halves) not in known:
            energy = np.trace(halves, axis1=2, axis2=3, dtype=np.float64).mean(1).astype(np.float32)
            kinds = halves / energy[:, None, None, None]  # which count alike
            known[id(halves)] = Feedback.assumed(kinds, _DAMPING, _AGREED, layer.inputs)
    return [known.get(id(halves)) for halves in found]
