"""tract, from Rust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tract

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A runnable model; its shapes come from the file."""

    def __init__(self, path: Path) -> None:
        self.model = tract.onnx().load(str(path)).into_model().into_runnable()

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        return [output.to_numpy() for output in self.model.run(list(feeds.values()))]


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path)
