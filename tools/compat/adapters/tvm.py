"""TVM: compiled by Relax for the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A virtual machine of a compiled model."""

    def __init__(self, path: Path, feeds: dict[str, Any]) -> None:
        shapes = {name: list(array.shape) for name, array in feeds.items()}
        module = from_onnx(onnx.load(path), shapes, keep_params_in_input=False)
        self.device = tvm.cpu()
        self.machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), self.device)

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        found = self.machine["main"](*(tvm.runtime.tensor(array, self.device) for array in feeds.values()))
        many = not hasattr(found, "numpy")
        return [each.numpy() for each in (found if many else [found])]


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, feeds)
