"""What a run of a model costs: floating-point operations, counted from the shapes that its layers really met."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxprune.runtime import Feeds, open_session, run

Shapes = list[list[int]]


@dataclass(frozen=True)
class Layer:
    """One execution of a node: the shapes that it read and made."""

    kind: str
    inputs: Shapes
    outputs: Shapes

    @property
    def flops(self) -> int:
        """Twice its multiplications (Han et al. 2015 count so); 0 for what is no layer with weights or matrices."""
        count = _MULTIPLICATIONS.get(self.kind)
        return 2 * count(self.inputs, self.outputs) if count is not None else 0


def layers(path: Path, feeds: Feeds) -> list[Layer]:
    """Every node that one run executes, in the branches that were taken and as often as loops repeat them.

    The graph runs as it is written, without ONNX Runtime's optimisation, under its profiler.

    Raises:
        RuntimeFailure: the model does not load or run.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape any more
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = open_session(path, options=options)
        run(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "output_type_shape" in event["args"]]
    return [Layer(n["op_name"], _shapes(n["input_type_shape"]), _shapes(n["output_type_shape"])) for n in nodes]


def _shapes(described: list[dict[str, Any]]) -> Shapes:
    return [next(iter(shape.values()), []) for shape in described]


def _window(weight: int) -> Callable[[Shapes, Shapes], int]:
    """A convolution: each output entry sums a kernel over the inputs of its group."""
    return lambda inputs, outputs: prod(outputs[0]) * prod(inputs[weight][1:])


def _product(inputs: Shapes, outputs: Shapes) -> int:
    return prod(outputs[0]) * (inputs[0][-1] if inputs[0] else 1)


def _gemm(inputs: Shapes, outputs: Shapes) -> int:
    rows = outputs[0][0]  # the left side may be transposed
    return prod(outputs[0]) * (prod(inputs[0]) // max(rows, 1))


def _recurrent(inputs: Shapes, outputs: Shapes) -> int:
    return prod(inputs[0][:2]) * (prod(inputs[1]) + prod(inputs[2]))


_MULTIPLICATIONS: dict[str, Callable[[Shapes, Shapes], int]] = {
    "Conv": _window(1),
    "ConvInteger": _window(1),
    "QLinearConv": _window(3),
    "ConvTranspose": lambda inputs, outputs: prod(inputs[0]) * prod(inputs[1][1:]),
    "Gemm": _gemm,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
