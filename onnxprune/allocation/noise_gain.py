"""How much of the noise in each weight reaches the outputs: measured by adding some and running the model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, TensorProto, helper

from onnxprune.core.dtypes import Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of
from onnxprune.model.weight import Weight
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.deviation import compare
from onnxprune.runtime.session import inputs_of, open_session, run

NOISE = 0.003  # relative squared error: about that of five bits


def gains(
    model: Model, weights: Sequence[Weight], source: Path, samples: int, half: int | None = None
) -> list[float | None]:
    """For each weight the relative squared error of the outputs over its own, the mean over the outputs.

    The weights become inputs with default values of one session, so that a trial costs a run and no
    load. None for a weight that cannot become one (in a function, not float32, bound twice).

    Args:
        model: the model.
        weights: of the model.
        source: inputs, see `sample_files.load`.
        samples: at most so many of them.
        half: 0 or 1 for these of a half only.

    Raises:
        DataError: the inputs do not fit the model.
        RuntimeFailure: the model does not run.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exposed = _write_exposed(model, {w.name for w in weights}, path)
        session = open_session(path)
        feeds, _ = sample_files.load(source, inputs_of(session), samples, half)
        reference = [run(session, feed) for feed in feeds]
        for number, weight in enumerate(weights):
            if weight.name not in exposed:
                continue
            noisy = _noisy(weight, weight.array(model), number)
            try:
                outputs = compare(reference, [run(session, {**feed, weight.value: noisy}) for feed in feeds])
            except RuntimeFailure:
                continue
            noise = [min(1.0, o.relative_l2**2) for o in outputs if np.isfinite(o.relative_l2)]
            if noise:
                found[weight.name] = float(np.mean(noise)) / NOISE
            model.payloads.forget_pages()
    return [found.get(w.name) for w in weights]


def _write_exposed(model: Model, names: set[str], path: Path) -> set[str]:
    """Write the model with weights as optional inputs of the main graph; returns which of them are."""
    exposed = set()
    with model.edited() as proto:
        graph = proto.graph
        proto.ir_version = max(proto.ir_version, 4)
        scopes = [inner for top in scopes_of(model.proto) for inner in top.inner()]
        for weight in find(model):
            body, tensor = weight.scope.body, weight.tensor
            if weight.name not in names or weight.element != TensorProto.FLOAT or not isinstance(body, GraphProto):
                continue
            if not isinstance(tensor, TensorProto) or sum(scope.defines(weight.value) for scope in scopes) > 1:
                continue
            if weight.store == "constant" or body is not graph:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = weight.value
                if weight.store == "constant":
                    body.node.remove(weight.scope.producers[weight.value])
                else:
                    body.initializer.remove(tensor)
            if all(i.name != weight.value for i in graph.input):
                graph.input.append(helper.make_tensor_value_info(weight.value, weight.element, weight.shape))
            exposed.add(weight.name)
        model.write(path)
    return exposed


def _noisy(weight: Weight, array: Array, seed: int) -> Array:
    """The weight with noise of its own energy per output channel, whose sum over the inputs is 0."""
    axes = tuple(weight.in_axes) or tuple(range(array.ndim))
    noise = np.random.default_rng(seed).standard_normal(array.shape, dtype=np.float32)
    noise -= noise.mean(axes, keepdims=True)
    return array + noise * np.sqrt(NOISE * np.square(array).mean(axes, keepdims=True))
