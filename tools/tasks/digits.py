"""Images of digits."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import mnist
import numpy as np

from onnxprune.runtime.session import run
from tasks.task import Outcome, Task, fetched, share


class Digits(Task):
    """MNIST by the two LeNets; those for `--data` are training images that the models were not trained on."""

    metric = "top-1"

    @cached_property
    def _data(self) -> np.ndarray:
        fetched("mnist", "t10k-labels-idx1-ubyte")
        return mnist.load("t10k")[0]

    def _score(self, session: Any) -> Outcome:
        answers = [run(session, {"image": self._data[at : at + 500]})["scores"] for at in range(0, self.samples, 500)]
        digits = np.concatenate(answers).argmax(1)
        return Outcome(share(digits == mnist.load("t10k")[1]), digits.tolist())

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        fetched("mnist", "train-images-idx3-ubyte")
        images, digits = mnist.load("train")
        # Drawn, because writers follow each other: of the last 2,000 images coarse weights lose next to none.
        chosen = len(images) - 1 - np.random.default_rng(0).permutation(mnist.HELD_OUT)[:count]
        return {"image": images[chosen], "targets": digits[chosen]}
