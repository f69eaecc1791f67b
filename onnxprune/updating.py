"""Retrained values for the weights of a model, from a checkpoint or from a re-exported model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.checkpoints import is_real
from onnxprune.dtypes import FLOATS, Array, numpy_dtype
from onnxprune.encodings.graft import loose_weights
from onnxprune.errors import CheckpointError
from onnxprune.links import Link, Shape
from onnxprune.maskheader import Parameter, WeightShape
from onnxprune.model import Model
from onnxprune.structure import align, weights_of
from onnxprune.weights import Weight


class Retrained:
    """The parameters of a checkpoint under any of their names; what does not fit is an error with its name."""

    def __init__(self, arrays: Mapping[str, Array], parameters: Mapping[str, Parameter], where: str) -> None:
        self.arrays = arrays
        self.parameters = parameters
        self.where = where

    def get(self, name: str, shape: Shape) -> Array:
        """A parameter of that shape.

        Raises:
            CheckpointError: it is missing, of another shape or no finite numbers, or names that were one parameter
                hold different values now.
        """
        known = self.parameters.get(name)
        held = [n for n in (name, *(known.aliases if known else ())) if n in self.arrays]
        if not held:
            raise CheckpointError(f"{self.where} lacks the parameter '{name}'")
        array = self.arrays[held[0]]
        other = next((n for n in held[1:] if not np.array_equal(self.arrays[n], array)), None)
        if other is not None:
            raise CheckpointError(f"{self.where}: '{held[0]}' and '{other}' were one parameter and differ now")
        if not is_real(array) or not _finite(array):
            raise CheckpointError(f"{self.where}: '{held[0]}' ({array.dtype}) holds NaN, Inf or no real numbers")
        if array.shape != shape:
            raise CheckpointError(f"{self.where}: '{held[0]}' is {list(array.shape)}, not {list(shape)} as it was")
        return array


def _finite(array: Array) -> bool:
    wide = array if array.dtype.kind == "f" else array.astype(np.float32)  # bfloat16
    return bool(np.isfinite(wide).all())


def from_checkpoint(
    model: Model, parameters: Mapping[str, Parameter], source: list[WeightShape], arrays: Mapping[str, Array],
    where: str, into: str,
) -> dict[str, Array]:  # fmt: skip
    """Weight of the model -> its new values, for every weight that a parameter is linked to.

    `source` are the weights that the links speak of; `where` and `into` name checkpoint and model in errors.

    Raises:
        CheckpointError: a parameter is missing, or does not fit.
        MaskError: the links are to weights that the model does not have.
    """
    retrained = Retrained(arrays, parameters, where)
    linked = {link.weight: None for parameter in parameters.values() for link in parameter.links}
    targets = align(source, weights_of(model), linked, into)
    was = {w.name: w for w in source}
    weights = {w.name: w for w in loose_weights(model)}
    found: dict[str, Array] = {}
    for name, parameter in parameters.items():
        values = retrained.get(name, parameter.shape)
        for link in parameter.links:
            weight = weights[targets[link.weight].name]
            if weight.shape != was[link.weight].shape:
                raise CheckpointError(
                    f"{into}: channels of '{weight.name}' were removed, which changed its neighbours: update the "
                    "model from before and strip it again"
                )
            held = found.setdefault(weight.name, weight.array(model).copy())
            part = link.into.of(held) if link.into else held
            part[...] = _cast(_values(link, values, retrained, weight), weight, where)
    return found


def _values(link: Link, parameter: Array, retrained: Retrained, weight: Weight) -> Array:
    plain = link.to_weight(parameter, weight.shape)
    if link.fold is None:
        return plain
    channels = weight.size if link.fold.axis is None else weight.shape[link.fold.axis]
    norm = {name: retrained.get(name, (channels,)) for name in link.fold.names}
    return link.fold.applied(plain, norm).reshape(plain.shape)


def _cast(values: Array, weight: Weight, where: str) -> Array:
    with np.errstate(over="ignore"):
        cast = values.astype(numpy_dtype(weight.element))
    if not _finite(cast):
        raise CheckpointError(f"{where}: the new values of '{weight.name}' do not fit into {weight.dtype}")
    return cast


def from_model(model: Model, retrained: Model, where: str) -> dict[str, Array]:
    """Weight of the model -> its values in a re-exported model, by name or by the order in which nodes read them.

    Raises:
        MaskError: the models differ in structure.
        CheckpointError: a weight is quantised or holds NaN or Inf.
    """
    own, theirs = ({w.name: w for w in loose_weights(m)} for m in (model, retrained))
    source = list(weights_of(model))
    targets = align(source, weights_of(retrained), [w.name for w in source], where)
    found = {}
    for name, target in targets.items():
        weight, array = own[name], theirs[target.name].array(retrained)
        if weight.element not in FLOATS:
            raise CheckpointError(f"'{name}' is {weight.dtype}: quantise the retrained model anew instead")
        found[name] = _cast(array, weight, where)
    return found
