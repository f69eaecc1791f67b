"""Masks kept by Keras while it fits."""

from __future__ import annotations

import os

import numpy as np
import pytest

from onnxprune.errors import MaskError, WeightError

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs the keras extra")
pytestmark = pytest.mark.keras

from onnxprune.integrations.keras import KeepMasks  # noqa: E402

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, weight_decay=1e-2),
}
MASKS = {f"net/{layer}/kernel": np.random.default_rng(0).random((12, 12)) < 0.4 for layer in ("first", "second")}


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(12, activation="relu", name="first"), keras.layers.Dense(12, name="second")]
    return keras.Sequential([keras.Input((12,)), *layers], name="net")


def values(net: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in net.weights}


def fit(net: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
    x = np.random.default_rng(1).normal(size=(24, 12)).astype("float32")
    net.fit(x, x, batch_size=8, verbose=0, callbacks=list(callbacks))


class Watch(keras.callbacks.Callback):
    """Counts pruned weights that are not zero where a batch begins."""

    revived = 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        found = values(self.model)
        self.revived += sum(np.count_nonzero(found[path][~mask]) for path, mask in MASKS.items())


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_weights_stay_zero_and_the_others_move(make) -> None:
    net = network()
    net.compile(make(), "mse")
    fit(net)  # momentum that is there already
    before = values(net)
    fit(net, KeepMasks(MASKS), watch := Watch())
    assert watch.revived == 0
    after = values(net)
    for path, kept in MASKS.items():
        assert not after[path][~kept].any()
        assert (after[path] != before[path])[kept].mean() > 0.5
    assert (after["net/first/bias"] != before["net/first/bias"]).any()


def test_weights_averaged_over_the_steps_are_masked_too() -> None:
    net = network()
    net.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5), "mse")
    fit(net, KeepMasks(MASKS))
    assert all(not values(net)[path][~mask].any() for path, mask in MASKS.items())


def test_a_fit_without_the_callback_ends_it() -> None:
    net = network()
    net.compile("adam", "mse")
    fit(net, callback := KeepMasks({name.replace("/", "."): mask for name, mask in MASKS.items()}))
    callback.check()
    fit(net)
    with pytest.raises(WeightError, match=r"not zero any more: 'net/first/kernel' \(\d+\)"):
        callback.check()


def test_masks_that_do_not_fit_are_refused_by_name() -> None:
    net = network()
    net.compile("adam", "mse")
    with pytest.raises(MaskError, match="no parameter is called 'dense/kernel': the model has net/first/kernel"):
        fit(net, KeepMasks({"dense/kernel": MASKS["net/first/kernel"]}))
    net.compile("adam", "mse")
    net.steps_per_execution = 2
    with pytest.raises(ValueError, match="steps_per_execution=1"):
        fit(net, KeepMasks(MASKS))
