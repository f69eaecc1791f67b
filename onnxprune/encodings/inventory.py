"""Facts about every weight of a model, encoded ones included, before and after passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from onnxprune.core.chunked import RowRange
from onnxprune.core.dtypes import Array, name_of
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.pipeline.change import Change, Encoded


@dataclass
class WeightFacts:
    """A weight before and after; `zeros` counts what was pruned or is 0 in the shape before, cut out or not."""

    name: str
    shape: list[int]
    dtype: str
    kind: str
    total: int
    zeros: int
    requested: float | None
    encoding: str
    bytes_before: int
    bytes_after: int
    shape_after: list[int]


def inspect_model(model: Model, known: Mapping[str, Encoded] | None = None) -> list[WeightFacts]:
    """Every weight-like constant, encoded ones included.

    Args:
        model: the model.
        known: encoded weights that need not be decoded to be counted.
    """
    found = []
    for weight in find(model):
        encoding, size = "coo" if weight.store == "sparse" else "dense", weight.nbytes(model)
        found.append(
            WeightFacts(weight.name, list(weight.shape), weight.dtype, weight.kind, weight.size,
                        weight.zeros(weight.chunked(model)), None, encoding, size, size, list(weight.shape))
        )  # fmt: skip
    for group in encoded_weights(model):
        size = group.nbytes(model)
        stored = group.encoding if group.values == "exact" else f"{group.encoding} {group.stored_as}"
        held = (known or {}).get(group.name)
        if held is None:
            array, zero = group.chunked(model), group.zero(model)
            held = Encoded(array.shape, sum(array.each(partial(_equal, zero))))
        found.append(
            WeightFacts(group.name, list(held.shape), name_of(group.element), "encoded", prod(held.shape), held.zeros,
                        None, stored, size, size, list(held.shape))
        )  # fmt: skip
    return found


def _equal(value: Array, rows: RowRange, part: Array) -> int:
    """How many entries of a chunk are a value."""
    return int((part == value).sum())


def weight_facts(
    before: dict[str, WeightFacts], model: Model, changes: Sequence[Change]
) -> tuple[list[WeightFacts], dict[str, int], dict[str, int]]:
    """Facts about the weights that passes set or stored anew, and the parameters of the whole model.

    Args:
        before: name -> facts about each weight of the original.
        model: the result.
        changes: what each pass did, in order; the last to set a weight says what was requested.

    Returns:
        The weights in the order of the original; the parameters `before`, `after` and `nonzero`; the bytes that each
        weight of the result takes, by name.
    """
    valued = {name: record for change in changes for name, record in change.weights.items() if record.valued}
    counted = {
        name: record.zeros for change in changes for name, record in change.weights.items() if record.zeros is not None
    }
    known = {name: fact for change in changes for name, fact in change.encoded.items()}
    after = {w.name: w for w in inspect_model(model, known)}
    weights = []
    for name, fact in before.items():
        now = after.get(name) or _removed(fact)
        if name in valued or now.encoding != fact.encoding or now.bytes_after != fact.bytes_before:
            weights.append(
                dataclasses.replace(
                    fact, zeros=counted.get(name, fact.total - now.total + now.zeros),
                    requested=valued[name].requested if name in valued else None,
                    encoding=now.encoding, bytes_after=now.bytes_after, shape_after=now.shape,
                )
            )  # fmt: skip
    total = sum(f.total for f in before.values())
    left = sum(f.total for f in after.values())
    parameters = {"before": total, "after": left, "nonzero": left - sum(f.zeros for f in after.values())}
    return weights, parameters, {name: fact.bytes_after for name, fact in after.items()}


def _removed(fact: WeightFacts) -> WeightFacts:
    """A weight that nothing needs any more."""
    return dataclasses.replace(fact, shape=[0] * len(fact.shape), total=0, zeros=0, encoding="removed", bytes_after=0)
