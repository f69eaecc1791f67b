#!/usr/bin/env bash
# ONNX Runtime takes the scales of a weight's rows for those of its columns where activations are quantised too, without an
# error: what DequantizeLinear says by its axis and block_size is not read.
#
# onnxruntime 1.32.0 (CPU; 1.22.1 and 1.26.0 alike), numpy 2.4.6, onnx 1.23.2, 2026-11-30. Inputs go through QuantizeLinear and
# DequantizeLinear (uint8), int8 weights through a DequantizeLinear with 64 scales on the axis that the product sums over: a
# MatMul (axis 0), a Gemm with transB (axis 1), a Conv with a quantised output (axis 1), and a MatMul whose weights have scales
# for 4 blocks of 16 inputs. Weights are 64x64 (1x1 the Conv). All models pass onnx.checker's full check.
#
# Expected: the outputs of the session without optimisation, to the rounding of its integers (1e-3), as with scales on the axis
# of the outputs; kernels that take a scale for each output alone (MatMulIntegerToFloat, QGemm, QLinearConv) are not used.
# Seen: they are used, with relative errors of 0.5 and more. Blocks are taken for rows of the batch: four rows come out wrong,
# and with three the run stops with an error. Where a weight is not square, MatMul and Conv stop too, and Gemm is right. With
# floats for activations, or with session.disable_quant_qdq=1, all are right. onnxruntime's own quantize_static writes such a
# file: per_channel=True, where a Gemm with transB and a MatMul share a square weight, gives it the axis of the first.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/axes.py" <<'PYTHON'
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.quantization as quantization
from onnx import TensorProto, helper, numpy_helper

logging.disable(logging.WARNING)
rng, side = np.random.default_rng(0), 64
integers = rng.integers(-127, 128, (side, side)).astype(np.int8)
x = rng.standard_normal((4, side)).astype(np.float32)
factors = np.exp(rng.standard_normal(side)).astype(np.float32)


def written(nodes, held, shape):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def error(model, x):
    """Relative L2 of the optimised session, of the same without QDQ, over the session without optimisation."""
    levels, outputs = ort.GraphOptimizationLevel, []
    for level, value in ((levels.ORT_DISABLE_ALL, "0"), (levels.ORT_ENABLE_ALL, "0"), (levels.ORT_ENABLE_ALL, "1")):
        options = ort.SessionOptions()
        options.log_severity_level, options.graph_optimization_level = 4, level
        options.add_session_config_entry("session.disable_quant_qdq", value)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"x": x})[0])
    return [float(np.linalg.norm(each - outputs[0]) / np.linalg.norm(outputs[0])) for each in outputs[1:]]


def product(op, axis, *, block=0, image=False, **attributes):
    held = {
        "w": integers[..., None, None] if image else integers, "x scale": np.float32(0.03), "x zero": np.uint8(128),
        "scales": 0.01 * (rng.permutation(np.tile(factors, 4)).reshape(4, side) if block else factors),
        "zeros": np.zeros(side, np.int8), "y scale": np.float32(0.5), "y zero": np.uint8(128),
    }
    of_weights = ["w", "scales"] if block else ["w", "scales", "zeros"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x scale", "x zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "x scale", "x zero"], ["xf"]),
        helper.make_node("DequantizeLinear", of_weights, ["wf"], axis=axis, block_size=block),
        helper.make_node(op, ["xf", "wf"], ["m" if image else "y"], **attributes),
    ]
    if image:
        nodes += [
            helper.make_node("QuantizeLinear", ["m", "y scale", "y zero"], ["y8"]),
            helper.make_node("DequantizeLinear", ["y8", "y scale", "y zero"], ["y"]),
        ]
    shape = (4, side, 1, 1) if image else (4, side)
    return error(written(nodes, held, shape), x.reshape(shape))


class Reader(quantization.CalibrationDataReader):
    def __init__(self):
        self.given = iter([{"x": x}])

    def get_next(self):
        return next(self.given, None)


def shared():
    """A weight of floats that a Gemm and a MatMul share, quantised by onnxruntime."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["m"], "first", transB=1), helper.make_node("MatMul", ["m", "w"], ["y"], "last"),
    ]
    held = {"w": rng.standard_normal((side, side)).astype(np.float32) * factors[:, None]}
    source, target = Path(sys.argv[1]) / "float.onnx", Path(sys.argv[1]) / "quantised.onnx"
    onnx.save(written(nodes, held, (4, side)), source)
    quantization.quantize_static(source, target, Reader(), per_channel=True)
    return error(onnx.load(target), x)


right = {"MatMul, axis 1": product("MatMul", 1), "Gemm with transB, axis 0": product("Gemm", 0, transB=1),
         "Conv, axis 0": product("Conv", 0, image=True)}
wrong = {"MatMul, axis 0": product("MatMul", 0), "Gemm with transB, axis 1": product("Gemm", 1, transB=1),
         "Conv, axis 1": product("Conv", 1, image=True), "MatMul, axis 0, blocks": product("MatMul", 0, block=16),
         "a weight shared, quantize_static": shared()}
for name, (default, without) in {**right, **wrong}.items():
    print(f"onnxruntime {ort.__version__}, {name}: relative error {default:.1e}, without QDQ {without:.1e}")
assert all(default < 0.05 for default, _ in right.values()), right
assert all(default > 0.3 and without < 0.05 for default, without in wrong.values()), wrong
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 sympy 2>/dev/null
"$folder/env/bin/python" "$folder/axes.py" "$folder" 2>"$folder/log" || { cat "$folder/log"; exit 1; }
