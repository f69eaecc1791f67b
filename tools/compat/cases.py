"""The models: one weight in each form, in front of each kind of layer, at several opsets; written by onnxprune, here.

A case is a folder: encoded.onnx, decoded.onnx (the same weights as plain initializers), feeds.npz and expected.npz (the
outputs of the decoded model in the onnxruntime of this environment).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.core.override import override
from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.measured import GATHER, LARGE, LARGE_GATHER, LARGE_MATMUL, LARGEST_GATHER
from onnxprune.encodings.smallest import Encoder
from onnxprune.encodings.targets import EVERY_FORM
from onnxprune.encodings.values.base import INT2
from onnxprune.encodings.values.dynamic import Int8Dynamic
from onnxprune.model.model import Model
from onnxprune_passes import Encode

VALUES = ("exact", "half", "shared:4", "shared:5", "int8", "int8:5", "int8-dynamic", "int4", "int2")
# opset: the IR version that came with it (9: what coo needs)
OPSETS = {9: 5, 11: 6, 13: 7, 17: 8, 21: 10, INT2: 13}
CONSUMERS = ("MatMul", "MatMul Add", "Gemm Relu", "Conv", "LSTM", "Gather", "QDQ MatMul", "QDQ Conv", *LARGE)
# Of layers with large weights: what a form does there depends on neither the opset nor the bits.
_LARGE_VALUES, _LARGE_OPSET = ("exact", "half", "shared:4", "int8"), 17
# Tables whose entries fill no whole number of words: what cuts the last one off is to be folded too.
_SHAPES = {LARGE_GATHER: (4093, 255), LARGEST_GATHER: (32719, 255), LARGE_MATMUL: (1024, 1024)}
DENSITY = 0.1  # of the weights: every encoding takes fewer bytes than the dense tensor, and over 256 values are kept
QUANTISE = 10  # the opset that brought QuantizeLinear


@dataclass(frozen=True)
class Case:
    """An encoded model: one weight in a form, read by one consumer, at one opset; `fused`: integers for a kernel."""

    encoding: str
    values: str
    fused: bool
    consumer: str
    opset: int

    @property
    def name(self) -> str:
        """A folder's name."""
        text = f"{self.encoding}-{self.values}{'-fused' * self.fused}-{self.consumer}-{self.opset}"
        return text.replace(":", "").replace(" ", "_")


class Folding(Encode):
    """encode without integers that a kernel reads, whoever reads the weight."""

    @property
    @override
    def _encoder(self) -> Encoder:
        return Encoder(self.encoding, self.prefer, dataclasses.replace(EVERY_FORM, integers=frozenset()))


def consumer_model(consumer: str, opset: int) -> onnx.ModelProto:
    """A model of one pruned weight and its reader."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        array = rng.standard_normal(shape).astype(np.float32)
        return np.where(rng.random(shape) < DENSITY, array, np.float32(0))

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes)

    bias = rng.standard_normal(96).astype(np.float32)
    element, x, y, held = TensorProto.FLOAT, [2, 128], [2, 96], {"w": weight(128, 96)}
    if consumer in ("MatMul", LARGE_MATMUL):
        nodes, held = [node("MatMul", ["x", "w"], "y")], {"w": weight(*_SHAPES.get(consumer, (128, 96)))}
        x, y = [2, held["w"].shape[0]], [2, held["w"].shape[1]]
    elif consumer == "MatMul Add":
        nodes, held["b"] = [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "y")], bias
    elif consumer == "Gemm Relu":
        held = {"w": weight(96, 128), "b": bias}
        nodes = [node("Gemm", ["x", "w", "b"], "h", transB=1), node("Relu", ["h"], "y")]
    elif consumer == "Conv":
        x, y, held = [1, 16, 8, 8], [1, 32, 6, 6], {"w": weight(32, 16, 3, 3)}
        nodes = [node("Conv", ["x", "w"], "y")]
    elif consumer == "LSTM":
        x, y, held = [5, 2, 32], [5, 1, 2, 32], {"w": weight(1, 128, 32), "r": weight(1, 128, 32)}
        nodes = [node("LSTM", ["x", "w", "r"], "y", hidden_size=32)]
    elif consumer.startswith(GATHER):
        held, nodes = {"w": weight(*_SHAPES.get(consumer, (256, 64)))}, [node("Gather", ["w", "x"], "y")]
        element, x, y = TensorProto.INT64, [7], [7, held["w"].shape[1]]
    else:
        x, y, held, nodes = _quantised(consumer.split()[1], weight, node)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", element, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=OPSETS[opset])


def _quantised(layer: str, weight: Any, node: Any) -> tuple[list[int], list[int], dict[str, Any], list[onnx.NodeProto]]:
    """Input, output, constants and nodes of a layer between QuantizeLinear and DequantizeLinear."""
    x, y, shape = ([1, 16, 8, 8], [1, 32, 6, 6], (32, 16, 3, 3)) if layer == "Conv" else ([2, 128], [2, 96], (128, 96))
    held = {
        "w": np.clip(np.rint(weight(*shape) * 40), -127, 127).astype(np.int8), "sw": np.float32(0.025),
        "zw": np.int8(0), "sx": np.float32(0.03), "zx": np.uint8(120), "sy": np.float32(0.3), "zy": np.uint8(128),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], "xq"), node("DequantizeLinear", ["xq", "sx", "zx"], "xd"),
        node("DequantizeLinear", ["w", "sw", "zw"], "wd"), node(layer, ["xd", "wd"], "h"),
        node("QuantizeLinear", ["h", "sy", "zy"], "hq"), node("DequantizeLinear", ["hq", "sy", "zy"], "y"),
    ]  # fmt: skip
    return x, y, held, nodes


def feed(consumer: str) -> Any:
    """The input of a consumer's model."""
    rng = np.random.default_rng(1)
    if consumer.startswith(GATHER):
        return rng.integers(0, 256, 7)
    if consumer == LARGE_MATMUL:
        return rng.standard_normal((2, _SHAPES[consumer][0])).astype("float32")
    shape = (1, 16, 8, 8) if consumer.endswith("Conv") else (5, 2, 32) if consumer == "LSTM" else (2, 128)
    return rng.standard_normal(shape).astype("float32")


def write_cases(
    folder: Path, consumers: Iterable[str] = CONSUMERS, opsets: Iterable[int] = tuple(OPSETS)
) -> list[Case]:
    """Every form that takes fewer bytes than the dense tensor, in front of every consumer, at every opset."""
    forms = [(encoding, values) for values in VALUES for encoding in GRAPH] + [("coo", "exact")]
    written = []
    for opset, consumer, (encoding, values) in ((o, c, f) for o in opsets for c in consumers for f in forms):
        if consumer.startswith("QDQ") and (values != "exact" or opset < QUANTISE):
            continue
        if consumer in LARGE and (values not in _LARGE_VALUES or opset != _LARGE_OPSET):
            continue
        if opset == INT2 and values != "int2":  # which no older opset has in front of a kernel
            continue
        source = folder / "source.onnx"
        onnx.save(consumer_model(consumer, opset), source)
        dynamic = values == Int8Dynamic.name
        if dynamic:
            np.savez(folder / "data.npz", x=feed(consumer))
        steps = ((True, Encode),) if dynamic else ((True, Encode), (False, Folding))
        for fused, step in steps[consumer in LARGE :]:  # kernels take large weights as they take small ones
            model = Model.load(source)
            step(encoding=encoding, values=values, data=str(folder / "data.npz") if dynamic else "").run(model)
            held = encoded_weights(model)
            stored = bool(held or model.proto.graph.sparse_initializer) and model.opset == opset
            if not stored or any(group.fused for group in held) != fused:
                continue
            case = Case(encoding, values, fused, consumer, opset)
            assert all((g.encoding, g.values) == (encoding, values.split(":")[0]) for g in held), case
            write_case(folder / case.name, model, {"x": feed(consumer)})
            written.append(case)
        source.unlink()
    return written


def write_case(place: Path, model: Model, feeds: dict[str, Any]) -> None:
    """The folder of a case."""
    place.mkdir()
    model.write(place / "encoded.onnx")
    onnxprune.decode(place / "encoded.onnx", place / "decoded.onnx", verify=False)
    write_run(place, feeds)


def write_run(place: Path, feeds: dict[str, Any]) -> None:
    """What the models of a case are given, and what the decoded one gives for it."""
    session = ort.InferenceSession(str(place / "decoded.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    np.savez(place / "feeds.npz", **feeds)
    np.savez(place / "expected.npz", **dict(zip(names, session.run(names, feeds), strict=True)))
