"""OpenCV's dnn module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A net, on one thread."""

    def __init__(self, path: Path, outputs: Shapes) -> None:
        cv2.setNumThreads(1)
        self.net, self.outputs = cv2.dnn.readNetFromONNX(str(path)), list(outputs)

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        for name, array in feeds.items():
            self.net.setInput(array, name)
        return list(self.net.forward(self.outputs))


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, outputs)
