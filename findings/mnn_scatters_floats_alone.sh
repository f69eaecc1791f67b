#!/usr/bin/env bash
# MNN scatters float32 right, and float16 and int8 to other numbers, without an error.
#
# MNN 3.6.1, numpy 2.4.6, onnx 1.23.2, onnxruntime 1.32.0, 2026-11-29. Three models: 1,200 values are scattered into zeros
# (ConstantOfShape with its value, ScatterElements), reshaped, cast to float32 and read by a MatMul; the values are float32,
# float16 and int8. All pass onnx.checker's full check and run in onnxruntime.
#
# Expected: the outputs of onnxruntime for all three, or a refusal of the types that the converter cannot hold.
# Seen: mnnconvert and MNN report no error; the outputs for float32 are those of onnxruntime to 1e-5, those for float16 and
# int8 are off by more than their own size.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check MNN==3.6.1 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 \
    2>/dev/null
mkdir "$folder/first"
printf '#!/bin/sh\nexit 0\n' > "$folder/first/pip" # see mnnconvert_installs_packages.sh
chmod +x "$folder/first/pip"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

folder, rng = sys.argv[1], np.random.default_rng(0)
places, values = np.sort(rng.choice(128 * 96, 1200, replace=False)), rng.integers(1, 100, 1200)
x = rng.standard_normal((2, 128)).astype(np.float32)
for dtype in (np.float32, np.float16, np.int8):
    held = {
        "size": np.array([128 * 96]), "places": places, "values": values.astype(dtype), "shape": np.array([128, 96]),
    }
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"], value=numpy_helper.from_array(np.zeros(1, dtype))),
        helper.make_node("ScatterElements", ["zeros", "places", "values"], ["flat"], axis=0),
        helper.make_node("Reshape", ["flat", "shape"], ["narrow"]),
        helper.make_node("Cast", ["narrow"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 96])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    name = f"{folder}/{np.dtype(dtype).name}"
    onnx.save(model, f"{name}.onnx")
    np.save(f"{name}.npy", ort.InferenceSession(f"{name}.onnx").run(None, {"x": x})[0])
np.save(f"{folder}/x.npy", x)
PYTHON
for type in float32 float16 int8; do
    PATH="$folder/first:$PATH" "$folder/venv/bin/mnnconvert" -f ONNX --modelFile "$folder/$type.onnx" \
        --MNNModel "$folder/$type.mnn" --bizCode test > "$folder/log" 2>&1
done
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import MNN.expr as expr
import MNN.nn as nn
import numpy as np

folder = sys.argv[1]
x, wrong = np.load(f"{folder}/x.npy"), {}
for name in ("float32", "float16", "int8"):
    module = nn.load_module_from_file(f"{folder}/{name}.mnn", ["x"], ["y"])
    output = module.forward([expr.const(x, [2, 128], expr.NCHW)])[0]
    found = np.array(expr.convert(output, expr.NCHW).read()).astype(np.float64).reshape(2, 96)
    expected = np.load(f"{folder}/{name}.npy").astype(np.float64)
    far = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{name}: the largest error over the largest output {far:.2g}")
    wrong[name] = not far < 1
    assert wrong[name] or far < 1e-5, name
assert wrong == {"float32": False, "float16": True, "int8": True}, wrong
PYTHON
