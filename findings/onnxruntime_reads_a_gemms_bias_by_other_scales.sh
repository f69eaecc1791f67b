#!/usr/bin/env bash
# ONNX Runtime reads the integers of a Gemm's bias by scales other than those of its DequantizeLinear, without an error.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. A Gemm, a MatMul with an Add, and a Conv of 1x1, whose inputs,
# weights and bias stand behind DequantizeLinear: uint8, int8 and int32, each with a zero point. The scale of the bias is that
# of the inputs times that of the weights, as quantisers choose it, or 3 times that, or a seventh. Outputs are floats or
# quantised. All models pass onnx.checker's full check.
#
# Expected: the outputs of the session without optimisation: DequantizeLinear may have any scale, and where a kernel adds the
# integers as they are, their scale is read before it is used. QLinearConv has that check since microsoft/onnxruntime#28229.
# Seen: so for the product of scales, and for Conv. Gemm and MatMul with Add become QGemm at ORT_ENABLE_EXTENDED and add the
# integers as if they had that product: relative errors of 0.4 and more. With session.disable_quant_qdq=1 all are right. A model
# has such a bias where something rounded the weights anew and left the bias alone, where two layers share one, and where a
# power of two was chosen.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/bias.py" <<'PYTHON'
import logging
import os

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

logging.disable(logging.WARNING)
os.chdir(os.path.dirname(__file__))
rng = np.random.default_rng(0)
levels = ort.GraphOptimizationLevel
QDQ, QOperator = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def outputs(name: str, level=levels.ORT_ENABLE_ALL) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(name, options, providers=["CPUExecutionProvider"])
    return [np.concatenate(parts) for parts in zip(*(session.run(None, {"x": x}) for x in samples))]


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(samples)

    def get_next(self) -> dict | None:
        x = next(self.left, None)
        return None if x is None else {"x": x}


def quantise(nodes: list, held: dict, shapes: dict, opset: int = 17, **options) -> tuple[list, list, list]:
    """The outputs in floats, quantised, and quantised and optimised."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, samples[0].shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, "float.onnx")
    quantization.quantize_static("float.onnx", "small.onnx", Samples(), **options)
    onnx.checker.check_model(onnx.load("small.onnx"), full_check=True)
    return outputs("float.onnx"), outputs("small.onnx", levels.ORT_DISABLE_ALL), outputs("small.onnx")


def off(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


samples = [random(4, 16)]
weight = rng.integers(-127, 128, (16, 8)).astype(np.int8)
inputs, weights, zero = np.float32(0.03), np.float32(0.005), np.uint8(128)


def run(made: onnx.ModelProto, x: np.ndarray, level, **entries: str) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


for layer in ("Gemm", "MatMul and Add", "Conv"):
    for factor in (1, 3, 1 / 7):
        for quantised in (True, False):
            scale = np.float32(inputs * weights * factor)
            bias = np.round(2 * random(8) / scale).astype(np.int32)
            x = samples[0][:, :, None, None] if layer == "Conv" else samples[0]
            held = {"xs": inputs, "z": zero, "w": weight.T[:, :, None, None].copy() if layer == "Conv" else weight,
                    "ws": weights, "wz": np.int8(0), "b": bias, "bs": scale, "bz": np.int32(0), "ys": np.float32(0.1)}
            nodes = [helper.make_node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
                     helper.make_node("DequantizeLinear", ["q", "xs", "z"], ["a"]),
                     helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["m"]),
                     helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["c"])]
            if layer == "MatMul and Add":
                nodes += [helper.make_node("MatMul", ["a", "m"], ["p"]), helper.make_node("Add", ["p", "c"], ["t"])]
            else:
                nodes += [helper.make_node(layer, ["a", "m", "c"], ["t"])]
            if quantised:
                nodes += [helper.make_node("QuantizeLinear", ["t", "ys", "z"], ["r"]),
                          helper.make_node("DequantizeLinear", ["r", "ys", "z"], ["y"])]
            else:
                nodes[-1].output[0] = "y"
                del held["ys"]
            graph = helper.make_graph(
                nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8, 1, 1] if layer == "Conv" else [4, 8])],
                [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
            )
            made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            onnx.checker.check_model(made, full_check=True)
            plain, best = run(made, x, levels.ORT_DISABLE_ALL), run(made, x, levels.ORT_ENABLE_ALL)
            kept = run(made, x, levels.ORT_ENABLE_ALL, disable_quant_qdq="1")
            codes = np.clip(np.round(samples[0] / inputs) + 128, 0, 255) - 128
            exact = (codes * inputs) @ (weight * weights) + bias * scale
            step = float(held["ys"]) if quantised else 1e-4
            assert max(abs(plain.reshape(4, 8) - exact).max(), abs(kept.reshape(4, 8) - exact).max()) < step
            print(f"onnxruntime {ort.__version__}, {layer}, {factor:.2f} of the product, outputs "
                  f"{'quantised' if quantised else 'floats'}: relative error {off(best, plain):.3f}")
            assert off(best, plain) > 0.3 if layer != "Conv" and factor != 1 else off(best, plain) < 0.02
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/bias.py"
