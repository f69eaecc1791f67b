"""Masks in jax, flax and optax: pruned weights are exactly zero after every update.

    params = onnxprune.integrations.jax.apply(params, "masks.safetensors")
    optimizer = optax.chain(optax.adamw(1e-3), onnxprune.integrations.jax.masked("masks.safetensors"))

A parameter's name is its path, joined by '.' or '/': `params.Dense_0.kernel` in linen, `linear.kernel` in nnx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from onnxprune.integrations.matching import Masks, match, revived

Tree = Any


class MaskedState(NamedTuple):
    """The masks by the parameter's name: state rather than constants, which jit would compile into the program."""

    masks: dict[str, jax.Array]


def masked(masks: Masks) -> optax.GradientTransformation:
    """A transformation that keeps pruned weights zero; it goes last in a chain, behind momentum and weight decay.

    Args:
        masks: a mask file, or name -> bool array, True where a weight is kept.

    Raises:
        MaskError: from `init`, where a mask does not fit its parameter.
    """

    def init(params: Tree) -> MaskedState:
        return MaskedState(_matched(params, masks))

    def update(updates: Tree, state: MaskedState, params: Tree | None = None) -> tuple[Tree, MaskedState]:
        if params is None:
            raise ValueError("masked needs the parameters: optimizer.update(gradients, state, params)")

        def cut(name: str, step: jax.Array, value: jax.Array) -> jax.Array:
            # Minus itself rather than zero: a pruned weight that was not zero becomes it.
            return jnp.where(state.masks[name], step, -value) if name in state.masks else step

        return _by_name(cut, updates, params), state

    return optax.GradientTransformation(init, update)


def apply(params: Tree, masks: Masks) -> Tree:
    """The parameters with the pruned ones zero, as a new tree.

    Raises:
        MaskError: a mask does not fit its parameter.
    """
    kept = _matched(params, masks)
    return _by_name(lambda name, value: jnp.where(kept[name], value, 0) if name in kept else value, params)


def check(params: Tree, masks: Masks) -> None:
    """Raise WeightError where a pruned weight is not exactly zero."""
    values = _named(params)
    revived({name: int(jnp.count_nonzero(values[name][~mask])) for name, mask in _matched(params, masks).items()})


def _matched(params: Tree, masks: Masks) -> dict[str, jax.Array]:
    shapes = {name: jnp.shape(value) for name, value in _named(params).items()}
    return {name: jnp.asarray(mask) for name, mask in match(masks, shapes).items()}


def _named(params: Tree) -> dict[str, jax.Array]:
    return {_name(path): value for path, value in jax.tree_util.tree_leaves_with_path(params)}


def _by_name(function: Callable[..., jax.Array], *trees: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, *values: function(_name(path), *values), *trees)


def _name(path: tuple[Any, ...]) -> str:
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]  # nnx keeps each array in a variable
    return jax.tree_util.keystr(path, simple=True, separator=".")
