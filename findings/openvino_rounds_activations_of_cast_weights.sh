#!/usr/bin/env bash
# OpenVINO multiplies floats by weights of int8 that stand behind Cast and Mul with activations rounded to 8 bits.
#
# openvino 2026.4.1 (CPU), onnx 1.23.2, numpy 2.4.6, 2026-11-30. Two models that pass onnx.checker's full check compute
# the same product of 784 floats with a matrix of 784x300: one holds the floats, the other int8, a Cast to float and a Mul by a
# scale. All operators and all inputs are floats but the stored constant, no quantisation operator stands in the graph.
#
# Expected: outputs that differ by the rounding of float32 (1e-7), as in onnxruntime: Cast and Mul of constants are folded.
# Seen: a relative error above 1e-3: the plugin keeps the int8 for a kernel that rounds the activations too (dynamic
# quantisation, on by default, also where INFERENCE_PRECISION_HINT asks for f32). With EXECUTION_MODE_HINT ACCURACY, or
# DYNAMIC_QUANTIZATION_GROUP_SIZE 0, it is below 1e-5.
#
# Exits 0 while the default is above 1e-3, and the dense model and both settings are below 1e-5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/rounded.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
codes = rng.integers(-127, 128, (784, 300)).astype(np.int8)
scale = np.float32(2.0**-8)  # so that the floats are exact
x = rng.standard_normal((1, 784)).astype(np.float32)


def model(nodes, constants):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 784])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 300])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    path = Path(sys.argv[1]) / f"{len(nodes)}.onnx"
    onnx.save(made, path)
    return path


def output(path, **settings):
    return ov.Core().compile_model(path, "CPU", settings)(x)[0]


product = helper.make_node("MatMul", ["x", "w"], ["y"])
exact = x.astype(np.float64) @ (codes * np.float64(scale))
dense = model([product], {"w": codes * scale})
cast = helper.make_node("Cast", ["codes"], ["floats"], to=TensorProto.FLOAT)
coded = model([cast, helper.make_node("Mul", ["floats", "scale"], ["w"]), product], {"codes": codes, "scale": scale})
f32 = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 compute everything in it otherwise
errors = {}
for name, path, settings in (
    ("dense", dense, f32), ("behind Cast", coded, f32), ("accuracy", coded, {"EXECUTION_MODE_HINT": "ACCURACY"}),
    ("group size 0", coded, {**f32, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}),
):
    errors[name] = np.linalg.norm(output(path, **settings) - exact) / np.linalg.norm(exact)
    print(f"openvino {version('openvino')}, {name}: relative error {errors[name]:.1e}")
coded_error = errors.pop("behind Cast")
sys.exit(not (coded_error > 1e-3 and max(errors.values()) < 1e-5))
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/rounded.py" "$folder"
