#!/usr/bin/env bash
# ONNX Runtime does not load what its own quantiser wrote with its defaults, where the model is of opset 21 or newer and
# convolutions alone are quantised.
#
# onnxruntime 1.26.0 and 1.32.0 (1.27.0 to 1.31.1 like the latter), numpy 2.4.6, onnx 1.23.2, 2026-11-30. A Conv with a MaxPool,
# a Transpose or a Reshape behind is quantised by quantize_static with op_types_to_quantize=["Conv"], else with its
# defaults: int8 activations with a zero point. At opset 21 without optimisation, at 21 and 17 with it. All files pass
# onnx.checker's full check. Beside it, int8 constants behind a DequantizeLinear without zero point are reshaped.
#
# Expected: a session for each, with the same outputs at every level of optimisation.
# Seen: from 1.27 on none at opset 21 with the session's defaults: "output_dtype INT8 does not match y_zero_point type UINT8".
# The optimiser repeats a DequantizeLinear behind MaxPool, Transpose, Reshape, Slice, Squeeze and Unsqueeze, with a
# QuantizeLinear in front that says its type twice since microsoft/onnxruntime#28144. That change mends what 1.26 and
# earlier do without a word where there is no zero point: all negative constants become 0. So with a zero point such files of
# opset 21 run until 1.26, and without one from 1.27 on; uint8 activations, and int8 with a zero point at opset 20, run in all.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/signed.py" <<'PYTHON'
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.quantization as quantization
from onnx import TensorProto, helper, numpy_helper

logging.disable(logging.WARNING)
folder, levels = Path(sys.argv[1]), ort.GraphOptimizationLevel
rng, x = np.random.default_rng(0), np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
shapes = {"Transpose": [1, 6, 6, 4], "MaxPool": [1, 4, 5, 5], "Reshape": [1, 144]}


class Reader(quantization.CalibrationDataReader):
    def __init__(self):
        self.given = iter([{"x": x}])

    def get_next(self):
        return next(self.given, None)


def save(nodes, held, given, made, opset, path):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def run(path, level, x):
    """The output, or None where no session opens."""
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 4, level
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        assert "output_dtype INT8 does not match y_zero_point type UINT8" in str(error), error
        return None
    return session.run(None, {"x": x})[0]


def loads(op, opset, level, **attributes):
    held = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    if op == "Reshape":
        held["shape"] = np.array(shapes[op])
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
             helper.make_node(op, ["c", "shape"] if op == "Reshape" else ["c"], ["y"], "last", **attributes)]
    save(nodes, held, x.shape, shapes[op], opset, folder / "float.onnx")
    quantization.quantize_static(folder / "float.onnx", folder / "int8.onnx", Reader(), op_types_to_quantize=["Conv"])
    onnx.checker.check_model(folder / "int8.onnx", full_check=True)
    return run(folder / "int8.onnx", level, x) is not None


def constants():
    """What becomes of -2, -1, 1 and 2 without a zero point."""
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["f"]), helper.make_node("Reshape", ["f", "shape"], ["m"]),
             helper.make_node("Add", ["x", "m"], ["y"])]
    held = {"w": np.array([-2, -1, 1, 2], np.int8), "scale": np.float32(1), "shape": np.array([2, 2])}
    save(nodes, held, [2, 2], [2, 2], 21, folder / "constants.onnx")
    found = run(folder / "constants.onnx", levels.ORT_ENABLE_ALL, np.zeros((2, 2), np.float32))
    return found.astype(int).reshape(-1).tolist()


facts = {}
for op, attributes in (("MaxPool", {"kernel_shape": [2, 2]}), ("Transpose", {"perm": [0, 2, 3, 1]}), ("Reshape", {})):
    facts[op] = [loads(op, opset, level, **attributes) for opset, level in
                 ((21, levels.ORT_DISABLE_ALL), (17, levels.ORT_ENABLE_ALL), (21, levels.ORT_ENABLE_ALL))]
facts["constants"] = constants()
print(f"onnxruntime {ort.__version__}:", facts)
old = ort.__version__ == "1.26.0"
assert all(facts[op] == [True, True, old] for op in shapes), facts
assert facts["constants"] == ([0, 0, 1, 2] if old else [-2, -1, 1, 2]), facts
PYTHON
for release in 1.26.0 1.32.0; do
    python3 -m venv "$folder/$release"
    "$folder/$release/bin/pip" install -q --disable-pip-version-check "onnxruntime==$release" numpy==2.4.6 onnx==1.23.2 \
        sympy 2>/dev/null
    "$folder/$release/bin/python" "$folder/signed.py" "$folder" 2>"$folder/log" || { cat "$folder/log"; exit 1; }
done
