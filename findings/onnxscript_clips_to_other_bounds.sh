#!/usr/bin/env bash
# onnxscript.optimizer.optimize joins neighbouring Clips, ReLUs, Mins and Maxes to a Clip with other outputs, or of another shape.
#
# onnxscript 0.7.2, onnx-ir 1.1.0, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-11-30. Models of two nodes behind one input
# pass onnx.checker's full check: a Clip from -2 to -1 and a ReLU, a Clip from 0 to 1 and one from 2 to 3, a Max and a Min whose
# bound has an axis more than the input; and for comparison two Clips whose bounds overlap. optimize is called with its defaults.
#
# Expected: the same outputs: nodes are joined where that changes nothing. (It raises an error for a Clip without a maximum,
# microsoft/onnxscript#2836.)
# Seen: so where the bounds overlap. Of two that do not, the larger minimum and the smaller maximum are taken, and a Clip whose
# minimum is above its maximum gives the maximum: -1 where ReLU gave 0, 1 where the second Clip gave 2. The bound with an
# axis more becomes a scalar, and the output loses an axis, though the graph still says it has it. onnxruntime's own optimiser is
# right for all.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/bounds.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

x = np.linspace(-4, 4, 9, dtype=np.float32)


def output(model: onnx.ModelProto, level) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def outputs(first: tuple, second: tuple, shape: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of the model, and of what the optimiser makes of it. A node is its operator and its bounds."""
    held, nodes, last = {}, [], "x"
    for place, (op, *bounds) in enumerate((first, second)):
        names = [f"bound{place}{k}" for k in range(len(bounds))]
        held |= dict(zip(names, bounds, strict=True))
        nodes.append(helper.make_node(op, [last, *names], [("t", "y")[place]]))
        last = "t"
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(bound, np.float32), name) for name, bound in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    right = output(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert np.array_equal(right, output(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL))
    made = optimizer.optimize(model)
    assert [node.op_type for node in made.graph.node] == ["Clip"], "not joined"
    return right, output(made, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)


print("onnxscript", version("onnxscript"), "onnx-ir", version("onnx-ir"))
right, found = outputs(("Clip", -3, 2), ("Clip", -1, 3), [9])
assert np.array_equal(right, found)
for name, first, second in (
    ("Clip from -2 to -1, Relu", ("Clip", -2, -1), ("Relu",)), ("Clip from 0 to 1, Clip from 2 to 3", ("Clip", 0, 1), ("Clip", 2, 3))
):
    right, found = outputs(first, second, [9])
    print(f"{name}: {right.min():g} to {right.max():g} before, {found.min():g} to {found.max():g} after")
    assert np.abs(right - found).min() >= 1
right, found = outputs(("Max", [-2.0]), ("Min", [[1.0]]), [1, 9])
print(f"Max, Min with a bound of 1x1: {right.shape} before, {found.shape} after")
assert right.shape == (1, 9)
assert found.shape == (9,)
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6 2>/dev/null
"$folder/env/bin/python" "$folder/bounds.py" 2>/dev/null
