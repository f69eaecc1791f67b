"""ncnn, converted by pnnx; an axis of batches of 1 is not there in ncnn's arrays."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

PNNX = Path(sysconfig.get_path("purelib")) / "pnnx" / "pnnx"  # the program: its Python package wants torch
_TYPES = {"float32": "f32", "int64": "i64"}

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A net in float32, on one thread."""

    def __init__(self, path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> None:
        source = work / "model.onnx"
        source.write_bytes(path.read_bytes())
        shapes = ",".join(f"[{','.join(map(str, a.shape))}]{_TYPES[a.dtype.name]}" for a in feeds.values())
        done = subprocess.run(
            [str(PNNX), str(source), f"inputshape={shapes}", "fp16=0"], cwd=work, capture_output=True, text=True
        )
        parameters = work / "model.ncnn.param"
        if done.returncode or not parameters.exists():
            raise RuntimeError(f"pnnx ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
        text = parameters.read_text()
        self.net = ncnn.Net()
        options = self.net.opt
        options.use_vulkan_compute = options.use_fp16_packed = options.use_fp16_storage = False
        options.use_fp16_arithmetic = options.use_bf16_storage = False
        options.num_threads = 1
        if self.net.load_param(str(parameters)) or self.net.load_model(str(work / "model.ncnn.bin")):
            raise RuntimeError("ncnn does not load what pnnx wrote")
        self.outputs = {f"out{place}": shape for place, shape in enumerate(outputs.values())}
        if not all(re.search(rf"\b{name}\b", text) for name in self.outputs):
            raise RuntimeError("outputs are missing in what pnnx wrote")

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        extractor = self.net.create_extractor()
        held = []
        for place, array in enumerate(feeds.values()):
            narrow = array.astype(np.int32) if array.dtype == np.int64 else array
            held.append(ncnn.Mat(np.ascontiguousarray(narrow[0] if narrow.shape[0] == 1 else narrow)))
            extractor.input(f"in{place}", held[-1])
        found = []
        for name, shape in self.outputs.items():
            code, value = extractor.extract(name)
            if code:
                raise RuntimeError(f"ncnn's extract gives {code}")
            found.append(np.array(value).reshape(shape))
        return found


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, feeds, outputs, work)
