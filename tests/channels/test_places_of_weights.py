"""dead_neurons wherever weights live: shared, overridable, constant nodes, branches, external data."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from onnxprune.model.model import Model
from onnxprune_passes import DeadNeurons
from tests.channels.dead_channels import check, layers, untouched
from tests.helpers import graph_checks as checks
from tests.helpers.builders import info, model, node, normal, tensor
from tests.helpers.running import load, serialise


def test_a_weight_of_two_layers_loses_what_is_dead_in_both():
    b, c = normal(8, 3, seed=1), normal(8, 3, seed=2)
    b[[1, 4]] = 0
    c[[4, 6]] = 0
    nodes = [node("MatMul", [x, "a"], [f"{x}h"]) for x in "xz"]
    nodes += [node("MatMul", ["xh", "b"], ["y"]), node("MatMul", ["zh", "c"], ["v"])]
    inputs, outputs = ([info(n, ["N", d]) for n in names] for names, d in (("xz", 6), ("yv", 3)))
    proto = model(nodes, inputs, outputs, {"a": normal(6, 8), "b": b, "c": c})
    check(proto, a=(6, 7), b=(7, 3), c=(7, 3))


def test_an_initializer_that_a_caller_may_override_stays():
    proto = layers()
    proto.graph.input.append(info("b", [8, 3]))
    untouched(proto)


def test_ir_3_lists_its_initializers_as_inputs():
    proto = layers(opset=8, ir_version=3)
    after, _ = check(proto, a=(6, 6), b=(6, 3))
    assert [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in after.graph.input[1:]] == [[6, 6], [6, 3]]


def test_weights_of_constant_nodes():
    proto = layers()
    for tensor_ in list(proto.graph.initializer):
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor_.name], name=tensor_.name, value=tensor_))
    del proto.graph.initializer[:]
    after, _ = check(proto)
    found = {n.name: tuple(n.attribute[0].t.dims) for n in after.graph.node if n.op_type == "Constant"}
    assert found == {"a": (6, 6), "b": (6, 3)}


def branch(name: str, dead: int) -> onnx.GraphProto:
    weights = {"a": normal(6, 8), "b": normal(8, 3, seed=1)}
    weights["b"][:dead] = 0
    nodes = [
        node("MatMul", ["x", "a"], [f"{name}h"]), node("Relu", [f"{name}h"], [f"{name}k"]),
        node("MatMul", [f"{name}k", "b"], [f"{name}y"]),
    ]  # fmt: skip
    return helper.make_graph(nodes, name, [], [info(f"{name}y", ["N", 3])], [tensor(n, w) for n, w in weights.items()])


def test_each_branch_is_a_graph_of_its_own():
    nodes = [helper.make_node("If", ["c"], ["y"], name="If", then_branch=branch("t", 2), else_branch=branch("e", 3))]
    inputs = [info("x", ["N", 6]), info("c", [], TensorProto.BOOL)]
    proto = model(nodes, inputs, [info("y", ["N", 3])])
    after, change = checks.stripped(proto, DeadNeurons())
    checks.assert_equal_outputs(proto, after)
    checks.assert_valid(after)
    found = {}
    for attribute in after.graph.node[0].attribute:
        found[attribute.name] = {t.name: tuple(t.dims) for t in attribute.g.initializer}
    assert found == {"then_branch": {"a": (6, 6), "b": (6, 3)}, "else_branch": {"a": (6, 5), "b": (5, 3)}}
    assert {r.name for r in change.removed} == {f"If.{b}_branch/{w}" for b in ("then", "else") for w in "ab"}


def test_what_a_branch_captures_stays():
    """Both a value and a weight."""
    then = helper.make_graph([node("MatMul", ["k", "b"], ["t"])], "then", [], [info("t", ["N", 3])])
    other = helper.make_graph([node("ReduceMean", ["k"], ["m"], axes=[1]), node("Add", ["m", "shift"], ["e"])], "else",
                              [], [info("e", ["N", 3])])  # fmt: skip
    weights = {"a": normal(6, 8), "b": normal(8, 3, seed=1), "shift": normal(3)}
    weights["b"][[2, 5]] = 0
    nodes = [
        node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["k"]),
        helper.make_node("If", ["c"], ["y"], name="If", then_branch=then, else_branch=other),
    ]  # fmt: skip
    inputs = [info("x", ["N", 6]), info("c", [], TensorProto.BOOL)]
    untouched(model(nodes, inputs, [info("y", ["N", 3])], weights))


def test_external_data(tmp_path: Path):
    proto = layers()
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(layers(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    opened = Model.load(path)
    change = DeadNeurons().run(opened)
    opened.save(out)
    assert change.modified
    after = onnx.load(out)
    assert checks.shapes(after) == {"a": (6, 6), "b": (6, 3)}
    checks.assert_equal_outputs(proto, after)


def test_nothing_else_is_lost():
    facts = {"producer_name": "someone", "producer_version": "1.2", "domain": "org", "model_version": 7}
    proto = layers(doc_string="what it is", **facts)
    proto.metadata_props.add(key="licence", value="MIT")
    graph = proto.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="k", value="v")
    graph.node[0].doc_string = "a node"
    graph.node[0].metadata_props.add(key="from", value="there")
    graph.initializer[0].doc_string = "a weight"
    graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    graph.value_info.append(info("h", ["N", 8]))
    graph.value_info[0].doc_string = "a value"
    body = [helper.make_node("Add", ["v", "v"], ["r"])]
    proto.functions.append(helper.make_function("local", "Twice", ["v"], ["r"], body, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    opened = load(proto)
    assert DeadNeurons().run(opened).modified
    after = onnx.load_from_string(serialise(opened))
    for held in (proto, after):  # all that may differ: numbers, and sizes
        for entry in held.graph.initializer:
            for name in ("raw_data", "dims"):
                entry.ClearField(name)
        held.graph.value_info[0].type.tensor_type.shape.dim[1].Clear()
    assert after == proto
