"""Products of integers: MatMulInteger reads the carrier, and each run rounds what it is multiplied with to 8 bits.

DynamicQuantizeLinear stands in front of the product, a Cast and a Mul by both scales behind it. The Mul writes what the
MatMul wrote and carries the mark, which holds the weight's name. ONNX Runtime makes one kernel of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.core.dtypes import Array
from onnxprune.core.override import override
from onnxprune.encodings.graph import fusion
from onnxprune.encodings.graph.constant_parts import ConstantParts, PartsAtReaders, computed_from, free_name
from onnxprune.encodings.nodes import Builder
from onnxprune.model.encoded_names import Mark
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope

_CARRIER = "onnxprune:carrier:"  # what the name of the node that writes decoded integers begins with


@dataclass(frozen=True)
class IntegerProduct:
    """A product that is not yet in the graph.

    Attributes:
        reader: the MatMul or Gemm that it takes the place of.
        before: what rounds the reader's input.
        product: the integers.
        behind: what makes floats of them; the last carries the mark.
    """

    reader: NodeProto
    before: NodeProto
    product: NodeProto
    behind: list[NodeProto]

    @property
    def nodes(self) -> list[NodeProto]:
        """Those that the graph gets beside the reader."""
        return [self.before, *self.behind]


def carrier_name(prefix: str) -> str:
    """The name of the node that writes the decoded integers of a weight whose parts have a prefix."""
    return f"{_CARRIER}{prefix}:"


def emit_product(build: Builder, carrier: str, scale: Array, reader: NodeProto) -> IntegerProduct:
    """Make the nodes around a product of integers, and leave those of constants alone in `build`.

    Args:
        build: what decodes the carrier; its last node gets a name, which tells in a profile that it ran.
        carrier: the name of the decoded carrier, int8 [inputs, outputs].
        scale: [outputs].
        reader: see `IntegerProduct`.
    """
    if build.nodes:
        build.nodes[-1].name = carrier_name(build.prefix)
    scales = build.constant("scale", scale)
    if scale.dtype != np.float32:
        scales = build.op("Cast", [scales], to=TensorProto.FLOAT)
    constant = list(build.nodes)
    rounded, step, zero, product = (f"{build.prefix}{part}" for part in "aszp")
    before = helper.make_node("DynamicQuantizeLinear", [reader.input[0]], [rounded, step, zero])
    integers = helper.make_node("MatMulInteger", [rounded, carrier, zero], [product])
    build.op("Mul", [build.op("Cast", [product], to=TensorProto.FLOAT), build.op("Mul", [step, scales])])
    build.finish()
    behind, build.nodes = build.nodes[len(constant) :], constant
    return IntegerProduct(reader, before, integers, behind)


def insert_product(scope: Scope, made: IntegerProduct, prefix: str) -> None:
    """Put a product in the place of its reader, which stays the node that multiplies.

    Args:
        scope: the body of the reader.
        made: the product.
        prefix: what new names begin with.
    """
    body, node = scope.body, made.reader
    if node.op_type == "Gemm":
        fusion.split(scope, node, prefix)
    written = node.output[0]
    node.op_type = made.product.op_type
    node.input[:] = made.product.input
    node.output[0] = made.product.output[0]
    made.behind[-1].output[0] = written
    place = next(index for index, other in enumerate(body.node) if other is node)
    for offset, each in enumerate(made.behind, place + 1):
        body.node.insert(offset, each)
    body.node.insert(place, made.before)


@dataclass(frozen=True)
class ProductParts(PartsAtReaders):
    """The nodes and constants around a product of integers; the one that rounds its input is among the nodes.

    Attributes:
        reader: the MatMulInteger.
        rounding: the DynamicQuantizeLinear in front of it.
    """

    reader: NodeProto
    rounding: NodeProto

    @override
    def array(self, model: Model, element: int = TensorProto.UNDEFINED) -> Array:
        """The weight [inputs, outputs]: the product with the identity, see `ConstantParts.array`."""
        carrier = ConstantParts.of(self.scope, self.reader.input[1])
        assert carrier is not None
        inputs = carrier.array(model, TensorProto.INT8).shape[0]
        rounded, step, zero = self.rounding.output
        given = [
            numpy_helper.from_array(np.eye(inputs, dtype=np.uint8), rounded),
            numpy_helper.from_array(np.ones((), np.float32), step),
            numpy_helper.from_array(np.zeros((), np.uint8), zero),
        ]
        nodes = [*(node for node in self.nodes if node is not self.rounding), self.reader]
        held = replace(
            self, value=self.marked[0].output[0], nodes=nodes, constants=self.constants | {t.name: t for t in given}
        )
        return ConstantParts.array(held, model, element)

    @override
    def restore(self) -> None:
        (last,), node = self.marked, self.reader
        node.op_type = "MatMul"
        node.input[:] = [self.rounding.input[0], self.value]
        node.output[0] = last.output[0]


def product_parts(scope: Scope, mark: Mark, marked: Sequence[NodeProto]) -> ProductParts | None:
    """The parts of a weight from the node that carries its mark; None where that leads to no product with constants.

    Args:
        scope: the body of the node.
        mark: its mark.
        marked: the nodes that carry it; a product has one.
    """
    last = marked[0]
    reader = _reader(scope, last)
    rounding = None if reader is None else scope.producers.get(reader.input[0])
    if reader is None or rounding is None or rounding.op_type != "DynamicQuantizeLinear" or domain(rounding):
        return None
    parts = computed_from(scope, [last.output[0]], rounding.output)
    if parts is None:
        return None
    constants, nodes = parts
    nodes = [*(node for node in nodes if node is not reader), rounding]
    return ProductParts(scope, free_name(scope, mark.weight), constants, nodes, [last], reader, rounding)


def _reader(scope: Scope, last: NodeProto) -> NodeProto | None:
    """The product of integers whose Cast a node reads."""
    for name in last.input:
        cast = scope.producers.get(name)
        found = scope.producers.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
        if found is not None and found.op_type == "MatMulInteger" and not domain(found):
            return found
    return None
