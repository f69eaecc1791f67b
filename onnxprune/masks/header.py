"""The header of a mask file: what its parts are, from JSON and to JSON. docs/formats/masks.md explains them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.masks.matching.link import Array, Fold, Link, Parameter, Pruning, Shape, Span


@dataclass(frozen=True)
class WeightShape:
    """An ONNX weight of the source model; `removed` are the indices that left each axis since."""

    name: str
    kind: str
    shape: Shape
    removed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def left(self) -> Shape:
        """The shape without what was removed."""
        return tuple(n - len(self.removed.get(axis, ())) for axis, n in enumerate(self.shape))

    def cut(self, array: Array) -> Array:
        """An array of the whole shape without what was removed."""
        for axis, indices in self.removed.items():
            array = np.delete(array, indices, axis)
        return array


# From JSON and to JSON: what is not as it must be is a KeyError, ValueError or TypeError, and the reader says of what.


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no whole number from 0 up")
    return value


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list")
    return tuple(map(_number, values))


def table(value: Any) -> dict[str, Any]:
    """The value, which must be a table."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no table")
    return value


def text(value: Any) -> str:
    """The value, which must be text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


def _optional(read: Any, value: Any) -> Any:
    return None if value is None else read(value)


def weight_from_json(facts: Any) -> WeightShape:
    """An entry of `weights`."""
    shape = _numbers(facts["shape"])
    removed = {int(axis): _numbers(indices) for axis, indices in table(facts["removed"]).items()}
    for axis, indices in removed.items():
        inside = 0 <= axis < len(shape) and max(indices, default=0) < shape[axis]
        if not inside or list(indices) != sorted(set(indices)):
            raise ValueError(f"it has no such indices along axis {axis} as were removed")
    return WeightShape(text(facts["name"]), text(facts["kind"]), shape, removed)


def weight_to_json(weight: WeightShape) -> dict[str, Any]:
    """An entry of `weights`."""
    removed = {str(axis): list(indices) for axis, indices in weight.removed.items()}
    return {"name": weight.name, "kind": weight.kind, "shape": list(weight.shape), "removed": removed}


def parameter_from_json(facts: Any) -> Parameter:
    """An entry of `parameters`, but for the numbers that the mask itself tells."""
    mask = table(facts).get("mask")
    pruning = None
    if mask is not None:
        pruning = Pruning(*(_optional(read, mask[key]) for key, read in _PRUNING.items()))
    links, aliases = tuple(map(_link_from_json, facts["links"])), tuple(map(text, facts["aliases"]))
    return Parameter(_numbers(facts["shape"]), links, aliases, pruning)


def parameter_to_json(parameter: Parameter, density: float | None) -> dict[str, Any]:
    """An entry of `parameters`; the density is that of its mask, where it has one."""
    facts: dict[str, Any] = {
        "shape": list(parameter.shape),
        "aliases": list(parameter.aliases),
        "links": [_link_to_json(link) for link in parameter.links],
    }
    if parameter.pruning is not None and density is not None:
        facts["mask"] = {"density": density, "reached": 1 - density, **vars(parameter.pruning)}
    return facts


_PRUNING = {"rule": text, "requested": _real, "threshold": _real}


def _link_from_json(facts: Any) -> Link:
    of, into = (_optional(lambda span: Span(*_numbers(span)), facts.get(key)) for key in ("of", "into"))
    fold = _optional(_fold_from_json, facts.get("fold"))
    order = _numbers(facts.get("order", []))
    return Link(text(facts["weight"]), of, into, _optional(_numbers, facts.get("view")), order, fold)


def _link_to_json(link: Link) -> dict[str, Any]:
    """Only what is not the default: most links are the identity."""
    spans = {"of": link.of, "into": link.into}
    facts: dict[str, Any] = {key: [s.axis, s.start, s.stop] for key, s in spans.items() if s is not None}
    facts |= {"view": list(link.view)} if link.view is not None else {}
    facts |= {"order": list(link.order)} if link.order else {}
    facts |= {"fold": {k: v for k, v in vars(link.fold).items() if v is not None}} if link.fold else {}
    return {"weight": link.weight, **facts}


def _fold_from_json(facts: Any) -> Fold:
    names = {key: _optional(text, facts.get(key)) for key in ("gamma", "beta", "bias")}
    axis = _optional(_number, facts.get("axis"))
    return Fold(text(facts["variance"]), text(facts["mean"]), _real(facts["epsilon"]), axis=axis, **names)
