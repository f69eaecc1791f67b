"""Cleanup: remove nodes and initializers that no output needs; onnx-graphsurgeon says which.

The protobuf itself is edited: onnx-graphsurgeon's own export drops metadata, functions and annotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import AttributeProto, GraphProto

from onnxprune.errors import PassError
from onnxprune.model.model import Model
from onnxprune.model.scopes import Scope, scopes_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def remove_unused(model: Model) -> None:
    """Remove nodes and initializers that no output needs, in every graph.

    Raises:
        PassError: onnx-graphsurgeon cannot read the graph.
    """
    import onnx_graphsurgeon as gs  # few models hold anything that nothing needs
    from onnx_graphsurgeon.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.ERROR  # what it merely remarks it prints on standard output
    try:
        table = gs.import_onnx(model.proto)
    except Exception as error:  # its exceptions share no base class
        raise PassError(f"onnx-graphsurgeon cannot read the graph: {error}") from error
    pairs = list(_pairs(table, model.proto.graph))
    before = [list(graph.nodes) for graph, _ in pairs]
    table.cleanup(recurse_functions=False)
    for (graph, body), nodes in zip(pairs, before, strict=True):
        left = {id(node) for node in graph.nodes}
        for place in reversed([n for n, node in enumerate(nodes) if id(node) not in left]):
            del body.node[place]
    drop_unread(model)


def drop_unread(model: Model) -> list[str]:
    """Remove the initializers that no node reads and that are no output, in every graph.

    Returns:
        Their names.
    """
    return [name for top in scopes_of(model.proto)[:1] for scope in top.inner() for name in _drop_unread(model, scope)]


def _pairs(graph: gs.Graph, body: GraphProto) -> Iterator[tuple[gs.Graph, GraphProto]]:
    """Each graph of the table beside its protobuf."""
    yield graph, body
    for node, proto in zip(graph.nodes, body.node, strict=True):
        for attr in proto.attribute:
            if attr.type == AttributeProto.GRAPH:
                yield from _pairs(node.attrs[attr.name], attr.g)


def _drop_unread(model: Model, scope: Scope) -> list[str]:
    body, gone = scope.body, []
    if not isinstance(body, GraphProto):
        return []
    read = {n for inner in scope.inner() for node in inner.body.node for n in node.input}
    read |= {n for inner in scope.inner() for n in inner.outputs} | scope.inputs
    read |= {entry.value for each in body.quantization_annotation for entry in each.quant_parameter_tensor_names}
    for place in reversed([n for n, t in enumerate(body.initializer) if t.name not in read]):
        gone.append(body.initializer[place].name)
        model.drop(body.initializer[place])
        del body.initializer[place]
    for place in reversed([n for n, t in enumerate(body.sparse_initializer) if t.values.name not in read]):
        gone.append(body.sparse_initializer[place].values.name)
        del body.sparse_initializer[place]
    alive = read | {n for node in body.node for n in node.output}
    for place in reversed([n for n, info in enumerate(body.value_info) if info.name not in alive]):
        del body.value_info[place]
    return gone
