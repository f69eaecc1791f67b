"""Masks kept by optax, on plain trees and on flax modules."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.errors import MaskError, WeightError

jax = pytest.importorskip("jax", reason="needs the jax extra")
optax = pytest.importorskip("optax", reason="needs the jax extra")
flax = pytest.importorskip("flax", reason="needs the jax extra")
pytestmark = pytest.mark.jax

import jax.numpy as jnp  # noqa: E402
from flax import linen, nnx  # noqa: E402

from onnxprune.integrations import jax as masks_in_jax  # noqa: E402

OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-2),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "sgd": lambda: optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(1e-2, momentum=0.9)),
}


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.relu(linen.Dense(8)(x))
        return linen.Dense(3)(x)


class Nnx(nnx.Module):
    def __init__(self) -> None:
        self.first = nnx.Linear(12, 8, rngs=nnx.Rngs(0))
        self.second = nnx.Linear(8, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nnx.relu(self.first(x)))


def mask(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape) < 0.4


def linen_masks(separator: str = ".") -> dict[str, np.ndarray]:
    return {
        separator.join(("params", "Dense_0", "kernel")): mask(12, 8),
        separator.join(("params", "Dense_1", "kernel")): mask(8, 3),
    }


def batch() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (16, 12))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
def test_pruned_weights_stay_zero_and_the_others_move(make, separator: str, applied: bool) -> None:
    net, masks = Linen(), linen_masks(separator)
    params = net.init(jax.random.key(0), batch())
    if applied:
        params = masks_in_jax.apply(params, masks)
        masks_in_jax.check(params, masks)
    optimizer = optax.chain(make(), masks_in_jax.masked(masks))
    state, before = optimizer.init(params), params

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: jnp.square(net.apply(p, batch())).mean())(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
        masks_in_jax.check(params, masks)
    for layer, kept in zip(("Dense_0", "Dense_1"), masks.values(), strict=True):
        after, old = params["params"][layer], before["params"][layer]
        assert not np.asarray(after["kernel"])[~kept].any()
        assert (after["kernel"] != old["kernel"])[kept].mean() > 0.5
        assert (after["bias"] != old["bias"]).any()


def test_without_the_transformation_pruned_weights_come_back() -> None:
    net, masks = Linen(), linen_masks()
    params = masks_in_jax.apply(net.init(jax.random.key(0), batch()), masks)
    optimizer = optax.adam(1e-2)
    gradients = jax.grad(lambda p: jnp.square(net.apply(p, batch())).mean())(params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    with pytest.raises(WeightError, match=r"not zero any more: 'params.Dense_0.kernel' \(\d+\)"):
        masks_in_jax.check(optax.apply_updates(params, updates), masks)


def test_nnx_modules_are_named_by_their_attributes() -> None:
    net, masks = Nnx(), {"first.kernel": mask(12, 8), "second.kernel": mask(8, 3)}
    nnx.update(net, masks_in_jax.apply(nnx.state(net, nnx.Param), masks))
    optimizer = nnx.Optimizer(net, optax.chain(optax.adam(1e-2), masks_in_jax.masked(masks)), wrt=nnx.Param)
    for _ in range(3):
        optimizer.update(net, nnx.grad(lambda n: jnp.square(n(batch())).mean())(net))
    masks_in_jax.check(nnx.state(net, nnx.Param), masks)
    assert np.asarray(net.first.kernel[...])[masks["first.kernel"]].all()


def test_masks_that_do_not_fit_are_refused_by_name() -> None:
    params = Linen().init(jax.random.key(0), batch())
    with pytest.raises(MaskError, match=r"no parameter is called 'Dense_0/kernel': the model has params.Dense_0.bias"):
        masks_in_jax.apply(params, {"Dense_0/kernel": mask(12, 8)})
    with pytest.raises(MaskError, match=r"shape \(8, 12\), the parameter \(12, 8\)"):
        masks_in_jax.masked({"params.Dense_0.kernel": mask(8, 12)}).init(params)
    with pytest.raises(ValueError, match="masked needs the parameters"):
        masks_in_jax.masked(linen_masks()).update(params, masks_in_jax.MaskedState({}))
