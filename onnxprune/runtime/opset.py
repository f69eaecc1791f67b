"""Raise a model's opset where running it proves that nothing changes.

A large model is not run as it is: that would take its size in memory, and again in a file. Where no operator of it has
other inputs or attributes at the newer opset there is nothing to prove; else each of its weights repeats a few rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from onnxprune.core.chunked import EVERY, ChunkedArray
from onnxprune.core.dtypes import Array, numpy_dtype
from onnxprune.errors import OutputError, RuntimeFailure
from onnxprune.model.encoded_names import fresh_ids
from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of
from onnxprune.runtime.conversion import convert, reads_otherwise
from onnxprune.runtime.session import as_written, equal, feedable, open_session, run
from onnxprune.runtime.synthetic_inputs import CannotSynthesise, synthesise

if TYPE_CHECKING:
    import onnxruntime as ort

_LARGE = 256 << 20  # bytes: a model beyond is not run as it is
_ENTRIES = 1 << 16  # of each weight of a large model
# Operators that ONNX Runtime (1.32.0) computes with another kernel from an opset on, 3 to 60 times slower.
_SLOWER = {"AveragePool": 19}
_SAMPLES, _NUMBERS = 4, 4096  # samples at the most, and the numbers in them that are enough


class _Opener(Protocol):
    def __call__(self, model: Model, *, optimised: bool = False) -> ort.InferenceSession: ...


def raise_to(model: Model, version: int) -> str:
    """Raise the default opset; returns why it was not done, or an empty string.

    Nodes that read otherwise under the new version are rewritten: the model is accepted only if ONNX Runtime loads it
    and its outputs on synthesised inputs are equal bit for bit, with the nodes as they stand: what an optimiser makes
    of them is no matter of the opset, but for integers: a model that quantises has to load optimised as well.
    """
    if model.proto.functions:
        return "the model has functions with opsets of their own"
    kinds = {node.op_type for scope in scopes_of(model.proto)[0].inner() for node in scope.body.node}
    for kind, slower in _SLOWER.items():
        if kind in kinds and model.opset < slower <= version:
            return f"{kind} is computed slower from opset {slower} on"
    quantises = "DequantizeLinear" in kinds
    if _large(model) and not quantises and not reads_otherwise(model, version):
        model.opset = version
        return ""
    raised = model.copy()
    with tempfile.TemporaryDirectory() as folder:
        try:
            opened = _opener(model, Path(folder))
            session = opened(model)
            made = synthesise(model, session, _SAMPLES, realistic=False, numbers=_NUMBERS)
            del session
            branched = convert(raised, version)
            if branched:
                return (
                    f"{branched[0]} in a branch reads otherwise under opset {version}, and no run may take the branch"
                )
            session = opened(raised)
            assert made.outputs is not None  # no bytes are too many: there are few samples
            if equal(made.outputs, [run(session, feed) for feed in made.feeds]):
                if quantises:
                    opened(raised, optimised=True)
                model.proto = raised.proto
                return ""
            refusal = f"under opset {version} its outputs differ"
        except CannotSynthesise as error:
            refusal = f"no inputs were found to check the change with ({error})"
        except (RuntimeFailure, OutputError) as error:
            refusal = str(error)
    return refusal


def _opener(model: Model, folder: Path) -> _Opener:
    """How to get a session of a model, and of another with the same weights."""
    weights = model.large_initializers()
    if weights is not None and _large(model) and all(numpy_dtype(t.data_type) is not None for t in weights.values()):
        repeated = weights

        def repeating(model: Model, *, optimised: bool = False) -> ort.InferenceSession:
            return open_session(_repeating(model, repeated).SerializeToString(), "it", _options(optimised))

        return repeating
    if weights is not None and not _large(model):
        read = _read(model)
        arrays = {name: model.array(tensor) for name, tensor in weights.items() if name in read}
        if all(map(feedable, arrays.values())):
            beside = {name: np.require(array, requirements=["C", "ALIGNED"]) for name, array in arrays.items()}

            def in_memory(model: Model, *, optimised: bool = False) -> ort.InferenceSession:
                return open_session(model.proto.SerializeToString(), "it", _options(optimised, beside))

            return in_memory
    path = folder / "model.onnx"

    def from_file(model: Model, *, optimised: bool = False) -> ort.InferenceSession:
        model.write(path)
        return open_session(path, "it", _options(optimised))

    return from_file


def _options(optimised: bool, arrays: Mapping[str, Array] | None = None) -> ort.SessionOptions:
    import onnxruntime as ort

    options = as_written(arrays)
    if optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


def _read(model: Model) -> set[str]:
    """The values that nodes read, or that are outputs: others leave the graph before ONNX Runtime takes arrays."""
    nodes = (node for scope in scopes_of(model.proto)[0].inner() for node in scope.body.node)
    return {name for node in nodes for name in node.input} | {value.name for value in model.proto.graph.output}


def _repeating(model: Model, weights: Mapping[str, TensorProto]) -> ModelProto:
    """The graph with a few rows of each of the weights over and over in its place."""
    proto, ids = ModelProto(), fresh_ids(model.proto)
    proto.CopyFrom(model.proto)
    graph, made = proto.graph, GraphProto()
    for name, tensor in weights.items():
        rows, place = _rows(model.chunked(tensor))
        fresh = next(ids)
        held = {f"{fresh}.rows": rows, f"{fresh}.place": place, f"{fresh}.shape": np.array(tensor.dims, np.int64)}
        made.initializer.extend(numpy_helper.from_array(array, end) for end, array in held.items())
        made.node.add(op_type="Gather", input=[f"{fresh}.rows", f"{fresh}.place"], output=[f"{fresh}.all"])
        made.node.add(op_type="Reshape", input=[f"{fresh}.all", f"{fresh}.shape"], output=[name])
    made.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in weights)
    made.input.extend(value for value in graph.input if value.name not in weights)  # where weights are inputs too
    made.node.extend(graph.node)
    for entries, new in (
        (graph.initializer, made.initializer), (graph.input, made.input), (graph.node, made.node)
    ):  # fmt: skip
        del entries[:]
        entries.extend(new)
    return proto


def _rows(weight: ChunkedArray) -> tuple[Array, Array]:
    """The first rows of the last axis, `_ENTRIES` in all, and for each row the one that stands for it."""
    last = weight.shape[-1] if weight.ndim > 1 else 1
    count = weight.size // last
    few = min(count, max(1, _ENTRIES // last))
    first = weight.read(0, -(-few * last // weight.row), EVERY).reshape(-1, last)[:few]
    return np.ascontiguousarray(first), np.arange(count) % few


def _large(model: Model) -> bool:
    return model.payloads.nbytes > _LARGE
