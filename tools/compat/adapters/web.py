"""onnxruntime-web in Node: its WebAssembly, on one thread, driven over a pipe."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGES = Path(os.environ["NODE_PACKAGES"])  # the folder in which npm installed onnxruntime-web

Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name
_WARM = 120  # runs after which node has optimised the WebAssembly of a model; it does so beside them, at their cost


class Running:
    """A session in a process of node."""

    def __init__(self, path: Path, feeds: dict[str, Any], outputs: Shapes) -> None:
        self.outputs, self.warm = list(outputs), False
        self.node = subprocess.Popen(
            ["node", str(SCRIPT), str(PACKAGES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.load_seconds = self._ask({"load": str(path)})["seconds"]
        held = {
            name: {"type": array.dtype.name, "dims": array.shape, "data": array.ravel().tolist()}
            for name, array in feeds.items()
        }
        self._ask({"feeds": held})

    def _ask(self, what: dict[str, Any]) -> Any:
        assert self.node.stdin is not None
        assert self.node.stdout is not None
        self.node.stdin.write(json.dumps(what) + "\n")
        self.node.stdin.flush()
        line = self.node.stdout.readline()
        if not line:
            raise RuntimeError(f"node ended with {self.node.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        found = self._ask({"run": 1})["outputs"]
        return [np.array(found[name]["data"], dtype=np.float64).reshape(found[name]["dims"]) for name in self.outputs]

    def seconds(self, count: int) -> float:
        """Processor seconds of a run."""
        if not self.warm:
            self.warm = True
            self._ask({"run": _WARM})
        return self._ask({"run": count})["seconds"]

    def __del__(self) -> None:
        self.node.kill()


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, feeds, outputs)
