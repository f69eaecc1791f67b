#!/usr/bin/env bash
# ONNX Runtime quantises the float bias of a Conv between QuantizeLinear and DequantizeLinear by itself, and loses it where
# the weights of a channel have a small scale, without an error.
#
# onnxruntime 1.20.1 and 1.32.0, numpy 2.4.6, onnx 1.23.2, 2026-11-29. A 1x1 Conv of two channels: activations are uint8,
# weights int8 with a scale for each channel, the bias is float32, as quantisers leave it that are told not to quantise
# biases. The weights of the second channel are 0, with a scale of 1e-8, as those of a dead filter are; its output is its
# bias, 0.7. The model passes onnx.checker's full check.
#
# Expected: 0.7 with and without graph optimisation: a float bias is added as it is, or rounded to some steps of int32.
# Seen: 0.7 without optimisation, and in 1.20.1; 0 with it in 1.32.0: the bias becomes int32 in steps of both scales, of
# which 0.7 is more than int32 holds. (1.21.1, 1.22.1 and 1.25.1 do the same; a scale of 200 gives 0.78.)
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/bias.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

held = {
    "x scale": np.float32(1 / 255), "x zero": np.uint8(0), "y scale": np.float32(0.02), "y zero": np.uint8(0),
    "w": np.stack([np.full((4, 1, 1), 50), np.zeros((4, 1, 1))]).astype(np.int8),
    "w scale": np.array([0.01, 1e-8], np.float32), "w zero": np.zeros(2, np.int8), "bias": np.array([0.5, 0.7], np.float32),
}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "x scale", "x zero"], ["x8"]),
    helper.make_node("DequantizeLinear", ["x8", "x scale", "x zero"], ["xf"]),
    helper.make_node("DequantizeLinear", ["w", "w scale", "w zero"], ["wf"], axis=0),
    helper.make_node("Conv", ["xf", "wf", "bias"], ["c"]),
    helper.make_node("QuantizeLinear", ["c", "y scale", "y zero"], ["c8"]),
    helper.make_node("DequantizeLinear", ["c8", "y scale", "y zero"], ["y"]),
]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1, 1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 1, 1])],
    [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
x, found = np.full((1, 4, 1, 1), 0.5, np.float32), []
for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found.append([round(float(value), 2) for value in session.run(None, {"x": x})[0].reshape(-1)])
print(f"onnxruntime {ort.__version__}: {found[0]} as written, {found[1]} optimised")
sys.exit(found != [[1.5, 0.7], [1.5, float(sys.argv[1])]])
PYTHON
for pair in 1.20.1=0.7 1.32.0=0; do
    python3 -m venv "$folder/${pair%=*}"
    "$folder/${pair%=*}/bin/pip" install -q --disable-pip-version-check "onnxruntime==${pair%=*}" numpy==2.4.6 \
        onnx==1.23.2 2>/dev/null
    "$folder/${pair%=*}/bin/python" "$folder/bias.py" "${pair#*=}"
done
