"""Models opened, written, run and compared."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import onnxprune
from onnxprune.core.dtypes import bits_of
from onnxprune.layer_costs.costs import Costs
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune_passes import Encode, Magnitude
from tests.helpers import builders


def load(proto: onnx.ModelProto) -> Model:
    """A Model of a copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return Model(copy)


def put(path: Path, proto: onnx.ModelProto) -> Path:
    """Write a model to a file."""
    path.write_bytes(proto.SerializeToString())
    return path


def prune(proto: onnx.ModelProto, **options) -> Model:
    opened = load(proto)
    Magnitude(**options).run(opened)
    return opened


def serialise(opened: Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        opened.write(path)
        return path.read_bytes()


def run(proto: onnx.ModelProto | bytes, feeds, *, optimised: bool = True) -> list[np.ndarray]:
    """The outputs; without optimisation nothing is folded or fused."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def feeds_of(proto: onnx.ModelProto, seed: int = 7, batch: int = 3, flag: bool = True) -> dict[str, np.ndarray]:
    """Random inputs, but for those that are initializers; `batch` is a free dimension, `flag` a condition."""
    rng = np.random.default_rng(seed)
    held = {t.name for t in proto.graph.initializer}
    feeds = {}
    for value in proto.graph.input:
        if value.name in held:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value or batch for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[value.name] = np.array(flag) if dtype.kind == "b" else rng.standard_normal(shape).astype(dtype)
    return feeds


def outputs(proto: onnx.ModelProto | bytes) -> list[bytes]:
    """The bytes of every output for fixed inputs, with conditions that hold and that do not."""
    proto = onnx.load_from_string(proto) if isinstance(proto, bytes) else proto
    return [np.asarray(a).tobytes() for flag in (True, False) for a in run(proto, feeds_of(proto, flag=flag))]


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The arrays of the top graph by name."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    """Type, shape and every bit, those of NaN too."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(bits_of(np.ascontiguousarray(a)), bits_of(np.ascontiguousarray(b)))


def arrays(opened: Model) -> dict[str, tuple]:
    """Every weight by name: type, shape, bytes."""
    return {w.name: (w.dtype, w.shape, w.array(opened).tobytes()) for w in find(opened)}


@cache
def newest_opset() -> int:
    """The newest opset that this ONNX Runtime accepts."""
    for version in range(onnx.defs.onnx_opset_version(), 17, -1):
        try:
            run(builders.mlp(opset=version), {"x": np.zeros((1, 8), np.float32)})
        except Exception:
            continue
        return version
    return 17


def costs_of(proto: onnx.ModelProto, folder: Path, **arrays: np.ndarray) -> Costs:
    """What its layers cost on these inputs, or on two synthetic samples."""
    path = folder / "m.onnx"
    onnx.save(proto, path)
    if not arrays:
        return onnxprune.costs(path, samples=2)
    np.savez(folder / "data.npz", **arrays)
    return onnxprune.costs(path, data=folder / "data.npz")


def encoded(proto, sparsity=0.9, **options):
    """(model pruned, model pruned and encoded, what encode says)."""
    before, after = prune(proto, sparsity=sparsity), prune(proto, sparsity=sparsity)
    return before, after, Encode(**options).run(after)
