"""The weights of a model in the order in which its nodes read them, and two models aligned by it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnxprune.errors import MaskError
from onnxprune.masks.header import WeightShape
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of


def weights_of(model: Model) -> tuple[WeightShape, ...]:
    """Every weight, those first that are read first: the one order that a re-export keeps."""
    order: dict[str, int] = {}
    for scope in (inner for top in scopes_of(model.proto) for inner in top.inner()):
        for name in (n for node in scope.body.node for n in node.input):
            owner = scope.owner(name)
            if owner is not None:
                order.setdefault(owner.path + name, len(order))
    weights = sorted(find(model), key=lambda w: order.get(w.name, len(order)))
    return tuple(WeightShape(w.name, w.kind, w.shape) for w in weights)


def align(
    source: Sequence[WeightShape], target: Sequence[WeightShape], wanted: Collection[str], what: str
) -> dict[str, WeightShape]:
    """The wanted weights of the source -> those of the target: of the same names, else at the same places.

    At the same places means that both models read weights of the same kinds and shapes in the same order, as far as
    they are of a kind that is wanted.

    Args:
        source: weights of the model that the names are of.
        target: weights of the other model.
        wanted: names of weights of the source.
        what: the other model, for errors.

    Raises:
        MaskError: neither; with the first weight that does not fit.
    """
    own, theirs = {w.name: w for w in source}, {w.name: w for w in target}
    missing = next((name for name in wanted if name not in theirs), None)
    if missing is None:
        for name in wanted:
            if theirs[name].shape not in (own[name].shape, own[name].left):
                raise MaskError(
                    f"{what}: weight '{name}' is {list(theirs[name].shape)}, not {list(own[name].shape)} as it was"
                )
        return {name: theirs[name] for name in wanted}
    kinds = {own[name].kind for name in wanted}
    ours, others = ([w for w in weights if w.kind in kinds] for weights in (source, target))
    if len(ours) != len(others):
        raise MaskError(
            f"{what}: there is no weight '{missing}', and {len(others)} weights that could be it and its like "
            f"instead of {len(ours)}"
        )
    for a, b in zip(ours, others, strict=True):
        if a.kind != b.kind or b.shape not in (a.shape, a.left):
            raise MaskError(
                f"{what}: there is no weight '{missing}', and where '{a.name}' ({a.kind} {list(a.shape)}) was read "
                f"it reads '{b.name}' ({b.kind} {list(b.shape)})"
            )
    return {a.name: b for a, b in zip(ours, others, strict=True) if a.name in wanted}
