"""Whether the features that a matrix reads are the pixels of an image, told from the graph and never guessed."""

from __future__ import annotations

from math import prod

from onnxprune.channels.shapes import Value, inferred, values_of
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.weight import Weight

_IN_PLACE = frozenset({
    "Cast", "Clip", "Dropout", "Elu", "Flatten", "Identity", "LeakyRelu", "Relu", "Reshape", "Selu", "Sigmoid",
    "Squeeze", "Tanh", "Unsqueeze",
})  # fmt: skip
_MIN_SIDE_PIXELS = 8  # pixels of a side: below that there is nothing to see


class Images:
    """The images that matrices of a model read."""

    def __init__(self, model: Model) -> None:
        self._values: dict[str, Value] = values_of(inferred(model).graph)

    def behind(self, weight: Weight) -> tuple[int, int, int] | None:
        """[channels, height, width] of what is flattened in front of the matrix, or None.

        Features keep their order from a value [batch, channels, height, width] on; None also where they come
        from elsewhere, are moved by a Transpose for instance, or where readers of the matrix differ.
        """
        scope = weight.scope
        if len(weight.shape) != 2 or weight.out_axis is None or scope.parent is not None or scope.path:
            return None
        found = set()
        for node, position in scope.readers.get(weight.value, ()):
            if position != 1 or domain(node) or node.op_type not in ("Gemm", "MatMul") or attribute(node, "transA", 0):
                return None
            name = node.input[0]
            while (value := self._values.get(name)) is None or value.shape is None or len(value.shape) != 4:
                maker = scope.producers.get(name)
                if maker is None or domain(maker) or maker.op_type not in _IN_PLACE:
                    return None
                name = maker.input[0]
            found.add(value.shape)
        if len(found) != 1:
            return None
        sizes = [d for d in found.pop()[1:] if isinstance(d, int)]
        if len(sizes) != 3 or prod(sizes) != weight.shape[1 - weight.out_axis] or min(sizes[1:]) < _MIN_SIDE_PIXELS:
            return None
        return sizes[0], sizes[1], sizes[2]
