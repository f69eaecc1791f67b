#!/usr/bin/env bash
# onnx.version_converter changes what Upsample, Resize and Hardmax compute.
#
# onnx 1.23.2, protobuf 7.36.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-11-28. Models of one node at opset 9 or 10 are
# converted to opset 13.
#
# Expected: the same outputs, or an error. Upsample and Resize of opset 10 divide a coordinate by the scale
# ("asymmetric"); Hardmax before opset 13 takes the largest value over all axes from `axis` on.
# Seen: Upsample and Resize become Resize with the default of opset 11, "half_pixel", and linear interpolation is off by
# a part of a pixel; Hardmax is passed on as it was, and from opset 13 on takes a largest value per row of the one axis.
# (Softmax and LogSoftmax, whose axis changed alike, are rewritten with Flatten and Reshape.)
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 protobuf==7.36.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
x = np.random.default_rng(0).random((1, 2, 3, 3), np.float32)
cases = {
    "Upsample linear": (9, helper.make_node("Upsample", ["x", "s"], ["y"], mode="linear"), [scales], True),
    "Resize linear": (10, helper.make_node("Resize", ["x", "s"], ["y"], mode="linear"), [scales], True),
    "Hardmax axis 1": (9, helper.make_node("Hardmax", ["x"], ["y"], axis=1), [], True),
    "Softmax axis 1": (9, helper.make_node("Softmax", ["x"], ["y"], axis=1), [], False),
}
seen = {}
for name, (opset, node, weights, _) in cases.items():
    shape = [1, 2, 3, 3]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
    made = version_converter.convert_version(model, 13)
    before, after = run(model, x), run(made, x)
    seen[name] = float(np.abs(before - after).max())
    print(f"{name}: {[n.op_type for n in made.graph.node]}, largest difference {seen[name]:.3f}")
assert all((seen[name] > 1e-3) == differs for name, (_, _, _, differs) in cases.items()), seen
PYTHON
