#!/usr/bin/env bash
# ONNX Runtime's Resize with antialias makes every negative number of int8 a 0, and so do models that its quantiser writes.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. A Resize (linear, antialias=1, half the size) over numbers
# from -128 to 127 in int8, int32 and float32, over 0 to 255 in uint8, and a Conv, that Resize and a Conv of 1x1, quantised by
# quantize_static with activations of int8 and of uint8, as QDQ and as QOperator. All models pass onnx.checker's full check.
#
# Expected: for all types the mean that the triangle filter gives, rounded. The operator takes int8, and a quantised model has
# the outputs of the float model to some hundredths.
# Seen: so for int32, float32 and uint8. In int8 nothing is below 0, without an error: the kernel cuts sums along the one axis
# and then along the other to 0 to 255, as for uint8, so that positive numbers beside negative ones are off too. As QDQ the
# Resize computes floats and is right; as QOperator it computes int8, which is quantize_static's default, and the model's
# relative error is above 0.5 at every level of optimisation. With activation_type=QuantType.QUInt8, or without antialias, it is
# below 0.1.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/resize.py" <<'PYTHON'
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
half = np.array([1, 1, 0.5, 0.5], np.float32)


def model(nodes: list, held: dict, kind: type, shape: list[int], out: list[int]) -> onnx.ModelProto:
    of = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", of, shape)], [helper.make_tensor_value_info("y", of, out)],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def output(made: bytes | str, x: np.ndarray, level=levels.ORT_ENABLE_ALL) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    return ort.InferenceSession(made, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def halved(x: np.ndarray) -> np.ndarray:
    """Along both axes: a triangle two pixels wide to each side, over an image whose border is repeated."""
    size = x.shape[-1]
    taps = np.array([0.125, 0.375, 0.375, 0.125])
    wide = np.pad(x[0, 0].astype(np.float64), 1, mode="edge")
    rows = sum(tap * wide[start:start + size:2] for start, tap in enumerate(taps))
    return sum(tap * rows[:, start:start + size:2] for start, tap in enumerate(taps))[None, None]


whole = rng.integers(-128, 128, (1, 1, 16, 16))
for kind, x in ((np.float32, whole), (np.int32, whole), (np.uint8, whole + 128), (np.int8, whole)):
    x = x.astype(kind)
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)
    found = output(model([node], {"s": half}, kind, [1, 1, 16, 16], [1, 1, 8, 8]).SerializeToString(), x).astype(np.float64)
    right = halved(x)
    print(f"onnxruntime {ort.__version__}, Resize of {kind.__name__}: least {found.min():.0f}, should be {right.min():.0f}; "
          f"{(abs(found - right) > 1).mean():.0%} are off")
    if kind is np.int8:
        negative = right < -1
        assert negative.mean() > 0.3 and found.min() == 0 and (abs(found - right) > 1).mean() > 0.5
    else:
        assert abs(found - right).max() <= 1

samples = [rng.standard_normal((1, 3, 12, 12)).astype(np.float32) for _ in range(16)]
weights = {"w": rng.standard_normal((3, 3, 3, 3)).astype(np.float32) / 3, "v": rng.standard_normal((4, 3, 1, 1)).astype(np.float32)}


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(samples)

    def get_next(self) -> dict | None:
        x = next(self.left, None)
        return None if x is None else {"x": x}


for antialias in (1, 0):
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
             helper.make_node("Resize", ["a", "", "s"], ["b"], mode="linear", antialias=antialias),
             helper.make_node("Conv", ["b", "v"], ["y"])]
    onnx.save(model(nodes, {**weights, "s": half}, np.float32, [1, 3, 12, 12], [1, 4, 6, 6]), "float.onnx")
    right = np.concatenate([output("float.onnx", x) for x in samples])
    for form in quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator:
        for kind in quantization.QuantType.QInt8, quantization.QuantType.QUInt8:
            quantization.quantize_static("float.onnx", "small.onnx", Samples(), quant_format=form, activation_type=kind)
            onnx.checker.check_model(onnx.load("small.onnx"), full_check=True)
            errors = [np.linalg.norm(np.concatenate([output("small.onnx", x, level) for x in samples]) - right)
                      / np.linalg.norm(right) for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL)]
            print(f"antialias {antialias}, {form.name}, activations {kind.name}: relative errors {errors[0]:.3f}, {errors[1]:.3f}")
            wrong = antialias and form.name == "QOperator" and kind.name == "QInt8"
            assert min(errors) > 0.5 if wrong else max(errors) < 0.1
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/resize.py"
