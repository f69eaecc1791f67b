"""MNN: converted by mnnconvert, run by its module API.

mnnconvert runs `pip install` with the first pip on the path (findings/mnnconvert_installs_packages.sh): here that is a
script that does nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import MNN.expr as expr
import MNN.nn as nn
import numpy as np

REPEATS = 1  # it computes other numbers from one conversion to the next where it reads memory that nothing wrote
Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A module, on one thread."""

    def __init__(self, path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> None:
        converted = work / "model.mnn"
        (work / "pip").write_text("#!/bin/sh\nexit 0\n")
        (work / "pip").chmod(0o755)
        command = [str(Path(sys.executable).parent / "mnnconvert"), "-f", "ONNX", "--modelFile", str(path)]
        done = subprocess.run(
            [*command, "--MNNModel", str(converted), "--bizCode", "x"],
            env={"PATH": f"{work}:/usr/bin:/bin", "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "")},
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode or not converted.exists():
            raise RuntimeError((done.stdout + done.stderr)[-300:])
        runtime = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": 1},))
        self.module = nn.load_module_from_file(str(converted), list(feeds), list(outputs), runtime_manager=runtime)

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        given = []
        for array in feeds.values():
            whole = array.dtype == np.int64  # MNN has none of 64 bits
            narrow, element = (array.astype(np.int32), expr.int) if whole else (array, expr.float)
            given.append(expr.const(narrow, list(array.shape), expr.NCHW, element))
        found = self.module.forward(given)
        found = found if isinstance(found, list | tuple) else [found]
        return [np.array(expr.convert(each, expr.NCHW).read()) for each in found]


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, feeds, outputs, work)
