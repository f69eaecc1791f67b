"""ORT format: converted by onnxruntime's own tool in Fixed style, then loaded from the .ort file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A session of a .ort file."""

    def __init__(self, path: Path, outputs: Shapes) -> None:
        self.outputs = list(outputs)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.facts = {"stored": path.stat().st_size}
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        return self.session.run(self.outputs, feeds)


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    source = Path(shutil.copy(path, work))
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(source)]
    done = subprocess.run(
        [*command, "--optimization_style", "Fixed", "--output_dir", str(work)], capture_output=True, text=True
    )
    made = source.with_suffix(".ort")
    if done.returncode or not made.exists():
        raise RuntimeError(done.stderr[-300:])
    return Running(made, outputs)
