"""freeze: no initializer is an input of the graph, so that none can be overridden."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.core.override import override
from onnxprune.model.model import Model
from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from onnxprune.pipeline.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Freeze(Pass):
    """Take the initializers out of the inputs of the graph, where older exporters list them.

    Whoever gives no values for them gets what the model gave before. Before IR version 4 all initializers have to be
    inputs and none can be overridden: such a model stays as it is.
    """

    name = "freeze"

    @override
    def run(self, model: Model, progress: Progress = silent) -> Change:
        change, graph = Change(), model.proto.graph
        held = {tensor.name for tensor in graph.initializer}
        held |= {tensor.values.name for tensor in graph.sparse_initializer}
        kept = [value for value in graph.input if value.name not in held]
        count = len(graph.input) - len(kept)
        if count and model.proto.ir_version >= 4:
            del graph.input[:]
            graph.input.extend(kept)
            change.notes.append(f"{count} initializers are no inputs any more: nobody can override them")
            change.modified = True
        return change
