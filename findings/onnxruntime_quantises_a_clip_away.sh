#!/usr/bin/env bash
# ONNX Runtime's quantize_static takes a Clip out of the model whose bounds leave zero out, and nothing keeps the bound any more.
#
# onnxruntime 1.32.0, numpy 2.4.6, onnx 1.23.2, 2026-11-30. A Conv and a Clip behind it, from 0.5 to 1, from 1 up and from -1 to
# -0.5, and for comparison from 0 to 1. All models pass onnx.checker's full check and are quantised by quantize_static with its
# defaults (QDQ), as QOperator, and with activations of 16 bits.
#
# Expected: outputs within some hundredths of the float model's. A Clip may go where the rounding behind it cuts off what it did,
# which the quantiser does for a ReLU too (microsoft/onnxruntime#9425).
# Seen: so from 0 to 1. Where zero is outside the bounds the range that is rounded to still reaches to zero, as it must, but the
# Clip is gone, so that all values between zero and the bound pass: relative errors of 0.6 and more, at every level of
# optimisation, with 16 bits too, without an error or a warning. With QDQKeepRemovableActivations (QDQ), which is off by default, or
# ActivationSymmetric the Clip stays and the error is below 0.03. A clamp from a small number on, in front of a Log or a
# division, is lost alike.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/clip.py" <<'PYTHON'
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.quantization as quantization
from onnx import TensorProto, helper, numpy_helper

logging.disable(logging.WARNING)
folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.standard_normal((64, 3, 8, 8)).astype(np.float32)
weight = (rng.standard_normal((4, 3, 3, 3)) / 27**0.5).astype(np.float32)


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.samples = iter(x)

    def get_next(self):
        sample = next(self.samples, None)
        return None if sample is None else {"x": sample[None]}


def output(path: Path, level) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def errors(low: float | None, high: float | None, **options) -> list[float]:
    """Relative errors of the quantised model, without optimisation and with it."""
    bounds = {name: np.float32(bound) for name, bound in (("low", low), ("high", high)) if bound is not None}
    names = [name if name in bounds else "" for name in ("low", "high")]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node("Clip", ["c", *names], ["y"], "clip")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in {"w": weight, **bounds}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "floats.onnx")
    quantization.quantize_static(folder / "floats.onnx", folder / "quantised.onnx", Samples(), **options)
    levels = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    right = output(folder / "floats.onnx", levels[0])
    return [float(np.linalg.norm(output(folder / "quantised.onnx", level) - right) / np.linalg.norm(right)) for level in levels]


ways = {
    "QDQ": {}, "QDQ of 16 bits": {"activation_type": quantization.QuantType.QUInt16},
    "QOperator": {"quant_format": quantization.QuantFormat.QOperator, "activation_type": quantization.QuantType.QUInt8},
    "QDQ, Clip kept": {"extra_options": {"QDQKeepRemovableActivations": True}},
    "QDQ, symmetric": {"extra_options": {"ActivationSymmetric": True}},
}
for low, high in ((0, 1), (0.5, 1), (1, None), (-1, -0.5)):
    found = {way: errors(low, high, **options) for way, options in ways.items()}
    shown = "; ".join(f"{way} {least:.3f} {optimised:.3f}" for way, (least, optimised) in found.items())
    print(f"onnxruntime {ort.__version__}, Clip from {low} to {high}, relative errors: {shown}")
    for way, both in found.items():
        lost = low != 0 and way in ("QDQ", "QDQ of 16 bits", "QOperator")
        assert min(both) > 0.3 if lost else max(both) < 0.03, (low, high, way, both)
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/clip.py" "$folder"
