"""Retrained values for the weights of a model, from a checkpoint or from a re-exported model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxprune.core.dtypes import FLOATS, Array, numpy_dtype
from onnxprune.errors import CheckpointError
from onnxprune.masks.alignment import align, weights_of
from onnxprune.masks.checkpoints import is_real
from onnxprune.masks.header import WeightShape
from onnxprune.masks.matching.link import Link, Parameter, Shape
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Weight


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
    model: Model, parameters: Mapping[str, Parameter], source: Sequence[WeightShape], arrays: Mapping[str, Array],
    where: str, into: str,
) -> Iterator[tuple[str, Array]]:  # fmt: skip
    """(weight of the model, its new values) for every weight that a parameter is linked to, one at a time.

    Args:
        model: the model.
        parameters: by name, with their links.
        source: the weights that the links speak of.
        arrays: the retrained parameters by name.
        where: the checkpoint, for errors.
        into: the model, for errors.

    Raises:
        CheckpointError: a parameter is missing, or does not fit.
        MaskError: the links are to weights that the model does not have.
    """
    retrained = Retrained(arrays, parameters, where)
    links: dict[str, list[tuple[str, Link]]] = defaultdict(list)
    for name, parameter in parameters.items():
        for link in parameter.links:
            links[link.weight].append((name, link))
    targets = align(source, weights_of(model), links, into)
    was = {w.name: w for w in source}
    weights = {w.name: w for w in find(model)}
    for old, entries in links.items():
        weight = weights[targets[old].name]
        if weight.shape != was[old].shape:
            raise CheckpointError(
                f"{into}: channels of '{weight.name}' were removed, which changed its neighbours: update the model "
                "from before and strip it again"
            )
        held = weight.array(model).copy()
        for name, link in entries:
            values = _values(link, retrained.get(name, parameters[name].shape), retrained, weight)
            (link.into.of(held) if link.into else held)[...] = _cast(values, weight, where)
        yield weight.name, held


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


def from_model(model: Model, retrained: Model, where: str) -> Iterator[tuple[str, Array]]:
    """(weight of the model, its values in a re-exported model), by name or by the order in which nodes read them.

    Raises:
        MaskError: the models differ in structure.
        CheckpointError: a weight is quantised or holds NaN or Inf.
    """
    own, theirs = ({w.name: w for w in find(m)} for m in (model, retrained))
    source = weights_of(model)
    for name, target in align(source, weights_of(retrained), [w.name for w in source], where).items():
        weight = own[name]
        if weight.element not in FLOATS:
            raise CheckpointError(f"'{name}' is {weight.dtype}: quantise the retrained model anew instead")
        yield name, _cast(theirs[target.name].array(retrained), weight, where)
        retrained.payloads.forget_pages()
