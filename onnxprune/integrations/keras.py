"""Masks in Keras, whatever its backend: pruned weights are exactly zero after every train batch.

    model.fit(x, y, callbacks=[onnxprune.integrations.keras.KeepMasks("masks.safetensors")])

A parameter's name is its variable's path: `sequential/dense/kernel`.
"""

from __future__ import annotations

from typing import Any

import keras

from onnxprune.integrations.matching import Masks, match, revived


class KeepMasks(keras.callbacks.Callback):  # type: ignore[misc]  # keras is not type-checked here
    """Zero the pruned weights when training begins and after every batch, and check them at its end.

    Args:
        masks: a mask file, or name -> bool array, True where a weight is kept.

    Raises:
        MaskError: when training begins, where a mask does not fit its variable.
        ValueError: when training begins, where a batch is several steps: between them nothing would be masked.
    """

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self._masks = masks
        self._kept: list[tuple[Any, Any]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Match the masks with the model's variables, and zero what is pruned."""
        if self.model.steps_per_execution != 1:
            raise ValueError("masks are kept after every step: compile the model with steps_per_execution=1")
        variables = {variable.path: variable for variable in self.model.weights}
        masks = match(self._masks, {path: tuple(variable.shape) for path, variable in variables.items()})
        self._kept = [(variables[path], keras.ops.convert_to_tensor(mask)) for path, mask in masks.items()]
        self._zero()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Zero what momentum or weight decay moved."""
        self._zero()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Zero once more, since an optimizer may leave averaged weights at the end, and check."""
        self._zero()
        self.check()

    def check(self) -> None:
        """Raise WeightError where a pruned weight is not exactly zero."""
        ops = keras.ops
        revived({v.path: int(ops.count_nonzero(ops.where(kept, 0, v.value))) for v, kept in self._kept})

    def _zero(self) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # during fit the weights live in a state that jax steps hand on
        for variable, kept in self._kept:
            variable.assign(keras.ops.where(kept, variable.value, 0))
