"""Encoded weights in a graph: found by their marks, decoded in numpy, taken out again.

A weight is all that its marked node is computed from. Names tell what each part is, see `model.encoded_names`; where
another tool let weights share parts, ONNX Runtime computes the weight.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.core.chunked import ChunkedArray
from onnxprune.core.dtypes import FLOATS, PACKED_INTEGERS, Array
from onnxprune.encodings import FORMS, GATHERED, packing
from onnxprune.encodings.graph import fusion
from onnxprune.encodings.graph.constant_parts import ConstantParts, PartsAtReaders
from onnxprune.encodings.graph.editing import TAG, constant_node, delete_named
from onnxprune.encodings.graph.products import ProductParts, carrier_name, product_parts
from onnxprune.encodings.graph.tables import TableParts, table_parts
from onnxprune.encodings.graph.unpacked import unpacked
from onnxprune.encodings.positions.chunks import parts_of
from onnxprune.encodings.targets import readers_in
from onnxprune.encodings.values.blocks import GRIDS
from onnxprune.encodings.values.integers import Int8
from onnxprune.errors import ModelError
from onnxprune.model.encoded_names import Mark
from onnxprune.model.model import Model, copy_notes
from onnxprune.model.provenance import Coding
from onnxprune.model.scopes import CONSTANT_NODE, Scope, scopes_of

_ELEMENTS = frozenset(TensorProto.DataType.keys())


@dataclass(frozen=True)
class EncodedWeight:
    """An encoded weight found in a graph."""

    scope: Scope
    value: str
    mark: Mark
    parts: ConstantParts

    @property
    def constants(self) -> dict[str, TensorProto]:
        """Its stored arrays by name."""
        return self.parts.constants

    @property
    def nodes(self) -> list[NodeProto]:
        """Those that decode it, the one that writes the weight first."""
        return self.parts.nodes

    @property
    def intact(self) -> bool:
        """Whether it still has every part for itself and under the name that tells what it is."""
        names = [name.removeprefix(self.prefix) for name in self.constants if name.startswith(self.prefix)]
        if len(names) < len(self.constants) or any(name.isdecimal() for name in names):
            return False  # `<id>.<number>` is what a node computed, and ONNX Runtime folded in a file that it wrote
        sizes = [node.input[0] for node in self.nodes if node.op_type == "ConstantOfShape"]
        return not any(node.op_type == "Reshape" and node.input[1] in sizes for node in self.nodes)

    @property
    def encoding(self) -> str:
        """How its positions are stored."""
        return self.mark.encoding

    @property
    def values(self) -> str:
        """Its value form."""
        return self.mark.values

    @property
    def flags(self) -> str:
        """What decoding must know beside the parts."""
        return self.mark.flags

    @property
    def element(self) -> int:
        """The weight's element type."""
        return TensorProto.DataType.Value(self.mark.element)

    @property
    def prefix(self) -> str:
        """What the names of its parts begin with."""
        return self.mark.prefix

    @property
    def name(self) -> str:
        """The weight's name, with the path to its body."""
        return self.scope.path + self.value

    @property
    def stored_as(self) -> str:
        """The value form, with the number of levels where there is a codebook."""
        codebook = self.constants.get(f"{self.prefix}book")
        levels = "" if codebook is None else f", {math.prod(codebook.dims)} levels"
        return f"{self.values}{levels}"

    @property
    def fused(self) -> bool:
        """Whether a MatMul reads its integers."""
        return self.dynamic or any(node.op_type == "DequantizeLinear" for node in self.nodes)

    @property
    def packed(self) -> bool:
        """Whether an initializer holds them in less than a byte each."""
        values = self.constants.get(f"{self.prefix}values")
        return values is not None and values.data_type in PACKED_INTEGERS

    @property
    def dynamic(self) -> bool:
        """Whether they are multiplied with integers that each run makes of the activations."""
        return isinstance(self.parts, ProductParts)

    @property
    def decoder(self) -> str:
        """The name of the node that a run executes where it decodes all of the weight."""
        return carrier_name(self.prefix) if self.dynamic else str(self.mark)

    @property
    def gathered(self) -> bool:
        """Whether rows of it are gathered, and decoded then."""
        return isinstance(self.parts, TableParts)

    @property
    def readers(self) -> set[str]:
        """The operators that read it, in its body and below."""
        if self.gathered:
            return {"Gather"}
        return {"MatMul"} if self.dynamic else readers_in(self.scope, self.value)

    @property
    def was_constant(self) -> bool:
        """Whether the weight was a Constant node."""
        return "c" in self.flags.split(".")

    @property
    def as_constants(self) -> bool:
        """Whether its parts are Constant nodes."""
        return next(iter(self.constants)) not in self.scope.initializers

    def place(self, kind: str, last: int) -> int:
        """Where it stood among initializers ("i") or inputs ("n"); at the end where its mark does not say."""
        found = re.search(rf"\.{kind}(\d+)", self.flags)
        return min(int(found[1]), last) if found else last

    def nbytes(self, model: Model) -> int:
        """Bytes that it takes in the file."""
        nodes = sum(node.ByteSize() + TAG for node in self.nodes)
        payloads = sum(model.nbytes(t) + TAG for t in self.constants.values())
        if self.as_constants:
            payloads += sum(CONSTANT_NODE + len(name) for name in self.constants)
        shapes = sum(v.ByteSize() + TAG for v in self.scope.body.value_info if v.name.startswith(self.prefix))
        return nodes + payloads + shapes

    def entries(self, model: Model) -> int:
        """How many entries it has; 0 where its parts do not tell any more."""
        if not self.intact:
            return 0
        parts = self._arrays(model)
        try:
            return sum(math.prod(self._shape(chunk)) for chunk in parts_of(parts))
        except (KeyError, ValueError, IndexError, TypeError, AttributeError):
            return 0

    def array(self, model: Model) -> Array:
        """All of the weight's values, see `chunked`."""
        return self.chunked(model).whole()

    def chunked(self, model: Model) -> ChunkedArray:
        """The weight's values: unpacked in numpy, or computed by ONNX Runtime where it is not intact.

        The latter come as the reader wants them, which may be the transpose of what the weight was.

        Raises:
            ModelError: parts are missing or do not fit together.
            RuntimeFailure: ONNX Runtime does not compute it.
        """
        matrix = self._matrix(model)
        front = re.search(r"\.u(\d+)", self.flags)
        return ChunkedArray.of(matrix.whole().reshape((1,) * int(front[1]) + matrix.shape[-2:])) if front else matrix

    def _matrix(self, model: Model) -> ChunkedArray:
        """The values without the unit dimensions that a mark counts."""
        if not self.intact:
            return ChunkedArray.of(self.parts.array(model, self.element))
        try:
            parts = self._arrays(model)
            chunks = parts_of(parts)
            shapes = [self._shape(chunk) for chunk in chunks]
            if "inside" in parts:
                parts["view"] = np.array([sum(shape[0] for shape in shapes), *parts["inside"]])
            held = packing(self.encoding)
            assert held is not None
            return unpacked(held, chunks, shapes, parts, self.fill_value, self.flags, self.element)
        except (KeyError, ValueError, IndexError, MemoryError, ZeroDivisionError, TypeError, AttributeError) as error:
            raise ModelError(f"the encoded weight '{self.name}' is damaged: {error}") from error

    def _arrays(self, model: Model) -> dict[str, Array]:
        """The constants by their names without the prefix."""
        return {name.removeprefix(self.prefix): model.array(tensor) for name, tensor in self.constants.items()}

    def _shape(self, parts: dict[str, Array]) -> tuple[int, ...]:
        if self.gathered:
            return GATHERED.shape(parts)
        if self.encoding == "dense" and "shape" not in parts:
            if "powers" in parts:
                return (int(parts["end"][0]) if "end" in parts else parts["codes"].size * parts["powers"].size,)
            return (parts["values"] if "values" in parts else parts["codes"]).shape
        return tuple(int(d) for d in parts["shape" if "shape" in parts else "size"])

    def coding(self, model: Model) -> Coding | None:
        """What the weight is coded in, where that is more than its own values and its parts still tell."""
        if not self.intact:
            return None
        parts = {
            part: model.array(self.constants[self.prefix + part])
            for part in ("book", "scale", "view", "inside")
            if self.prefix + part in self.constants
        }
        codebook, scale = parts.get("book"), parts.get("scale")
        if codebook is None and scale is None:
            return None
        if codebook is not None and codebook.ndim == 1:  # which may have the frequent values first
            codebook = np.concatenate([codebook[:1], np.sort(codebook[1:])])
        block = re.search(r"\.b(\d+)", self.flags)
        transposed = ".t" in self.flags
        if scale is not None and self.fused and not block:  # one for each output, along the carrier's last axis
            scale = scale.reshape(-1, 1) if transposed else scale.reshape(1, -1)
        view = tuple(int(d) for d in parts["view"]) if "view" in parts and not block else ()
        if scale is not None and "inside" in parts:
            view = (len(scale), *(int(d) for d in parts["inside"]))
        front = re.search(r"\.u(\d+)", self.flags)
        if front and scale is not None and not block and not view:
            scale = scale.reshape((1,) * int(front[1]) + scale.shape)
        if block and codebook is None and self.values in GRIDS:
            codebook = GRIDS[self.values].codebook
        form = Int8.name if self.dynamic else self.values  # without data it is held as those are
        return Coding(form, codebook, scale, view, int(block[1]) if block else 0, transposed)

    def zero(self, model: Model) -> Array:
        """What a pruned entry holds."""
        if self.element in FLOATS or not self.intact:
            return np.zeros(1, np.float32)
        codebook = self.constants.get(f"{self.prefix}book")
        return self.fill_value if codebook is None else model.array(codebook)[:1]

    @property
    def fill_value(self) -> Array:
        """What the entries hold that are not stored, as an array of one element."""
        for node in self.nodes:
            if node.op_type == "ConstantOfShape" and node.output[0].startswith(self.prefix) and node.attribute:
                return numpy_helper.to_array(node.attribute[0].t)
        return np.zeros(1, np.int8)


def encoded_weights(model: Model) -> list[EncodedWeight]:
    """Every weight that `encode` wrote, in the order of the file.

    Raises:
        ModelError: one is of an unknown form, or is computed from more than constants.
    """
    found = []
    for scope in (inner for top in scopes_of(model.proto) for inner in top.inner()):
        known: set[str] = set()
        for node in scope.body.node:
            mark = Mark.parse(node.name)
            if mark is None:
                continue
            if not packing(mark.encoding) or mark.values not in FORMS or mark.element not in _ELEMENTS:
                raise ModelError(
                    f"'{node.output[0]}' was encoded as {mark.encoding}/{mark.values}, which this version does not know"
                )
            if mark.weight:
                if mark.id in known:
                    continue
                known.add(mark.id)
                marked = [other for other in scope.body.node if _id(other) == mark.id]
                take = table_parts if mark.encoding == GATHERED.name else product_parts
                parts: ConstantParts | None = take(scope, mark, marked)
            else:
                parts = ConstantParts.of(scope, node.output[0])
            if parts is None or not parts.constants:
                raise ModelError(f"the encoded weight '{mark.weight or node.output[0]}' has lost its constants")
            whole = parts if mark.weight else _with_copies(parts, mark.prefix)
            found.append(EncodedWeight(scope, parts.value, mark, whole))
    return found


def _id(node: NodeProto) -> str:
    """The id in a node's mark; "" where it has none."""
    mark = Mark.parse(node.name)
    return "" if mark is None else mark.id


def _with_copies(parts: ConstantParts, prefix: str) -> ConstantParts:
    """With the nodes beside that make of the same parts what another node reads."""
    scope, nodes, constants = parts.scope, list(parts.nodes), dict(parts.constants)
    known = {id(node) for node in nodes}
    made = {*constants, *(node.output[0] for node in nodes[1:])}  # the first writes the weight, which others read
    waiting = list(made)
    while waiting:
        for reader, _ in scope.readers.get(waiting.pop(), ()):
            more = {name: scope.constant(name) for name in reader.input if name not in made}
            own = {name: tensor for name, tensor in more.items() if tensor is not None and name.startswith(prefix)}
            if id(reader) not in known and len(own) == len(more):
                known.add(id(reader))
                nodes.append(reader)
                constants |= own
                made |= {reader.output[0], *own}
                waiting.append(reader.output[0])
    return replace(parts, nodes=nodes, constants=constants)


def restore(model: Model, encoded: EncodedWeight, array: Array | ChunkedArray) -> None:
    """Put the dense tensor back where the encoded group stands, under the weight's name."""
    body = encoded.scope.body
    tensor = model.tensor(encoded.value, array, encoded.element)
    for part in encoded.constants.values():
        copy_notes(part, tensor)
    notes = NodeProto()
    copy_notes(encoded.nodes[0], notes)
    nodes = encoded.nodes
    if isinstance(encoded.parts, PartsAtReaders):
        encoded.parts.restore()
    if encoded.intact and encoded.fused:
        fusion.undo(encoded.scope, encoded.prefix, encoded.value, ".t" in encoded.flags)
        nodes = [*nodes, *(node for node in body.node if node.output and node.output[0].startswith(encoded.prefix))]
    places, unread = encoded.parts.leaving(nodes)
    at = places[0]
    if isinstance(encoded.parts, PartsAtReaders):
        at = min(at, *(index for index, node in enumerate(body.node) if encoded.value in node.input))
    # One by one: a list that is filled anew holds copies, and other groups' scopes are bodies of these very nodes.
    for index in reversed(places):
        del body.node[index]
    for index in reversed([i for i, v in enumerate(body.value_info) if v.name.startswith(encoded.prefix)]):
        del body.value_info[index]
    if encoded.was_constant:
        tensor.name = encoded.value
        body.node.insert(at, constant_node(tensor))
        if encoded.mark.constant:
            body.node[at].name = encoded.mark.constant
        body.node[at].attribute[0].t.ClearField("name")  # as exporters leave it
        copy_notes(notes, body.node[at])
    else:
        assert isinstance(body, GraphProto)
        parts = [place for place, part in enumerate(body.initializer) if part.name in unread]
        body.initializer.insert(parts[0] if parts else encoded.place("i", len(body.initializer)), tensor)
        if model.proto.ir_version < 4 and encoded.scope.parent is None:  # which wants initializers to be inputs
            info = helper.make_tensor_value_info(encoded.value, encoded.element, array.shape)
            body.input.insert(encoded.place("n", len(body.input)), info)
    for name in unread:
        model.drop(encoded.constants[name])
        if name in encoded.scope.initializers:
            delete_named(body.initializer, name)
