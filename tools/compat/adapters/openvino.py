"""OpenVINO on a CPU: the compiled graph tells what runs at every inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino

TIMED = False  # the graph tells what is decoded when
Shapes = dict[str, tuple[int, ...]]  # of the outputs, by name


class Running:
    """A compiled model that computes in float32, on one thread."""

    def __init__(self, path: Path, outputs: Shapes) -> None:
        core = openvino.Core()
        hint = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        model = core.read_model(str(path))
        self.compiled = core.compile_model(model, "CPU", hint)
        self.request = self.compiled.create_infer_request()
        self.outputs = [self.compiled.output(name) for name in outputs]
        self.profiled = core.compile_model(model, "CPU", hint | {"PERF_COUNT": True})

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """The outputs, in the order of the model."""
        result = self.request.infer(feeds)
        self.feeds = feeds
        return [result[output] for output in self.outputs]

    @property
    def facts(self) -> dict[str, Any]:
        """The layers that compute from constants alone at every run, and whether a kernel reads integers."""
        request = self.profiled.create_infer_request()
        request.infer(self.feeds)
        # Layers that compute from constants are in the compiled graph, but run once, while compiling.
        executed = {layer.node_name for layer in request.profiling_info}
        fixed: dict[str, str] = {}
        decoding, fused = [], False
        for op in self.profiled.get_runtime_model().get_ordered_ops():
            sources = [i.get_source_output().get_node().get_friendly_name() for i in op.inputs()]
            facts = {k: v.astype(str) for k, v in op.get_rt_info().items() if k in ("layerType", "outputPrecisions")}
            kind = facts["layerType"]
            if kind == "Const" or (sources and fixed.keys() >= set(sources)):
                fixed[op.get_friendly_name()] = facts["outputPrecisions"]
                decoding += [kind] if op.get_friendly_name() in executed and kind != "Const" else []
            elif kind == "FullyConnected":
                fused |= any(fixed.get(source) in ("i8", "u8", "i4", "u4") for source in sources)
        return {"decoding": decoding, "fused": fused}


def load(path: Path, feeds: dict[str, Any], outputs: Shapes, work: Path) -> Running:
    return Running(path, outputs)
