#!/usr/bin/env bash
# OpenCV packs the matrix of a MatMul at every run where a node stands in front of it, be it an Identity of a constant.
#
# opencv-python-headless 5.0.0.93 (dnn, CPU), onnx 1.23.2, numpy 2.4.6, 2026-11-30. Two models that pass onnx.checker's full
# check multiply two rows by the same constant of 1024x1024; in one an Identity stands between the constant and the product.
#
# Expected: the same time. The Identity computes from a constant alone and is folded, and its result is a constant.
# Seen: two to three times the time of the other model, with equal outputs: a matrix is packed for the product once only where it is
# an initializer. It holds for every model whose weights come from nodes: Transpose, Cast, DequantizeLinear.
#
# Exits 0 while the model with the Identity takes more than 1.5 times as long (least of 30 runs, in turn, one thread).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/packs.py" <<'PYTHON'
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

cv2.setNumThreads(1)
rng = np.random.default_rng(0)
w, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((1024, 1024), (2, 1024)))
nets = {}
for name in ("constant", "identity"):
    nodes = [helper.make_node("Identity", ["w"], ["v"])] if name == "identity" else []
    nodes.append(helper.make_node("MatMul", ["x", "v" if nodes else "w"], ["y"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1024])], [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path = Path(sys.argv[1]) / f"{name}.onnx"
    onnx.save(model, path)
    nets[name] = cv2.dnn.readNetFromONNX(str(path))
seconds, outputs = {name: [] for name in nets}, {}
for _ in range(30):
    for name, net in nets.items():
        net.setInput(x, "x")
        start = time.process_time()
        outputs[name] = net.forward()
        seconds[name].append(time.process_time() - start)
same = np.allclose(outputs["constant"], outputs["identity"], rtol=1e-5, atol=1e-4)
ratio = min(seconds["identity"]) / min(seconds["constant"])
print(f"opencv {cv2.__version__}: {1e3 * min(seconds['constant']):.2f} ms, behind an Identity {ratio:.1f} times as long")
sys.exit(not (same and ratio > 1.5))
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/packs.py" "$folder"
