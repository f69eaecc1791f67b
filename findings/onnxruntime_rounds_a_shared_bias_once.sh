#!/usr/bin/env bash
# ONNX Runtime's quantize_static in QOperator format gives nodes that share a bias other biases, by the ratio of their scales.
#
# onnxruntime 1.32.0, numpy 2.4.6, onnx 1.23.2, 2026-12-01. A head of one Conv with a bias, which runs over features and over
# the same features made ten times as large by another Conv, as detectors share a head among the levels of a pyramid; two Convs
# with a bias of their own in common; two Gemms with a bias in common; and each with two copies of the bias. All models pass
# onnx.checker's full check and are quantised as QDQ and as QOperator.
#
# Expected: outputs within some hundredths of the float model's: the integer bias of QLinearConv has the scale of the input
# times that of the weights, as its definition says, so that each node needs one of its own.
# Seen: so with copies, and as QDQ for Convs. As QOperator the bias is rounded for the first node, and the others read the same
# integers by scales of their own, at every level of optimisation: relative errors above 0.5, without an error or a warning
# (microsoft/onnxruntime#7982, a change from 2021 that would give each its own, is still open). As QDQ both nodes read the first
# one's DequantizeLinear, which is right by the operators; a session that optimises takes the integers out of it for Gemms.
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


samples = [random(1, 8, 6, 6) for _ in range(24)]
weight, large, bias = random(8, 8, 3, 3) / 9, 10 * np.eye(8, dtype=np.float32)[:, :, None, None], 3 * random(8)
wide, flat = random(288, 16) / 17, random(16, 16) * 5


def models(second: str) -> dict[str, tuple]:
    """second is the name of the bias of the second node."""
    shared = {"w": weight, "l": large, "v": random(8, 8, 1, 1) * 5, "b": bias, "c": bias}
    return {
        "a head for two levels": (
            [helper.make_node("Conv", ["x", "w", "b"], ["y"]), helper.make_node("Conv", ["x", "l"], ["t"]),
             helper.make_node("Conv", ["t", "w", second], ["z"])],
            {name: shared[name] for name in ("w", "l", "b", second)}, {"y": [1, 8, 4, 4], "z": [1, 8, 4, 4]}),
        "two Convs": (
            [helper.make_node("Conv", ["x", "w", "b"], ["t"]), helper.make_node("Conv", ["t", "v", second], ["z"])],
            {name: shared[name] for name in ("w", "v", "b", second)}, {"z": [1, 8, 4, 4]}),
        "two Gemms": (
            [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["t"]),
             helper.make_node("Gemm", ["t", "v", second], ["z"])],
            {"w": wide, "v": flat, "b": random(16) * 3, second: random(16) * 3}, {"z": [1, 16]}),
    }


for second, title in (("b", "one bias"), ("c", "copies")):
    for name, (nodes, held, shapes) in models(second).items():
        for form in (QDQ, QOperator):
            right, plain, best = quantise(nodes, held, shapes, quant_format=form)
            errors = [off(found[-1], right[-1]) for found in (plain, best)]
            print(f"onnxruntime {ort.__version__}, {name}, {title}, {form.name}: relative errors {errors[0]:.3f}, {errors[1]:.3f}")
            wrong = second == "b" and (form == QOperator, form == QOperator or "Gemm" in name)
            assert all(error > 0.5 if is_wrong else error < 0.1 for error, is_wrong in zip(errors, wrong or (False, False)))
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/bias.py"
