#!/usr/bin/env bash
# onnxoptimizer takes the first of two Reshapes out though the second copies a size from it: outputs get another shape.
#
# onnxoptimizer 0.4.2, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-12-01. Two Reshapes of constant shapes, of 2x3x4
# numbers: to 6x4 and then to shapes with a 0, which stands for the size that the input has at that place, and with -1, which
# stands for what is left; and for comparison without a 0. The models pass onnx.checker's full check. optimize is called with
# its fuse and eliminate passes, its default, and with eliminate_consecutive_idempotent_ops alone.
#
# Expected: the same shape, the same numbers: without a 0 the first Reshape does nothing for the second, with one it does.
# Seen: so without a 0. With one the first Reshape is taken out as well, and the size is copied from the model's input: 6x2x2
# becomes 2x2x6, and 6x4 becomes 8x3, without an error, which a sum along an axis behind makes other numbers. Where the sizes do
# not fit the model stops when it runs (onnx/optimizer#171, open, is models of detectors that do). onnxsim's and onnxruntime's
# own passes leave such a pair alone.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/shape.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def output(made: onnx.ModelProto, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], inputs)[0]


for first, second, shape, seen in (
    ([6, 4], [0, 2, -1], (6, 2, 2), (2, 2, 6)), ([6, 4], [-1, 0], (6, 4), (8, 3)), ([24], [0], (24,), None),
    ([6, 4], [3, 2, -1], (3, 2, 4), (3, 2, 4)),
):
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "first"], ["t"]), helper.make_node("Reshape", ["t", "second"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(np.array(value), name) for name, value in (("first", first), ("second", second))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    best = output(made, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, x=x)
    assert output(made, x=x).shape == best.shape == shape
    for passes in (None, ["eliminate_consecutive_idempotent_ops"]):
        less = onnxoptimizer.optimize(onnx.ModelProto.FromString(made.SerializeToString()), passes)
        try:
            found = output(less, x=x).shape
        except Exception as stopped:
            assert "cannot be reshaped" in str(stopped)
            found = None
        print(f"onnxoptimizer {version('onnxoptimizer')}, Reshape to {first} and {second}: {shape}, then {found or 'no run'}")
        assert found == seen
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxoptimizer==0.4.2 onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/shape.py"
