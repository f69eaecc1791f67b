"""Random small models with random weights, each recreated by its number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS, IR_VERSIONS = range(7, 29), range(3, 14)
BATCH = 3
# Element types of weights, and the opset from which Cast or DequantizeLinear makes float32 of them.
CASTS = {
    "FLOAT16": 7, "DOUBLE": 7, "INT8": 7, "UINT8": 7, "INT16": 7, "UINT16": 7, "INT32": 7, "INT64": 7, "BOOL": 7,
    "UINT32": 7, "UINT64": 7, "BFLOAT16": 13, "FLOAT8E4M3FN": 19, "FLOAT8E5M2": 19, "FLOAT8E4M3FNUZ": 19,
    "FLOAT8E5M2FNUZ": 19, "INT4": 21, "UINT4": 21, "FLOAT4E2M1": 23, "INT2": 25, "UINT2": 25,
}  # fmt: skip
SCALED = {
    "INT8": 10, "UINT8": 10, "FLOAT8E4M3FN": 19, "FLOAT8E5M2": 19, "INT16": 21, "UINT16": 21, "INT4": 21, "UINT4": 21,
    "FLOAT4E2M1": 23, "INT2": 25, "UINT2": 25,
}  # fmt: skip
Array = np.ndarray


@dataclass(frozen=True)
class Made:
    """A model with inputs that it takes."""

    model: onnx.ModelProto
    feeds: dict[str, Array]


@dataclass
class Value:
    """A value under construction: its shape behind the batch."""

    name: str
    shape: tuple[int, ...]


@dataclass
class Builder:
    """The parts of a model that grows."""

    rng: np.random.Generator
    opset: int
    ir_version: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    count: int = 0

    def name(self, what: str = "v") -> str:
        """A new name."""
        self.count += 1
        return f"{what}{self.count}"

    def pick(self, *choices: Any) -> Any:
        """One of them."""
        return choices[self.rng.integers(len(choices))]

    def chance(self, share: float) -> bool:
        """True for this share of the calls."""
        return bool(self.rng.random() < share)

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output, named or not."""
        out = self.name()
        name = "" if self.chance(0.3) else f"{kind}_{out}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name, **attributes))
        return out

    def constant(self, array: Array, element: int | None = None) -> str:
        """An initializer or a Constant node, its numbers raw or in a list."""
        name = self.name("w")
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if tensor.data_type == TensorProto.FLOAT and self.chance(0.2):
            tensor = helper.make_tensor(name, TensorProto.FLOAT, tensor.dims, np.asarray(array).reshape(-1).tolist())
        if self.chance(0.2):
            tensor.name = ""
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.tensors.append(tensor)
        return name

    def numbers(self, *values: int) -> str:
        """A vector of whole numbers."""
        return self.constant(np.array(values, np.int64))

    def axes(self, kind: str, inputs: Sequence[str], axes: list[int], since: int, **attributes: Any) -> str:
        """An operator whose axes became an input."""
        if self.opset < since:
            return self.op(kind, inputs, axes=axes, **attributes)
        return self.op(kind, [*inputs, self.numbers(*axes)], **attributes)

    # weights --------------------------------------------------------------------------------------

    def values(self, shape: tuple[int, ...], fan: int) -> Array:
        """Numbers as weights have them, with odd ones among them."""
        size = 1 / math.sqrt(max(fan, 1))
        array = self.rng.standard_normal(shape) * size * self.pick(*[1] * 12, 1e-30, 1e-20, 1e4)
        if self.chance(0.3):
            array[self.rng.random(shape) < self.pick(0.3, 0.9)] = 0
        if len(shape) > 1 and self.chance(0.4):  # dead channels
            axis = int(self.rng.integers(len(shape)))
            gone = self.rng.random(shape[axis]) < 0.3
            array[(slice(None),) * axis + (gone,)] = 0
        if self.chance(0.1):
            array = np.round(array / size) * size
        if self.chance(0.02):
            array[...] = self.pick(0, 0.5)
        return array

    def weight(self, shape: tuple[int, ...], fan: int) -> str:
        """Float32 values from a constant of any type, perhaps behind a scale, a cast or a transposition."""
        array = self.values(shape, fan)
        if self.chance(0.5):
            made = self.constant(array.astype(np.float32))
        elif self.chance(0.5):
            made = self._cast(array)
        else:
            made = self._scaled(array)
        if self.chance(0.1):
            made = self.op("Identity", [made])
        if self.chance(0.1):
            made = self.op("Mul", [made, self.constant(np.float32(self.pick(0.5, 2, 1)))])
        return made

    def _types(self, table: dict[str, int]) -> list[str]:
        return [name for name, since in table.items() if since <= self.opset and hasattr(TensorProto, name)]

    def _cast(self, array: Array) -> str:
        element = getattr(TensorProto, self.pick(*self._types(CASTS)))
        dtype = helper.tensor_dtype_to_np_dtype(element)
        wide = array if dtype.kind == "f" else array / (np.abs(array).max(initial=0) or 1) * 3
        if dtype.kind in "u" or dtype.name.startswith("uint"):
            wide = np.abs(wide)
        with np.errstate(over="ignore"):
            typed = wide.astype(np.float32).astype(dtype)
        return self.op("Cast", [self.constant(typed)], to=TensorProto.FLOAT)

    def _scaled(self, array: Array) -> str:
        known = self._types(SCALED)
        if not known:
            return self.constant(array.astype(np.float32))
        name = self.pick(*known)
        dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
        whole = "INT" in name
        reach = float(np.abs(array).max(initial=0)) or 1.0
        axis = int(self.rng.integers(array.ndim)) if self.opset >= 13 and self.chance(0.6) else None
        shape: tuple[int, ...] = () if axis is None else (array.shape[axis],)
        attributes = {} if axis is None else {"axis": axis}
        if axis is not None and self.opset >= 21 and array.shape[axis] % 4 == 0 and self.chance(0.3):
            attributes["block_size"] = 4
            shape = tuple(size // 4 if place == axis else size for place, size in enumerate(array.shape))
        limit = {"INT8": 127, "UINT8": 255, "INT4": 7, "UINT4": 15, "INT2": 1, "UINT2": 3}.get(name, 1000)
        most = limit if whole else 4
        scale = np.full(shape, reach / most, np.float32) * self.rng.uniform(0.8, 1.2, shape).astype(np.float32)
        typed = (array / reach * most).round() if whole else array / reach * most
        inputs = []
        zero = np.zeros(shape)
        if whole and name.startswith("U"):
            zero = zero + limit // 2
            typed = np.clip(typed / 2 + limit // 2, 0, limit)
        inputs = [self.constant(typed.astype(np.float32).astype(dtype)), self.constant(scale)]
        if name.startswith("U") or self.chance(0.5):
            inputs.append(self.constant(zero.astype(np.float32).astype(dtype)))
        return self.op("DequantizeLinear", inputs, **attributes)


# operators: each takes a value and gives one ------------------------------------------------------


def matmul(b: Builder, x: Value) -> Value:
    """MatMul, perhaps with a bias."""
    width, out = x.shape[-1], int(b.pick(4, 8, 16, 33, 64))
    weight = b.weight((width, out), width)
    if b.opset >= 12 and b.chance(0.1):
        name = b.op("Einsum", [x.name, weight], equation="...i,ij->...j")
    elif len(x.shape) == 2 and b.chance(0.3):
        name = b.op("MatMul", [x.name, b.axes("Unsqueeze", [weight], [0], 13)])
    else:
        name = b.op("MatMul", [x.name, weight])
    if b.chance(0.5):
        name = b.op("Add", [name, b.weight((out,), 1)])
    return Value(name, (*x.shape[:-1], out))


def gemm(b: Builder, x: Value) -> Value:
    """Gemm on rows."""
    width, out = math.prod(x.shape), int(b.pick(4, 8, 16, 33, 64))
    rows = b.op("Flatten", [x.name], axis=1) if len(x.shape) > 1 else x.name
    swapped = int(b.chance(0.6))
    inputs = [rows, b.weight((out, width) if swapped else (width, out), width)]
    if b.opset < 11 or b.chance(0.7):
        inputs.append(b.weight((out,), 1))
    alpha, beta = (float(b.pick(1, 1, 0.5)) for _ in range(2))
    return Value(b.op("Gemm", inputs, transB=swapped, alpha=alpha, beta=beta), (out,))


def conv(b: Builder, x: Value) -> Value:
    """A convolution over the last two axes, made where there are none."""
    if len(x.shape) != 3:
        size = math.prod(x.shape)
        channels = next(c for c in (4, 3, 2, 1) if size % c == 0)
        x = Value(
            b.op("Reshape", [x.name, b.numbers(-1, channels, 1, size // channels)]), (channels, 1, size // channels)
        )
    channels, height, width = x.shape
    out = int(b.pick(4, 8, 9))
    kernel = (min(height, 1), min(width, 3))
    groups = channels if b.chance(0.2) else 1
    out = channels * 2 if groups > 1 else out
    pads = [0, kernel[1] // 2, 0, kernel[1] // 2]
    if groups == 1 and b.chance(0.2):
        inputs = [x.name, b.weight((channels, out, *kernel), channels)]
        name = b.op("ConvTranspose", inputs, kernel_shape=kernel)
        return Value(name, (out, height + kernel[0] - 1, width + kernel[1] - 1))
    inputs = [x.name, b.weight((out, channels // groups, *kernel), channels * kernel[1])]
    if b.chance(0.6):
        inputs.append(b.weight((out,), 1))
    name = b.op("Conv", inputs, kernel_shape=kernel, pads=pads, group=groups)
    made = Value(name, (out, height, width + 2 * pads[1] - kernel[1] + 1))
    if b.chance(0.4):
        stats = [b.constant((np.abs(b.rng.standard_normal(out)) + 0.1).astype(np.float32)) for _ in range(4)]
        made.name = b.op("BatchNormalization", [name, *stats])
    return made


def activation(b: Builder, x: Value) -> Value:
    """One operand, entry by entry."""
    kinds = {
        "Relu": 7,
        "Sigmoid": 7,
        "Tanh": 7,
        "LeakyRelu": 7,
        "Abs": 7,
        "Softplus": 7,
        "HardSwish": 14,
        "Mish": 18,
        "Gelu": 20,
    }
    kind = b.pick(*[kind for kind, since in kinds.items() if since <= b.opset], "Clip")
    if kind == "Clip":
        if b.opset < 11:
            return Value(b.op("Clip", [x.name], min=-1.0, max=2.0), x.shape)
        return Value(b.op("Clip", [x.name, b.constant(np.float32(-1)), b.constant(np.float32(2))]), x.shape)
    return Value(b.op(kind, [x.name]), x.shape)


def residual(b: Builder, x: Value) -> Value:
    """A branch that is added to what it came from."""
    width = x.shape[-1]
    branch = b.op("MatMul", [activation(b, x).name, b.weight((width, width), width)])
    return Value(b.op("Add", [x.name, branch] if b.chance(0.5) else [branch, x.name]), x.shape)


def scaled(b: Builder, x: Value) -> Value:
    """Arithmetic with a constant."""
    shape = b.pick((), (x.shape[-1],), (1, *x.shape))
    kind = b.pick("Mul", "Add", "Sub")
    return Value(b.op(kind, [x.name, b.weight(shape or (1,), 1)]), x.shape)


def normalised(b: Builder, x: Value) -> Value:
    """A norm or a softmax over the last axis."""
    width = x.shape[-1]
    if b.opset >= 17 and b.chance(0.5):
        return Value(
            b.op("LayerNormalization", [x.name, b.weight((width,), 1), b.weight((width,), 1)], axis=-1), x.shape
        )
    return Value(b.op("Softmax", [x.name], axis=len(x.shape)), x.shape)


def moved(b: Builder, x: Value) -> Value:
    """Entries in other places."""
    kind, width = b.pick("Transpose", "Flatten", "Slice", "Split", "Concat", "ReduceMean"), x.shape[-1]
    rank = len(x.shape) + 1
    if kind == "Transpose" and rank > 2:
        perm = [0, *(1 + b.rng.permutation(rank - 1))]
        return Value(b.op("Transpose", [x.name], perm=perm), tuple(x.shape[p - 1] for p in perm[1:]))
    if kind == "Slice" and width > 2:
        if b.opset < 10:
            return Value(b.op("Slice", [x.name], axes=[rank - 1], starts=[1], ends=[width]), (*x.shape[:-1], width - 1))
        places = [b.numbers(n) for n in (1, width, rank - 1)]
        return Value(b.op("Slice", [x.name, *places]), (*x.shape[:-1], width - 1))
    if kind == "Split" and width % 2 == 0:
        first, second = b.name(), b.name()
        inputs, attributes = [x.name], {"axis": rank - 1}
        if b.opset < 13:
            attributes["split"] = [width // 2] * 2
        else:
            inputs.append(b.numbers(width // 2, width // 2))
        b.nodes.append(helper.make_node("Split", inputs, [first, second], **attributes))
        return Value(b.op("Mul", [first, second]), (*x.shape[:-1], width // 2))
    if kind == "Concat":
        return Value(b.op("Concat", [x.name, activation(b, x).name], axis=rank - 1), (*x.shape[:-1], 2 * width))
    if kind == "ReduceMean" and rank > 2:
        return Value(b.axes("ReduceMean", [x.name], [1], 18, keepdims=0), x.shape[1:])
    return Value(b.op("Flatten", [x.name], axis=1), (math.prod(x.shape),))


def recurrent(b: Builder, x: Value) -> Value:
    """A recurrent layer over the second axis, made where there is none."""
    if len(x.shape) != 2:
        x = (
            Value(b.op("Reshape", [x.name, b.numbers(-1, 2, math.prod(x.shape) // 2)]), (2, math.prod(x.shape) // 2))
            if (math.prod(x.shape) % 2 == 0)
            else Value(b.op("Reshape", [x.name, b.numbers(-1, 1, math.prod(x.shape))]), (1, math.prod(x.shape)))
        )
    kind, hidden, (length, width) = b.pick("LSTM", "GRU", "RNN"), int(b.pick(4, 8)), x.shape
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
    along = b.op("Transpose", [x.name], perm=[1, 0, 2])
    inputs = [along, b.weight((1, gates, width), width), b.weight((1, gates, hidden), hidden)]
    if b.chance(0.5):
        inputs.append(b.weight((1, 2 * gates), 1))
    made = b.axes("Squeeze", [b.op(kind, inputs, hidden_size=hidden)], [1], 13)
    return Value(b.op("Transpose", [made], perm=[1, 0, 2]), (length, hidden))


def embedded(b: Builder, x: Value) -> Value:
    """Rows of a table, added to the value."""
    width, name = x.shape[-1], b.name("ids")
    rows = int(b.pick(20, 100))
    b.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, [BATCH]))
    b.feeds[name] = b.rng.integers(0, rows, BATCH)
    found = b.op("Gather", [b.weight((rows, width), 1), name])
    shaped = b.op("Reshape", [found, b.numbers(BATCH, *[1] * (len(x.shape) - 1), width)])
    return Value(b.op("Add", [x.name, shaped]), x.shape)


def branched(b: Builder, x: Value) -> Value:
    """An If whose branches multiply: with an inner weight, and with one from outside."""
    width, flag = x.shape[-1], b.name("flag")
    b.inputs.append(helper.make_tensor_value_info(flag, TensorProto.BOOL, []))
    b.feeds[flag] = np.array(b.chance(0.5))
    outer, out, graphs = b.weight((width, width), width), b.name(), []
    for where in ("then", "else"):
        inner = numpy_helper.from_array(b.values((width, width), width).astype(np.float32), b.name("inner"))
        made = b.name()
        held = b.ir_version < 4 or b.chance(0.5)  # such old graphs list their initializers as inputs
        nodes = [
            *([helper.make_node("Constant", [], [inner.name], value=inner)] if held else ()),
            helper.make_node("MatMul", [x.name, inner.name], [f"{made}a"]),
            helper.make_node("MatMul", [f"{made}a", outer], [made]),
        ]
        info = helper.make_tensor_value_info(made, TensorProto.FLOAT, None)
        graphs.append(helper.make_graph(nodes, where, [], [info], [] if held else [inner]))
    b.nodes.append(helper.make_node("If", [flag], [out], then_branch=graphs[0], else_branch=graphs[1]))
    return Value(out, x.shape)


def called(b: Builder, x: Value) -> Value:
    """A function of the model with a weight inside and one from its caller."""
    if b.ir_version < 8 or b.opset < 11:
        return matmul(b, x)
    width, name = x.shape[-1], b.name("Local")
    held = numpy_helper.from_array(b.values((width, width), width).astype(np.float32))
    nodes = [
        helper.make_node("Constant", [], ["k"], value=held),
        helper.make_node("MatMul", ["a", "k"], ["m"]),
        helper.make_node("MatMul", ["m", "given"], ["r"]),
    ]
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function("local", name, ["a", "given"], ["r"], nodes, imports))
    out = b.name()
    b.nodes.append(helper.make_node(name, [x.name, b.weight((width, width), width)], [out], domain="local"))
    return Value(out, x.shape)


STEPS: tuple[Callable[[Builder, Value], Value], ...] = (
    matmul, matmul, matmul, gemm, gemm, conv, conv, activation, activation, activation, residual, scaled, normalised,
    moved, moved, recurrent, embedded, branched, called,
)  # fmt: skip


def made(number: int) -> Made:
    """The model of a number."""
    rng = np.random.default_rng([2026, number])
    b = Builder(rng, int(rng.choice(OPSETS)), int(rng.choice(IR_VERSIONS)))
    start = b.pick((16,), (32,), (4, 16), (5, 12), (3, 4, 8))
    x = Value("x", start)
    b.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, *start]))
    b.feeds["x"] = rng.standard_normal((BATCH, *start)).astype(np.float32)
    outputs: list[Value] = []
    for _ in range(int(rng.integers(1, 7))):
        x = b.pick(*STEPS)(b, x)
        if math.prod(x.shape) > 2048:
            x = gemm(b, x)
        if b.chance(0.1):
            outputs.append(x)
    outputs = [*(v for v in outputs if v.name != x.name), x]
    if b.chance(0.15):
        rng.shuffle(b.nodes)  # type: ignore[arg-type]
    listed = [*b.inputs]
    if b.ir_version < 4:
        listed += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in b.tensors]
    infos = [
        helper.make_tensor_value_info(v.name, TensorProto.FLOAT, None) for v in {v.name: v for v in outputs}.values()
    ]
    graph = helper.make_graph(b.nodes, "random", listed, infos, b.tensors)
    imports = [helper.make_opsetid(str(b.pick("", "", "ai.onnx")), b.opset)]
    imports += [helper.make_opsetid("local", 1)] * bool(b.functions)
    proto = helper.make_model(graph, opset_imports=imports, functions=b.functions, ir_version=b.ir_version)
    return Made(proto, b.feeds)
