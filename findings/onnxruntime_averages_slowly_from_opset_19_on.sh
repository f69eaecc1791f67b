#!/usr/bin/env bash
# ONNX Runtime's AveragePool takes 3 to 60 times as long in a model of opset 19 as in the same model of opset 18.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-11-30. One AveragePool over [1, 20, 56, 56] floats and over
# [1, 64, 56, 56] in a model that does not say how many channels there are; windows of 7x7, of 2x2 with strides of 2, and
# of 56x56 (all that there is); one thread, processor time of the fastest of 30 runs.
#
# Expected: the same kernel. Opset 19 added the attribute dilations, which is 1 here.
# Seen: another kernel, a loop over each window: 3.5 (2x2) to 60 times (7x7), and other last bits. Where the number of
# channels is known and a multiple of the processor's block (64 here), the blocked layout's kernel computes both, alike. So
# what is raised by a version converter, or exported at a newer opset, is slower, and compared bit for bit it differs.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/average.py" <<'PYTHON'
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper


def timed(opset, shape, x, window):
    """(outputs, milliseconds of processor time of the fastest run)."""
    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["x"], ["y"], **window)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(30):
        begun = time.process_time()
        (y,) = session.run(None, {"x": x})
        times.append(time.process_time() - begun)
    return y, 1e3 * min(times)


rng = np.random.default_rng(0)
shapes = {"20 channels": ([1, 20, 56, 56], 20), "64 channels, not said": (["N", "C", "H", "W"], 64),
          "64 channels, said": ([1, 64, 56, 56], 64)}
windows = [{"kernel_shape": [7, 7]}, {"kernel_shape": [2, 2], "strides": [2, 2]}, {"kernel_shape": [56, 56]}]
for name, (shape, channels) in shapes.items():
    x = rng.standard_normal((1, channels, 56, 56), np.float32)
    for window in windows:
        (old, before), (new, after) = timed(18, shape, x, window), timed(19, shape, x, window)
        size = "x".join(map(str, window["kernel_shape"]))
        times = f"{before:.3f} ms at opset 18, {after:.3f} at 19 ({after / before:.1f}x)"
        print(f"onnxruntime {ort.__version__}, {name}, {size}: {times}")
        assert np.allclose(old, new, atol=1e-6)
        assert (after < 1.5 * before) if name.endswith(", said") else (after > 2 * before), (name, window)
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/average.py"
