"""LiteRT, converted by onnx2tf: inputs keep their axes, outputs may have the channels last."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx2tf
from ai_edge_litert.interpreter import Interpreter

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name
_OTHER = 1e-3  # of the largest output: that far apart, two conversions compute other numbers
# onnx2tf folds constants by the command `onnxsim`, and goes on without it where that is not on the path, as where
# `venv/bin/onnx2tf` is called in an environment that is not activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


class Running:
    """An interpreter, on one thread."""

    def __init__(self, feeds: dict[str, Any], outputs: Shapes, made: Path) -> None:
        self.facts = {"bytes": made.stat().st_size}
        self.interpreter = Interpreter(model_content=made.read_bytes(), num_threads=1)
        self.interpreter.allocate_tensors()
        given = self.interpreter.get_input_details()
        by_name = {each["name"].removeprefix("serving_default_").split(":")[0]: each for each in given}
        self.inputs = {name: by_name.get(name, given[place]) for place, name in enumerate(feeds)}
        self.outputs = list(zip(self.interpreter.get_output_details(), outputs.values(), strict=True))

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        for name, array in feeds.items():
            held = self.inputs[name]
            self.interpreter.set_tensor(held["index"], array.astype(held["dtype"]))
        self.interpreter.invoke()
        return [_first(self.interpreter.get_tensor(each["index"]), shape) for each, shape in self.outputs]


def _first(array: Any, shape: tuple[int, ...]) -> Any:
    """An array with the channels where they are in ONNX."""
    return array if array.shape == shape else np.moveaxis(array, -1, 1)


def _converted(path: Path, feeds: dict[str, Any], folder: Path, simplified: bool) -> Path:
    folder.mkdir()
    source = shutil.copy(path, folder / "model.onnx")  # which the converter rewrites
    onnx2tf.convert(
        input_onnx_file_path=str(source), output_folder_path=str(folder / "made"), non_verbose=True,
        keep_shape_absolutely_input_names=list(feeds), disable_model_save=False,
        copy_onnx_input_output_names_to_tflite=True, not_use_onnxsim=not simplified,
    )  # fmt: skip
    (made,) = (folder / "made").glob("*_float32.tflite")
    return made


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    """The model as it is converted with onnxsim; without it where that gives other numbers and no error."""
    found = Running(feeds, outputs, _converted(path, feeds, work / "simplified", True))
    try:
        alone = Running(feeds, outputs, _converted(path, feeds, work / "as-it-is", False))
        pairs = list(zip(found.run(feeds), alone.run(feeds), strict=True))
        other = any(np.abs(one - two).max() > _OTHER * np.abs(one).max() for one, two in pairs)
    except (Exception, SystemExit):  # of the converter, in types of its own: who is refused knows it
        return found
    return alone if other else found
