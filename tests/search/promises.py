"""Promises on small models, for the tests of what they say."""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.allocation.rate_distortion import LOSS
from onnxprune.runtime.judge import Question
from onnxprune.search.halves import halves
from onnxprune.search.promise import Attempt, Promise
from tests.helpers.builders import info, model, node, normal
from tests.helpers.running import put

ATTEMPT = Attempt(LOSS, True)


def samples(count: int = 64, width: int = 64) -> np.ndarray:
    return normal(count, width, seed=5)


def promise(proto: onnx.ModelProto, folder, arrays: dict[str, np.ndarray]) -> Promise:
    np.savez(folder / "data.npz", **arrays)
    source = put(folder / "m.onnx", proto)
    return Promise(source, Question(), halves(source, folder / "data.npz", None)[1])


def head(weight: np.ndarray, **more: np.ndarray) -> onnx.ModelProto:
    """x @ w, the classes of x."""
    shapes = [info("x", ["N", weight.shape[0]])], [info("y", ["N", weight.shape[1]])]
    return model([node("MatMul", ["x", "w"], ["y"])], *shapes, {"w": weight, **more})


def told_apart(weight: np.ndarray, count: int = 256) -> np.ndarray:
    """Samples of which each is near what one of the classes of `head` asks for, [count, inputs]."""
    wanted = (weight / np.linalg.norm(weight, axis=0)).T
    return samples(count, len(weight)) + 8 * wanted[np.arange(count) % len(wanted)]
