"""Nodes of an older opset in the terms of a newer one: onnx's version converter, a node at a time.

Given a whole model the converter loses what it does not know: local functions, metadata, doc strings. Given one node it
says what becomes of that node, and the rest of the model stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    defs,
    helper,
    shape_inference,
    version_converter,
)

from onnxprune.model.encoded_names import fresh_ids
from onnxprune.model.model import Model
from onnxprune.model.operators import domain
from onnxprune.model.scopes import Scope, scopes_of

_SMALL = 1 << 10  # bytes of a constant input that is shown to the converter: axes, pads, scales
# Resize takes coordinates from opset 11 on as its attributes say; before, and as Upsample, it took them like this.
_OLD_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_RESIZE = 11


def convert(model: Model, version: int) -> list[str]:
    """Set the default opset, and rewrite the nodes of the graph and its bodies that the newer one reads otherwise.

    A node that the converter does not know stays as it is. Whether the model computes what it did has to be tried.

    Args:
        model: edited in place: nodes that were found in it before are not in it any more. Functions keep their opset.
        version: newer than the model's.

    Returns:
        The operators that read otherwise and stand in a branch of an If, which a run may not take.
    """
    branched: list[str] = []
    before, ids, types = model.opset, fresh_ids(model.proto), types_of(model)
    for scope in reversed(list(scopes_of(model.proto)[0].inner())):  # bodies before the nodes that hold them
        assert isinstance(scope.body, GraphProto)
        if next(scope.branches(), None):
            branched += [node.op_type for node in scope.body.node if _reads_otherwise(node, before, version)]
        nodes: list[NodeProto] = []
        for node in scope.body.node:
            nodes += _converted(node, scope, types, before, version, ids)
        del scope.body.node[:]
        scope.body.node.extend(nodes)
    model.opset = version
    return branched


def reads_otherwise(model: Model, version: int) -> bool:
    """Whether `convert` would have to rewrite a node."""
    scopes = scopes_of(model.proto)[0].inner()
    return any(_reads_otherwise(node, model.opset, version) for scope in scopes for node in scope.body.node)


def types_of(model: Model) -> dict[str, TypeProto]:
    """The type of each value as far as it can be told, by the path to its body and its name."""
    try:
        proto = shape_inference.infer_shapes(model.proto)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        proto = model.proto
    found: dict[str, TypeProto] = {}
    for scope in scopes_of(proto)[0].inner():
        assert isinstance(scope.body, GraphProto)
        for info in (*scope.body.input, *scope.body.value_info, *scope.body.output):
            found[scope.path + info.name] = info.type
        for tensor in scope.body.initializer:
            found[scope.path + tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return found


def _converted(
    node: NodeProto, scope: Scope, types: dict[str, TypeProto], before: int, version: int, ids: Iterator[str]
) -> list[NodeProto]:
    """What becomes of a node."""
    if not _reads_otherwise(node, before, version):
        return [node]
    try:
        graph = version_converter.convert_version(_alone(node, scope, types, before), version).graph
    except (RuntimeError, ValueError):  # nothing that it knows
        return [node]
    names = {name: name for name in (*node.input, *node.output)}
    fresh = next(ids)
    made: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.name not in names:
            made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    made += graph.node
    for each in made:
        for ends in (each.input, each.output):
            for place, name in enumerate(ends):
                if name:
                    ends[place] = names.setdefault(name, f"{fresh}.{len(names)}")
        _keep(each, node, before, version)
    return made


def _reads_otherwise(node: NodeProto, before: int, version: int) -> bool:
    """Whether a node that holds no body may mean something else at the newer opset."""
    holds = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    return not holds and not domain(node) and _changes(node.op_type, before, version)


@cache
def _changes(kind: str, before: int, version: int) -> bool:
    """Whether an operator has other inputs or attributes at the newer opset, and not just more types."""
    if not defs.has(kind):
        return False
    try:
        old, new = defs.get_schema(kind, before), defs.get_schema(kind, version)
    except defs.SchemaError:  # it is new, or was taken out
        return True
    return new.deprecated or _signature(old) != _signature(new)


def _signature(schema: defs.OpSchema) -> tuple[object, ...]:
    """The inputs and outputs of an operator, and its attributes with their defaults."""
    ends = [[(end.name, end.option) for end in side] for side in (schema.inputs, schema.outputs)]
    attributes = {name: held.default_value.SerializeToString() for name, held in schema.attributes.items()}
    return (*ends, attributes)


def _alone(node: NodeProto, scope: Scope, types: dict[str, TypeProto], opset: int) -> ModelProto:
    """A model of one node: its inputs are those of the model, but for small constants."""
    inputs, constants = [], []
    for name in dict.fromkeys(name for name in node.input if name):
        constant, owner = scope.constant(name), scope.owner(name)
        if constant is not None and not constant.external_data and constant.ByteSize() <= _SMALL:
            constants.append(_named(constant, name))
        else:
            inputs.append(_info(name, types.get((owner.path if owner else "") + name)))
    outputs = [_info(name, types.get(scope.path + name)) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _named(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _info(name: str, kind: TypeProto | None) -> ValueInfoProto:
    """What is known of a value; a tensor of floats where nothing is."""
    if kind is None:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_value_info(name, kind)


def _keep(made: NodeProto, node: NodeProto, before: int, version: int) -> None:
    """Give a node that took the place of another what the converter drops or gets wrong."""
    if made.op_type == "Constant":
        return
    if made.op_type == "Resize" and before < _RESIZE <= version:
        held = {attribute.name for attribute in made.attribute}
        made.attribute.extend(helper.make_attribute(k, v) for k, v in _OLD_RESIZE.items() if k not in held)
    if made.op_type == node.op_type or made.op_type == "Resize":
        made.name, made.doc_string = node.name, node.doc_string
        made.metadata_props.extend(node.metadata_props)
