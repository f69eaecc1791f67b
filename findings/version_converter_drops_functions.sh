#!/usr/bin/env bash
# onnx.version_converter returns a model without its local functions, though nodes still call them.
#
# onnx 1.23.2, protobuf 7.36.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-11-28. A model of opset 13 calls a function of its own, and carries
# metadata_props on the model, the graph and a node.
#
# Expected: opset 17 with everything else as it was, or an error that says what cannot be converted.
# Seen: no error, and the checker passes it. The call and the import of its domain stay, the function is gone, so that
# onnxruntime does not load the model any more; metadata_props of the graph and of nodes are gone, those of the model
# stay.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 protobuf==7.36.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import onnx
import onnxruntime
from onnx import TensorProto, checker, helper, version_converter

twice = helper.make_function(
    "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 13)]
)
call = helper.make_node("Twice", ["x"], ["t"], domain="local")
relu = helper.make_node("Relu", ["t"], ["y"])
relu.metadata_props.add(key="node", value="kept?")
graph = helper.make_graph(
    [call, relu], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
)
graph.metadata_props.add(key="graph", value="kept?")
model = helper.make_model(
    graph, functions=[twice], ir_version=10,
    opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("local", 1)],
)
model.metadata_props.add(key="model", value="kept?")
made = version_converter.convert_version(model, 17)
for each in (model, made):
    checker.check_model(each)


def loads(each: onnx.ModelProto) -> bool:
    try:
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        print("onnxruntime:", str(error).strip().splitlines()[0])
        return False
    return True


facts = {
    "functions": [f.name for f in made.functions],
    "calls": [n.op_type for n in made.graph.node],
    "domains": [o.domain for o in made.opset_import],
    "model metadata": [p.key for p in made.metadata_props],
    "graph metadata": [p.key for p in made.graph.metadata_props],
    "node metadata": [p.key for n in made.graph.node for p in n.metadata_props],
    "loads, before and after": (loads(model), loads(made)),
}
print("onnx", onnx.__version__, facts)
assert facts == {
    "functions": [], "calls": ["Twice", "Relu"], "domains": ["", "local"], "model metadata": ["model"],
    "graph metadata": [], "node metadata": [], "loads, before and after": (True, False),
}, "this has changed"
PYTHON
