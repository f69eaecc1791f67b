"""Put an encoded weight into the graph in place of its tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, helper

from onnxprune.core.chunked import EVERY, RowRange
from onnxprune.core.dtypes import numpy_dtype
from onnxprune.core.filled import FilledArray
from onnxprune.encodings import GATHERED, Coded, Encoding, Sparse, Values
from onnxprune.encodings.graph import fusion
from onnxprune.encodings.graph.editing import TAG, constant_node, delete_named, index_of
from onnxprune.encodings.graph.fusion import Readers
from onnxprune.encodings.graph.products import IntegerProduct, emit_product, insert_product
from onnxprune.encodings.graph.tables import insert_rows
from onnxprune.encodings.nodes import Builder
from onnxprune.encodings.positions.chunks import emit as emit_carrier
from onnxprune.encodings.unit_dimensions import unit_dimensions
from onnxprune.encodings.values.nodes import emit
from onnxprune.model.discovery import opset_of
from onnxprune.model.encoded_names import Mark
from onnxprune.model.model import Model, copy_notes
from onnxprune.model.scopes import CONSTANT_NODE
from onnxprune.model.weight import Weight


@dataclass
class PreparedWeight:
    """An encoded weight that is not yet in the graph."""

    encoding: str
    sparse: Sparse
    build: Builder
    tensors: list[TensorProto]
    nbytes: int
    fused: tuple[NodeProto, str] | None  # the reader of the integers, and what it is to read
    gathers: list[NodeProto] = field(default_factory=list)  # the readers of rows of a table
    rows: list[list[NodeProto]] = field(default_factory=list)  # what each is to be, and the nodes behind it
    product: IntegerProduct | None = None  # that takes the place of the reader

    @property
    def kernel(self) -> bool:
        """Whether a kernel reads the integers."""
        return self.fused is not None or self.product is not None

    def discard(self, model: Model) -> None:
        """Give its arrays back."""
        for tensor in self.tensors:
            model.drop(tensor)


def prepare(
    model: Model, weight: Weight, coded: Coded, sparse: Sparse, encoding: Encoding, values: Values, name: str,
    readers: Readers | None = None, chunks: Sequence[RowRange] = (),
) -> PreparedWeight:  # fmt: skip
    """Pack a weight and make the nodes that decode it, beside the model.

    Args:
        model: the model.
        weight: of the model.
        coded: the weight in a value form.
        sparse: the carrier of `coded` as kept entries.
        encoding: how their positions are stored.
        values: the value form.
        name: the id of the encoded weight, which no other has.
        readers: the nodes that read integers of the carrier; None for nodes that read the decoded weight.
        chunks: ranges of the carrier's rows that are decoded one by one; none for the whole.
    """
    build = _builder(model, weight, coded, encoding.name, values, name)
    dense = emit_carrier(build, encoding, sparse, chunks)
    if coded.dynamic:
        assert coded.scale is not None
        assert readers is not None
        made = emit_product(build, dense, coded.scale, readers.node)
        tensors, nbytes = _stored(model, weight, build, made.behind[-1:], made.nodes)
        return PreparedWeight(encoding.name, sparse, build, tensors, nbytes, None, product=made)
    fused = _finish(build, dense, coded, weight, readers)
    tensors, nbytes = _stored(model, weight, build, build.nodes[-1:])
    return PreparedWeight(encoding.name, sparse, build, tensors, nbytes, fused)


def prepare_rows(
    model: Model, weight: Weight, coded: Coded, sparse: Sparse, values: Values, name: str, gathers: list[NodeProto]
) -> PreparedWeight:
    """`prepare` for a table whose rows are decoded behind the nodes that gather them."""
    build = _builder(model, weight, coded, GATHERED.name, values, name)
    build.nodes, rows = GATHERED.emit(build, GATHERED.pack(sparse), coded, gathers, weight.element)
    behind = [node for _, *decoding in rows for node in decoding]
    tensors, nbytes = _stored(model, weight, build, [row[-1] for row in rows], behind)
    return PreparedWeight(GATHERED.name, sparse, build, tensors, nbytes, None, gathers, rows)


def _builder(model: Model, weight: Weight, coded: Coded, encoding: str, values: Values, name: str) -> Builder:
    """What collects the nodes of a weight, with the mark that the last of them gets."""
    flags = coded.flags + (".c" if weight.store == "constant" else "") + _place_flags(model, weight)
    front = unit_dimensions(weight)
    flags += f".u{front}" if front else ""
    constant = weight.scope.producers[weight.value].name if weight.store == "constant" else ""
    unwritten = weight.value if encoding == GATHERED.name or coded.dynamic else ""
    mark = Mark(encoding, values.name, flags, TensorProto.DataType.Name(weight.element), name, constant, unwritten)
    return Builder(mark.prefix, weight.value, mark, opset_of(model, weight.scope))


def _stored(
    model: Model, weight: Weight, build: Builder, marked: list[NodeProto], more: Sequence[NodeProto] = ()
) -> tuple[list[TensorProto], int]:
    """The constants as tensors, and the bytes that they and the nodes take; a Constant's notes go to marked nodes."""
    tensors = []
    for key, array in build.constants.items():
        own = array.dtype == numpy_dtype(weight.element)
        tensors.append(
            model.tensor(key, array, weight.element if own else helper.np_dtype_to_tensor_dtype(array.dtype))
        )
    build.constants.clear()  # which the model may keep in a file
    if tensors and isinstance(weight.tensor, TensorProto):
        copy_notes(weight.tensor, tensors[0])
    if weight.store == "constant":
        for node in marked:
            copy_notes(weight.scope.producers[weight.value], node)
    around = TAG + (0 if _as_initializers(model, weight) else CONSTANT_NODE)
    sizes = [model.nbytes(t) + around for t in tensors]
    sizes += [node.ByteSize() + TAG for node in (*build.nodes, *more)] + [
        info.ByteSize() + TAG for info in build.declared
    ]
    return tensors, sum(sizes)


def _finish(
    build: Builder, dense: str, coded: Coded, weight: Weight, readers: Readers | None
) -> tuple[NodeProto, str] | None:
    """The nodes behind the decoded carrier; returns who reads the integers, and under what name."""
    element = weight.element
    if readers is None or not coded.fused:
        folded = emit(build, dense, replace(coded, fused=False), element)
        if unit_dimensions(weight):
            build.reshape(folded, list(weight.tensor.dims), "front")
        build.finish()
        return None
    emit(build, dense, coded, element)
    if not readers.others:
        build.finish()
        return readers.node, build.output
    build.nodes[-1].output[0] = value = f"{build.prefix}r"
    folded = emit(build, dense, replace(coded, fused=False, view=_blocks(coded)), element)
    if coded.transposed:
        build.op("Transpose", [folded], perm=[1, 0])
    build.finish()
    return readers.node, value


def _blocks(coded: Coded) -> tuple[int, ...]:
    """The view in which block scales apply to a carrier [in, out]."""
    rows, columns = coded.carrier.shape
    return (rows // coded.block, coded.block, columns) if coded.block else ()


def _place_flags(model: Model, weight: Weight) -> str:
    """Where the weight stood among initializers and inputs, for `decode`; only where its parts cannot stand there."""
    body = weight.scope.body
    if _as_initializers(model, weight) or weight.store != "initializer" or not isinstance(body, GraphProto):
        return ""
    flags = f".i{index_of(body.initializer, weight.value)}"
    return flags + (f".n{index_of(body.input, weight.value)}" if weight.value in weight.scope.inputs else "")


def _as_initializers(model: Model, weight: Weight) -> bool:
    """Constant nodes in functions, and where IR 3 wants initializers to be inputs."""
    return isinstance(weight.scope.body, GraphProto) and model.proto.ir_version >= 4


def insert(model: Model, weight: Weight, prepared: PreparedWeight) -> None:
    """Replace the weight's tensor by its encoded form."""
    body = weight.scope.body
    nodes = list(prepared.build.nodes)
    if _as_initializers(model, weight):
        assert isinstance(body, GraphProto)
        held = weight.store == "initializer"
        start = index_of(body.initializer, weight.value) if held else len(body.initializer)
        for place, tensor in enumerate(prepared.tensors, start):  # where the weight stood, so that it comes back there
            body.initializer.insert(place, tensor)
    else:
        nodes = [constant_node(t) for t in prepared.tensors] + nodes
    if isinstance(body, GraphProto):
        body.value_info.extend(prepared.build.declared)
    at = _remove(model, weight)
    for offset, node in enumerate(nodes):
        body.node.insert(at + offset, node)
    insert_rows(weight.scope, prepared.gathers, prepared.rows)
    if prepared.product:
        insert_product(weight.scope, prepared.product, prepared.build.prefix)
    if prepared.fused:
        fusion.apply(weight.scope, *prepared.fused, prepared.build.prefix, prepared.sparse.shape[1])


def _remove(model: Model, weight: Weight) -> int:
    """Take the weight's tensor out of its body; returns where in the node list its value is needed from."""
    body = weight.scope.body
    if isinstance(weight.tensor, SparseTensorProto):
        model.drop(weight.tensor.values)
        model.drop(weight.tensor.indices)
        body.sparse_initializer.remove(weight.tensor)
        return 0
    model.drop(weight.tensor)
    if weight.store == "constant":
        at = next(i for i, n in enumerate(body.node) if weight.value in n.output)
        del body.node[at]
        return at
    delete_named(body.initializer, weight.value)
    if weight.value in weight.scope.inputs:  # IR 3 lists every initializer as an input
        delete_named(body.input, weight.value)
    return 0


@dataclass
class PreparedSparse:
    """A weight as ONNX's own sparse tensor that is not yet in the graph."""

    tensor: SparseTensorProto
    nbytes: int

    def discard(self, model: Model) -> None:
        """Give its arrays back."""
        model.drop(self.tensor.values)
        model.drop(self.tensor.indices)


def prepare_sparse(model: Model, weight: Weight, sparse: Sparse) -> PreparedSparse:
    """The weight as a sparse tensor. The indices are linear and int64, which the checker demands."""
    made = SparseTensorProto(dims=weight.tensor.dims)
    positions, values = FilledArray((sparse.kept,), np.int64), FilledArray((sparse.kept,), sparse.carrier.dtype)
    at = 0
    for found, held in sparse.each(lambda chunk: (chunk.positions.astype(np.int64) + chunk.start, chunk.values)):
        rows = (at, at + len(found))
        positions.put(rows, EVERY, found)
        values.put(rows, EVERY, held)
        at += len(found)
    made.values.CopyFrom(model.tensor(weight.value, values.chunked(), weight.element))
    if isinstance(weight.tensor, TensorProto):
        copy_notes(weight.tensor, made.values)
    made.indices.CopyFrom(model.tensor(f"{weight.value}.indices", positions.chunked(), TensorProto.INT64))
    return PreparedSparse(made, model.nbytes(made.values) + model.nbytes(made.indices) + TAG)


def insert_sparse(model: Model, weight: Weight, prepared: PreparedSparse) -> None:
    """Replace the weight by the sparse tensor."""
    body = weight.scope.body
    _remove(model, weight)
    body.sparse_initializer.append(prepared.tensor)
    weight.tensor, weight.store = body.sparse_initializer[-1], "sparse"
