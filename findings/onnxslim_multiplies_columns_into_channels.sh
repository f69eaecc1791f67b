#!/usr/bin/env bash
# OnnxSlim multiplies a factor for each column or row of an image into the channels of the convolution in front of it, without
# an error.
#
# onnxslim 0.1.98, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-12-01. A Conv of 8 channels and a Mul behind it, on images
# 8 wide and 8 high, as a window over time or a weight for each position is applied: factors of shape 8x1x1 and 1x8x1x1
# (channels), 8 and 1x1x1x8 (columns), 8x1 (rows), the first two without a bias and all with one, a ConvTranspose, and an Add in
# place of the Mul. All models pass onnx.checker's full check; onnxslim.slim is called with its defaults.
#
# Expected: the same outputs: a factor goes into the weights if it is one for each channel, which the place of its axis says.
# Seen: so for channels, and for Add, whose shape is compared. Of a factor for Mul axes of 1 are taken off first, and what is
# left is taken for channels where it is as long as there are channels: relative errors above 0.5, at equal shapes, and no
# warning. Where the image has another width it is right. onnxruntime's own fusion of Conv and Mul is right for all.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/factor.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime as ort
import onnxslim
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
factor = np.arange(1, 9, dtype=np.float32) / 4
held = {"Conv": rng.standard_normal((8, 3, 3, 3)), "ConvTranspose": rng.standard_normal((3, 8, 3, 3)),
        "bias": rng.standard_normal(8)}
held = {name: array.astype(np.float32) for name, array in held.items()}


def output(made: onnx.ModelProto, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], inputs)[0]


for layer, then, shape, wrong in (
    ("Conv", "Mul", (8, 1, 1), False), ("Conv", "Mul", (1, 8, 1, 1), False), ("Conv", "Mul", (8,), True),
    ("Conv", "Mul", (1, 1, 1, 8), True), ("Conv", "Mul", (8, 1), True), ("ConvTranspose", "Mul", (8,), True),
    ("Conv", "Add", (8,), False), ("Conv", "Add", (8, 1), False),
):
    for names in (["w"], ["w", "b"]):
        nodes = [helper.make_node(layer, ["x", *names], ["t"], pads=[1, 1, 1, 1]),
                 helper.make_node(then, ["t", "f"], ["y"])]
        arrays = {"w": held[layer], "b": held["bias"], "f": factor.reshape(shape)}
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
            [numpy_helper.from_array(arrays[name], name) for name in (*names, "f")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        right, best = output(made, x=x), output(made, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, x=x)
        alone = onnx.ModelProto.FromString(made.SerializeToString())
        del alone.graph.node[1]
        alone.graph.node[0].output[0] = "y"
        before = output(alone, x=x)
        assert np.allclose(right, before * arrays["f"] if then == "Mul" else before + arrays["f"], atol=1e-5)
        slim = onnxslim.slim(onnx.ModelProto.FromString(made.SerializeToString()))
        onnx.checker.check_model(slim, full_check=True)
        found = output(slim, x=x)
        error = float(np.linalg.norm(found - right) / np.linalg.norm(right))
        print(f"onnxslim {version('onnxslim')}, {layer} {'with' if 'b' in names else 'without'} bias, {then} of {shape}: "
              f"{len(made.graph.node)} nodes become {len(slim.graph.node)}, relative error {error:.3f}")
        assert np.allclose(best, right, atol=1e-5) and found.shape == right.shape
        assert error > 0.5 if wrong else error < 1e-5
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxslim==0.1.98 onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/factor.py"
