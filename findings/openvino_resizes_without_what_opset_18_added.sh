#!/usr/bin/env bash
# OpenVINO resizes without antialias and without the aspect ratio that a model asks for: other numbers, and another shape.
#
# openvino 2026.4.1 (CPU), onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, 2026-12-01. A Resize of opset 19 over 16x16: to half
# with antialias=1 (linear and cubic) and without, to half and cubic with exclude_outside=1, and to sizes of 4x12 with
# keep_aspect_ratio_policy "not_larger", "not_smaller" and "stretch". All models pass onnx.checker's full check; inference is in
# f32.
#
# Expected: the outputs of onnxruntime, to 1e-4, or a refusal of what is not implemented. Opset 18 gave the operator antialias
# and the policy; exclude_outside is older.
# Seen: so without antialias, and for "stretch". With the others no error and no warning: outputs are those without the
# attribute (cubic, openvinotoolkit/openvino#35893, open), and the two policies give 4x12 where the operator gives 4x4 and
# 12x12. torchvision's resize and torch's interpolate are exported with antialias=1 where they ask for it.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/resize.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
import openvino
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 1, 16, 16)).astype(np.float32)
core = openvino.Core()
core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})


def output(made: onnx.ModelProto, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], inputs)[0]


def outputs(shape: tuple, sizes: list[int] | None = None, **attributes) -> tuple[np.ndarray, np.ndarray]:
    held = {"s": np.array([1, 1, 0.5, 0.5], np.float32)} if sizes is None else {"s": np.array(sizes)}
    inputs = ["x", "", "s"] if sizes is None else ["x", "", "", "s"]
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    compiled = core.compile_model(core.read_model(made.SerializeToString()), "CPU")
    return output(made, x=x), compiled([x])[compiled.output(0)]


def halved(image: np.ndarray) -> np.ndarray:
    """Linear with antialias: four pixels along each axis, over an image whose border is repeated."""
    taps = (0.125, 0.375, 0.375, 0.125)
    wide = np.pad(image, 1, mode="edge")
    rows = sum(tap * wide[start:start + 16:2] for start, tap in enumerate(taps))
    return sum(tap * rows[:, start:start + 16:2] for start, tap in enumerate(taps))


half = (1, 1, 8, 8)
for mode, attributes, wrong in (
    ("linear", {}, False), ("cubic", {}, False), ("linear", {"antialias": 1}, True), ("cubic", {"antialias": 1}, True),
    ("cubic", {"exclude_outside": 1}, True),
):
    right, found = outputs(half, mode=mode, **attributes)
    without = outputs(half, mode=mode)[1]
    if mode == "linear" and attributes:
        assert np.allclose(right[0, 0], halved(x[0, 0]), atol=1e-4)
    error = float(np.linalg.norm(found - right) / np.linalg.norm(right))
    print(f"openvino {openvino.__version__[:8]}, {mode}, {attributes or 'plain'}: relative error {error:.3f}")
    assert error > 0.05 and np.array_equal(found, without) if wrong else error < 1e-4
for policy, shape in (("stretch", (1, 1, 4, 12)), ("not_larger", (1, 1, 4, 4)), ("not_smaller", (1, 1, 12, 12))):
    right, found = outputs(shape, [4, 12], mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)
    print(f"openvino {openvino.__version__[:8]}, sizes of 4x12, {policy}: {right.shape} wanted, {found.shape} found")
    assert right.shape == shape and found.shape == (1, 1, 4, 12)
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/resize.py"
