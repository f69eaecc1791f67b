"""ONNX Runtime in Python, any release: the optimised graph tells what runs at every inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort

TIMED = False  # the graph tells what is decoded when
Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A session, and where its optimised graph lies."""

    def __init__(self, path: Path, outputs: Shapes) -> None:
        self.outputs = list(outputs)
        self.facts = {"optimised": str(path.with_suffix(f".{ort.__version__}.optimised"))}
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = self.facts["optimised"]
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        return self.session.run(self.outputs, feeds)


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, outputs)
