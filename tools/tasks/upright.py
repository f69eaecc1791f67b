"""Lines of text, upright or turned by 180 degrees."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.rendering import lines, padded, scaled
from tasks.task import Outcome, Task, share


class Upright(Task):
    """Whether a line is turned: each of the lines once upright, once turned by 180 degrees."""

    metric = "right way"

    @cached_property
    def _data(self) -> list[tuple[int, np.ndarray]]:
        return [pair for _, image in lines(200, 4) for pair in ((0, image), (1, image[::-1, ::-1]))]

    def _score(self, session: Any) -> Outcome:
        images = padded([scaled(image, 48, 192) for _, image in self._data], 192)
        answers = [next(iter(run(session, {"x": images[at : at + 16]}).values())) for at in range(0, len(images), 16)]
        found = np.concatenate(answers).argmax(1)
        return Outcome(share(found == [turned for turned, _ in self._data]), found.tolist())

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        images = [image[::-1, ::-1] if i % 2 else image for i, (_, image) in enumerate(lines(count, 5))]
        return {"x": padded([scaled(image, 48, 192) for image in images], 192), "targets": np.arange(count) % 2}
