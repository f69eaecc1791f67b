#!/usr/bin/env bash
# onnx2tf gives the channels of weights behind DequantizeLinear each other's scales, without an error.
#
# onnx2tf 1.29.24, tensorflow 2.19.0, ai-edge-litert 2.1.0, onnx 1.19.1, onnxruntime 1.23.0, Python 3.11, 2026-11-30. The int8
# weights of a MatMul, a Gemm and a Conv stand behind a DequantizeLinear with a scale for each output channel, as quantisers
# write them (quantize_static of onnxruntime with per_channel=True is one). The models pass onnx.checker's full check.
#
# Expected: the outputs of onnxruntime, to the rounding of float32, or a refusal.
# Seen: no error, and the outputs of a model whose scales are s[0], s[2], s[3], ..., s[1]: the entries of a constant vector
# are taken for the axes of an image, and the second one moves to the end as channels do. Other vectors behind nodes fare
# alike (a bias behind Cast, a matrix behind Reshape), but the onnxsim that the converter calls first folds those.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx2tf==1.29.24 tensorflow==2.19.0 tf_keras==2.19.0 \
    ai-edge-litert==2.1.0 onnx==1.19.1 onnxruntime==1.23.0 onnx_graphsurgeon==0.5.8 onnxsim==0.4.36 sng4onnx==2.0.1 \
    sne4onnx==2.0.1 simple_onnx_processing_tools==1.1.32 psutil 2>/dev/null
cd "$folder"
PATH="$folder/venv/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=3 python - 2>/dev/null <<'PYTHON'
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
# operator, attributes, shape of the weights, axis of the output channels, shapes of input and output
CASES = (
    ("MatMul", {}, (40, 30), 1, (2, 40), (2, 30)),
    ("Gemm", {"transB": 1}, (30, 40), 0, (2, 40), (2, 30)),
    ("Conv", {}, (8, 6, 3, 3), 0, (2, 6, 9, 9), (2, 8, 7, 7)),
)


def by_onnxruntime(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


def by_litert(folder: str, x: np.ndarray) -> np.ndarray:
    """TensorFlow has the channels of an image last."""
    (path,) = Path(folder).glob("*_float32.tflite")
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    given = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return found.transpose(0, 3, 1, 2) if x.ndim == 4 else found


for operator, attributes, shape, axis, given, made in CASES:
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    scales, x = rng.random(shape[axis]).astype(np.float32), rng.standard_normal(given).astype(np.float32)

    def model(scales: np.ndarray) -> onnx.ModelProto:
        graph = helper.make_graph(
            [
                helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=axis),
                helper.make_node(operator, ["x", "w"], ["y"], **attributes),
            ],
            "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
            [numpy_helper.from_array(weights, "q"), numpy_helper.from_array(scales, "s")],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        return proto

    onnx.save(model(scales), f"{operator}.onnx")
    subprocess.run(["onnx2tf", "-i", f"{operator}.onnx", "-o", operator, "-n"], check=True, capture_output=True)
    found, moved = by_litert(operator, x), np.concatenate([scales[:1], scales[2:], scales[1:2]])
    off, off_moved = (
        float(np.abs(found - expected).max() / np.abs(expected).max())
        for expected in (by_onnxruntime(model(scales), x), by_onnxruntime(model(moved), x))
    )
    print(f"{operator}: {off:.2g} off of the largest output, {off_moved:.2g} of the model with a scale moved")
    assert off > 0.01 and off_moved < 1e-5, operator
PYTHON
