"""Shapes and element types of a graph's values, and where the numbers of a computed shape come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, shape_inference

from onnxprune.channels.stand_ins import stand_in
from onnxprune.core.dtypes import numpy_dtype
from onnxprune.model.model import Model
from onnxprune.model.operators import attribute, domain
from onnxprune.model.scopes import DEFAULT_DOMAIN, Scope, scopes_of

Dim = int | str | None
Shape = tuple[Dim, ...]

_SAME = frozenset({"Identity", "Cast", "Unsqueeze", "Squeeze"})  # of a vector or a scalar: the numbers stay in order
_HOPS = 64
# Inputs that are sizes, as (operator, input); the rules in `coupling` bind each of them.
SIZED = frozenset({("Reshape", 1), ("Expand", 1), ("Resize", 3), ("ConstantOfShape", 0)})


def inferred(model: Model) -> ModelProto:
    """A copy whose values have shapes, as far as can be told; the model as it is where inference fails.

    ONNX follows computed shapes from opset 13 on, and not through all operators: where it loses one, `Shapes.resolved`
    may know it, and inference goes on from there.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    _short_domain(proto)
    stand_in(proto)
    try:
        for _ in range(_HOPS):
            proto = shape_inference.infer_shapes(proto, data_prop=True)
            if not _resolve(model, proto):
                break
    except (shape_inference.InferenceError, RuntimeError, ValueError):  # a graph that ONNX finds fault with
        return model.proto
    return proto


def _short_domain(proto: ModelProto) -> None:
    """Spell the default domain "", the only name of it that inference knows."""
    if all(entry.domain != "ai.onnx" for entry in proto.opset_import):
        return
    nodes = (node for top in scopes_of(proto) for scope in top.inner() for node in scope.body.node)
    for entry in (*nodes, *proto.opset_import, *(o for f in proto.functions for o in f.opset_import)):
        if entry.domain in DEFAULT_DOMAIN:
            entry.domain = ""


def _resolve(model: Model, proto: ModelProto) -> bool:
    """Declare sizes that ONNX lost of what Reshape and Resize make; whether there were any."""
    found = False
    for scope in scopes_of(proto)[0].inner():
        assert isinstance(scope.body, GraphProto)
        shapes = Shapes(model, scope, values_of(scope.body))
        infos = {info.name: info for info in scope.body.value_info}
        for node in scope.body.node:
            if node.op_type not in ("Reshape", "Resize") or domain(node):
                continue
            name, value = node.output[0], shapes.values.get(node.input[0])
            known, shape = shapes.shape(name), shapes.resolved(node)
            if value is None or shape is None or (known is not None and len(known) != len(shape)):
                continue
            merged = [b if isinstance(b, int) else a for a, b in zip(known or shape, shape, strict=True)]
            if known is None or merged != list(known):
                if name in infos:
                    scope.body.value_info.remove(infos[name])
                scope.body.value_info.append(helper.make_tensor_value_info(name, value.element, merged))
                found = True
    return found


@dataclass(frozen=True)
class Value:
    """What is known of a value: `shape` is None where not even the rank is."""

    shape: Shape | None
    element: int

    @property
    def dtype(self) -> np.dtype | None:
        """The numpy type of its elements, where there is one."""
        return numpy_dtype(self.element) if self.element else None


def values_of(graph: GraphProto) -> dict[str, Value]:
    """Inputs, outputs, inner values and initializers of one graph."""
    found = {info.name: _value(info.type) for info in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in graph.initializer:
        found[tensor.name] = Value(tuple(tensor.dims), tensor.data_type)
    return found


def _value(type_: TypeProto) -> Value:
    tensor = type_.tensor_type
    if not tensor.HasField("shape"):
        return Value(None, tensor.elem_type)
    return Value(tuple(_dim(d) for d in tensor.shape.dim), tensor.elem_type)


def _dim(dim: object) -> Dim:
    value = getattr(dim, "dim_value", 0)
    return value if value > 0 else (getattr(dim, "dim_param", "") or None)


def set_dim(info: ValueInfoProto, axis: int, size: int) -> None:
    """Write a new size into a value's declared shape, where it declares one."""
    shape = info.type.tensor_type.shape
    if axis < len(shape.dim) and shape.dim[axis].HasField("dim_value"):
        shape.dim[axis].dim_value = size


@dataclass(frozen=True)
class ConstantEntry:
    """A size that is written in a constant: input `position` of `node`, element `index`."""

    node: NodeProto
    position: int
    index: int
    number: int

    @property
    def key(self) -> tuple[int, int, int]:
        """The place."""
        return id(self.node), self.position, self.index


@dataclass(frozen=True)
class SizeOf:
    """A size that is measured at run time: the length of a value's axis."""

    value: str
    axis: int


Source = ConstantEntry | SizeOf | None  # None: computed in some other way
_Known = dict[str, list[Source] | None]  # of values that several ways lead to


def _rest(before: Shape, sizes: list[Dim]) -> Dim:
    """What -1 stands for, where the sizes that are not known are the same on both sides."""
    known = [d for d in before if isinstance(d, int)], [d for d in sizes if isinstance(d, int) and d > 0]
    names = (
        sorted(str(d) for d in before if not isinstance(d, int)),
        sorted(str(d) for d in sizes if not isinstance(d, int)),
    )
    if names[0] != names[1] or "None" in names[0]:
        return None
    return prod(known[0]) // max(prod(known[1]), 1)


@dataclass(frozen=True)
class Shapes:
    """What is known of the values of one graph."""

    model: Model
    scope: Scope
    values: dict[str, Value]

    def shape(self, name: str) -> Shape | None:
        """The value's shape, or None where not even its rank is known."""
        value = self.values.get(name)
        return value.shape if value is not None else None

    def numbers(self, name: str) -> list[int] | None:
        """The whole numbers of a constant that no caller may override, or None where the value is none."""
        owner = self.scope.owner(name) if name else None
        if owner is None or (name in owner.inputs and self.model.proto.ir_version >= 4):
            return None
        tensor = self.scope.constant(name)
        return None if tensor is None else [int(n) for n in self.model.array(tensor).reshape(-1)]

    def sources(self, node: NodeProto, position: int) -> list[Source] | None:
        """Where each number of the vector comes from that `node` reads at `position`; None if it is no such vector."""
        return self._sources(node, position, {}, _HOPS)

    def _sources(self, node: NodeProto, position: int, known: _Known, hops: int) -> list[Source] | None:
        if position >= len(node.input) or not node.input[position] or not hops:
            return None
        name = node.input[position]
        numbers = self.numbers(name)
        if numbers is not None:
            return [ConstantEntry(node, position, index, number) for index, number in enumerate(numbers)]
        maker = self.scope.producers.get(name)
        if name not in known:
            known[name] = None if maker is None else self._made(maker, known, hops - 1)
        return known[name]

    def resolved(self, node: NodeProto) -> Shape | None:
        """What a Reshape or Resize makes, from the sources of its sizes."""
        before = self.shape(node.input[0])
        sources = self.sources(node, 1 if node.op_type == "Reshape" else 3)
        if before is None or sources is None or (node.op_type == "Resize" and len(sources) != len(before)):
            return None
        sizes: list[Dim] = []
        for place, source in enumerate(sources):
            if isinstance(source, ConstantEntry):
                sizes.append(before[place] if source.number == 0 and place < len(before) else source.number)
            elif isinstance(source, SizeOf):
                shape = self.shape(source.value)
                sizes.append(shape[source.axis] if shape is not None else None)
            else:
                sizes.append(None)
        if -1 in sizes:
            sizes[sizes.index(-1)] = _rest(before, sizes)
        return tuple(sizes)

    def only_sizes(self, maker: NodeProto, matters: Callable[[Source], bool]) -> bool:
        """Whether those numbers that matter of a vector serve as sizes in the end, in places that `SIZED` lists."""
        waiting, seen = [maker], set[str]()
        while waiting:
            maker = waiting.pop()
            name = maker.output[0]
            if name in seen:
                continue
            seen.add(name)
            numbers = self._made(maker, {}, _HOPS)
            if numbers is None or name in self.scope.outputs:
                return False
            if not any(map(matters, numbers)):
                continue
            if any(
                inner.owner(name) is self.scope and name in inner.readers
                for inner in self.scope.inner()
                if inner is not self.scope
            ):
                return False
            readers = self.scope.readers.get(name, ())
            waiting += [reader for reader, position in readers if (reader.op_type, position) not in SIZED]
        return True

    def _made(self, maker: NodeProto, known: _Known, hops: int) -> list[Source] | None:
        if domain(maker):
            return None
        kind = maker.op_type
        if kind == "Shape":
            shape = self.shape(maker.input[0])
            if shape is None:
                return None
            axes = range(len(shape))[attribute(maker, "start", 0) : attribute(maker, "end", len(shape))]
            return [SizeOf(maker.input[0], axis) for axis in axes]
        if kind == "Concat":
            parts = [self._sources(maker, position, known, hops) for position in range(len(maker.input))]
            return None if any(part is None for part in parts) else [source for part in parts for source in part or ()]
        inner = self._sources(maker, 0, known, hops)
        if inner is None or kind in _SAME:
            return inner
        if kind == "Gather":
            picked = self.numbers(maker.input[1])
            return None if picked is None else [inner[index] for index in picked]
        if kind == "Slice" and len(maker.input) >= 3:
            bounds = [self.numbers(name) for name in (*maker.input[1:3], *maker.input[4:])]
            if all(b is not None and len(b) == 1 for b in bounds):
                return inner[slice(*(b[0] for b in bounds if b))]
        return None
