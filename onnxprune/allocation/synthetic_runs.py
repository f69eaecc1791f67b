"""Runs that nobody asked for: of models that are small, on small synthesised inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxprune.calibration.calibration_set import Calibration
from onnxprune.core.override import override
from onnxprune.model.model import Model
from onnxprune.model.operators import draws
from onnxprune.model.scopes import scopes_of
from onnxprune.runtime.session import Feeds
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

if TYPE_CHECKING:
    import onnxruntime as ort

_IN_MEMORY = 256 << 20  # bytes of a model that is run where nobody asked for it
NUMBERS = 1 << 15  # of a synthesised sample that is run many times: larger ones take longer than the rest of the work
_TOGETHER = 3 << 14  # of all samples of a kind: four images
_SIDE = 64  # entries of an axis of an image that are enough to see how noise spreads and what goes together

Samples = list[Feeds]


def repeats(model: Model) -> bool:
    """Whether a model gives the same each time: what it is changed by would change with what it draws."""
    scopes = (inner for top in scopes_of(model.proto) for inner in top.inner())
    return not any(draws(node) for scope in scopes for node in scope.body.node)


def small(model: Model) -> bool:
    """Whether a model may be run where nobody asked for it."""
    return model.payloads.nbytes <= _IN_MEMORY


def both_kinds(model: Model, session: ort.InferenceSession, samples: int, most: int) -> list[Samples]:
    """Samples of each kind on which the session runs: recognised ones, and random numbers where these differ.

    Args:
        model: the model.
        session: of it, or of what was made of it.
        samples: how many of each at the most; fewer large ones.
        most: numbers of a sample.

    Raises:
        CannotSynthesise: none are found, or the model wants larger ones.
    """
    kinds = [
        synthesise(model, session, samples, realistic=realistic, numbers=_TOGETHER, held=0)
        for realistic in (True, False)
    ]
    if max(sum(array.size for array in kind.feeds[0].values()) for kind in kinds) > most:
        raise CannotSynthesise("the model wants large ones")
    return [kinds[0].feeds] if kinds[0].kinds == kinds[1].kinds else [kind.feeds for kind in kinds]


@dataclass(frozen=True)
class Synthesised(Calibration):
    """`both_kinds`, one after the other: each half of the runs is of one of them.

    Attributes:
        model: the model.
        samples: of each kind.
        most: numbers of a sample.
    """

    model: Model
    samples: int
    most: int

    @override
    def pieces(self, session: ort.InferenceSession) -> tuple[list[Feeds], int]:
        kinds = both_kinds(self.model, session, self.samples, self.most)
        found = [feed for each in zip(*kinds, strict=False) for feed in each]
        return found, len(found)


def shrink_images(proto: ModelProto) -> None:
    """Make the sides of images, four axes, `_SIDE` where they are longer, and free all shapes that follow from them."""
    given = {tensor.name for tensor in proto.graph.initializer}
    long = [
        dim
        for value in proto.graph.input
        if value.name not in given and len(value.type.tensor_type.shape.dim) == 4
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_value > _SIDE
    ]
    for dim in long:
        dim.dim_value = _SIDE
    if long:
        del proto.graph.value_info[:]
        for value in proto.graph.output:
            value.type.tensor_type.ClearField("shape")
