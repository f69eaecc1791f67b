"""IREE: imported and compiled for this CPU; the compiler has the options of the environment besides."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import iree.compiler.tools as compiler
import iree.runtime as runtime
import numpy as np

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A compiled module, on the caller's thread."""

    def __init__(self, path: Path, work: Path) -> None:
        imported = work / "model.mlir"
        command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(path), "-o", str(imported)]
        done = subprocess.run([*command, "--data-prop"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-300:])
        compiled = compiler.compile_file(
            str(imported), target_backends=["llvm-cpu"], input_type="onnx",
            extra_args=["--iree-llvmcpu-target-cpu=host", *shlex.split(os.environ["COMPILER_OPTIONS"])],
        )  # fmt: skip
        self.facts = {"module": len(compiled)}
        config = runtime.Config("local-sync")
        context = runtime.SystemContext(config=config)
        module = runtime.VmModule.copy_buffer(context.instance, compiled)
        context.add_vm_module(module)
        bound = context.modules[module.name]
        (name,) = [each for each in module.function_names if not each.startswith("__") and "$" not in each]
        self.function = bound[name]

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        found = self.function(*feeds.values())
        return [np.asarray(each) for each in (found if isinstance(found, tuple | list) else [found])]


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, work)
