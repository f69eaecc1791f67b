#!/usr/bin/env bash
# A Cast from float to int4 cuts, or rounds half away from zero: onnx.reference and ONNX Runtime differ, and neither does what
# is written.
#
# onnxruntime 1.32.0 (CPU), onnx 1.23.2, numpy 2.4.6, 2026-12-01. Numbers from -7.5 to 7.5 in quarters go through Cast to int4
# and to int8, and through QuantizeLinear with a scale of 1 to int4 and to int8, and back to float. The models pass
# onnx.checker's full check.
#
# Expected: one way for all small integers. ONNX's page on 4-bit integers has a Cast round to the nearest number, halves to the
# even one, as QuantizeLinear does; the operator's own text says nothing of it (onnx/onnx#5004, open).
# Seen: to int8 both cut the fraction off. To int4 onnx.reference cuts as well, and ONNX Runtime rounds, halves away from zero:
# 2.5 becomes 3, where its own QuantizeLinear gives 2, and 2.75 becomes 3 where the reference gives 2. More than a third of the
# numbers differ between the two, and none gives what is written for all. ONNX Runtime's tests ask for the rounding
# (microsoft/onnxruntime#26451, closed); OpenVINO has halves away from zero too (openvinotoolkit/openvino#38158, open). So codes
# of 4 bits that a graph makes by Cast are others than those of 8 bits, unless a Round stands in front.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/cast.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.arange(-30, 31, dtype=np.float32) / 4
even, cut, away = np.round(x), np.trunc(x), np.trunc(x + np.copysign(0.5, x))


def output(made: onnx.ModelProto, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], inputs)[0]


def model(how: str, to: int, rounded: bool = False) -> onnx.ModelProto:
    first = [helper.make_node("Round", ["x"], ["r"])] if rounded else []
    source = "r" if rounded else "x"
    zero = onnx.helper.make_tensor("z", to, [], [0])
    if how == "Cast":
        nodes = [helper.make_node("Cast", [source], ["c"], to=to), helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]
        held = []
    else:
        nodes = [helper.make_node(name, [before, "s", "z"], [behind]) for name, before, behind in
                 (("QuantizeLinear", source, "c"), ("DequantizeLinear", "c", "y"))]
        held = [numpy_helper.from_array(np.array(1, np.float32), "s"), zero]
    graph = helper.make_graph(
        first + nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)], held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


inside = abs(x) <= 7.25
for how, to, by_runtime, by_reference in (
    ("Cast", TensorProto.INT8, cut, cut), ("Cast", TensorProto.INT4, away, cut),
    ("QuantizeLinear", TensorProto.INT8, even, even), ("QuantizeLinear", TensorProto.INT4, even, even),
):
    made = model(how, to)
    runtime, reference = output(made, x=x), ReferenceEvaluator(made).run(None, {"x": x})[0].astype(np.float32)
    print(f"{how} to {TensorProto.DataType.Name(to)}: 2.5 is {runtime[x == 2.5][0]:.0f} in onnxruntime {ort.__version__}, "
          f"{reference[x == 2.5][0]:.0f} in onnx.reference {onnx.__version__}; 2.75 {runtime[x == 2.75][0]:.0f} and "
          f"{reference[x == 2.75][0]:.0f}; {(runtime != reference)[inside].mean():.0%} differ")
    assert np.array_equal(runtime[inside], by_runtime[inside]) and np.array_equal(reference[inside], by_reference[inside])
    assert how != "Cast" or to == TensorProto.INT8 or (runtime != reference)[inside].mean() > 0.33
both = model("Cast", TensorProto.INT4, rounded=True)
assert np.array_equal(output(both, x=x)[inside], even[inside])
assert np.array_equal(ReferenceEvaluator(both).run(None, {"x": x})[0][inside], even[inside])
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/cast.py"
