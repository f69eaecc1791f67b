"""Graphs whose kernels differ from release to release: what onnxprune writes, and what it leaves alone.

Each is a pair of models that compute the same: one with integers, and one with what they stand for as float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from compat.cases import OPSETS, write_case, write_run
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.encodings.values.base import INT2
from onnxprune.model.model import Model
from onnxprune.runtime.session import evaluate
from onnxprune_passes import Encode

_CHANNELS, _SIDE = 64, 14  # of the convolution
_INT8, _INT4 = 127, 7  # the largest integer of a grid
Held = dict[str, Any]
Shape = tuple[int, int]
Grid = Callable[[Shape], tuple[Held, dict[str, int]]]


@dataclass(frozen=True)
class Pattern:
    """A layer with its weight in a form.

    Attributes:
        name: as tables have it.
        fused: whether its integers are for a kernel.
        write: (folder, shape, rows of the input) -> None; writes the case of a weight [inputs, outputs], see
            `compat.cases`.
    """

    name: str
    fused: bool
    write: Callable[[Path, Shape, int], None]


def _written(name: str, layer: str, values: str, opset: int, *, fused: bool = True) -> Pattern:
    """What onnxprune writes of a layer."""

    def write(folder: Path, shape: Shape, rows: int) -> None:
        source, data = folder.with_suffix(".onnx"), folder.with_suffix(".npz")
        feeds = _feeds(layer, shape, rows)
        onnx.save(_model(layer, shape, opset), source)
        np.savez(data, **feeds)
        model = Model.load(source)
        Encode(values=values, data=str(data) if values == "int8-dynamic" else "").run(model)
        write_case(folder, model, feeds)

    return Pattern(name, fused, write)


def _other(name: str, layer: str, opset: int, grid: Grid) -> Pattern:
    """What onnxprune does not write: DequantizeLinear with a weight, scale and attributes of its own.

    Args:
        name: of the pattern.
        layer: see `_nodes`.
        opset: of the model.
        grid: shape -> {"q": integers, "s": scale}, and the attributes of the node.
    """

    def write(folder: Path, shape: Shape, rows: int) -> None:
        folder.mkdir()
        held, attributes = grid(shape)
        node = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], name="dequantise", **attributes)
        encoded = _model(layer, shape, opset, [node], [numpy_helper.from_array(a, name) for name, a in held.items()])
        onnx.save(encoded, folder / "encoded.onnx")
        (weight,) = evaluate(node, list(held.values()), encoded)
        onnx.save(_model(layer, shape, opset, weight=weight), folder / "decoded.onnx")
        write_run(folder, _feeds(layer, shape, rows))

    return Pattern(name, True, write)


def _stored(layer: str, shape: Shape) -> tuple[int, ...]:
    """The shape of the weight as a layer reads it."""
    if layer == "Conv":
        return _CHANNELS, _CHANNELS, 3, 3
    return shape[::-1] if layer == "Gemm transB" else shape


def _feeds(layer: str, shape: Shape, rows: int) -> Held:
    rng = np.random.default_rng(1)
    if layer == "Gather":
        return {"x": rng.integers(0, shape[0], rows)}
    given = (rows, _CHANNELS, _SIDE, _SIDE) if layer == "Conv" else (rows, shape[0])
    return {"x": rng.standard_normal(given).astype(np.float32)}


def _nodes(layer: str) -> list[NodeProto]:
    """The nodes that read x and w, and a bias b where they have one."""

    def node(kind: str, inputs: list[str], output: str = "y", **attributes: int) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{kind} {output}", **attributes)

    return {
        "MatMul": [node("MatMul", ["x", "w"])],
        "MatMul Relu": [node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "r"), node("Abs", ["r"])],
        "MatMul twice": [
            node("MatMul", ["x", "w"], "h"), node("Tanh", ["x"], "t"), node("MatMul", ["t", "w"], "g"),
            node("Add", ["h", "g"]),
        ],
        "Gemm": [node("Gemm", ["x", "w", "b"])],
        "Gemm transB": [node("Gemm", ["x", "w", "b"], transB=1)],
        "Gather": [node("Gather", ["w", "x"])],
        "Conv": [node("Conv", ["x", "w"])],
    }[layer]  # fmt: skip


def _model(
    layer: str, shape: Shape, opset: int, before: list[NodeProto] | None = None,
    held: list[TensorProto] | None = None, weight: Any = None,
) -> ModelProto:  # fmt: skip
    """A layer that reads `weight`, or random numbers, or what nodes before it make of what is held."""
    rng = np.random.default_rng(0)
    if held is None:
        drawn = rng.standard_normal(_stored(layer, shape)).astype(np.float32) / 8 if weight is None else weight
        held = [numpy_helper.from_array(drawn, "w")]
    if layer.startswith("Gemm"):
        held = [*held, numpy_helper.from_array(rng.standard_normal(shape[1]).astype(np.float32), "b")]
    element = TensorProto.INT64 if layer == "Gather" else TensorProto.FLOAT
    given = {"Gather": ["rows"], "Conv": ["rows", _CHANNELS, _SIDE, _SIDE]}.get(layer, ["rows", shape[0]])
    ends = [
        helper.make_tensor_value_info("x", element, given), onnx.ValueInfoProto(name="y")
    ]  # fmt: skip
    graph = helper.make_graph([*(before or []), *_nodes(layer)], "g", ends[:1], ends[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=OPSETS[opset])


def _integers(shape: tuple[int, ...], most: int) -> Any:
    return np.random.default_rng(0).integers(-most, most + 1, shape).astype(np.int8)


def _channels(axis: int, layer: str = "MatMul") -> Grid:
    """int8 with a scale for each entry of an axis."""

    def grid(shape: Shape) -> tuple[Held, dict[str, int]]:
        q = _integers(_stored(layer, shape), _INT8)
        return {"q": q, "s": np.full(q.shape[axis], 1e-3, np.float32)}, {"axis": axis}

    return grid


def _blocks(block: int) -> Grid:
    """int4 with a scale for each so many inputs of a column."""

    def grid(shape: Shape) -> tuple[Held, dict[str, int]]:
        q = _integers(shape, _INT4).astype(ml_dtypes.int4)
        scale = np.full((-(-shape[0] // block), shape[1]), 1e-2, np.float32)
        return {"q": q, "s": scale}, {"axis": 0, "block_size": block}

    return grid


def _single(shape: Shape) -> tuple[Held, dict[str, int]]:
    """int8 with one scale of shape [1]."""
    return {"q": _integers(shape, _INT8), "s": np.full(1, 1e-3, np.float32)}, {}


PATTERNS = (
    _written("int8, a scale a column", "MatMul", "int8", 17),
    _written("int8, blocks", "MatMul", "int8", 21),
    _written("int8, blocks, Gemm", "Gemm transB", "int8", 21),
    _written("int8, blocks, Relu behind", "MatMul Relu", "int8", 21),
    _written("int4, blocks", "MatMul", "int4", 21),
    _written("int2, blocks", "MatMul", "int2", INT2),
    _written("int8-dynamic", "MatMul", "int8-dynamic", 17),
    _written("half", "MatMul", "half", 17, fused=False),
    _written("shared:4", "MatMul", "shared:4", 17, fused=False),
    _written("int8 table, by rows", "Gather", "int8", 17, fused=False),
    _other("*int8, Gemm with transB*", "Gemm transB", 17, _channels(0, "Gemm transB")),
    _other("*int8, two readers*", "MatMul twice", 17, _channels(1)),
    _other("*int8, Relu reads the product*", "MatMul Relu", 17, _channels(1)),
    _other("*int8, scale of shape [1]*", "MatMul", 17, _single),
    _other("*int4, blocks of 48*", "MatMul", 21, _blocks(48)),
    _other("*int4, blocks of 512*", "MatMul", 21, _blocks(512)),
    _other("*int8 table, whole*", "Gather", 17, _channels(0)),
    _other("*int8 in front of Conv*", "Conv", 17, _channels(0, "Conv")),
)
