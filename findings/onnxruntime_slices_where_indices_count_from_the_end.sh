#!/usr/bin/env bash
# ONNX Runtime gives nothing where a Gather by a Range reverses an axis or takes its last entries: it makes a Slice of both.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. A Range, whose start and limit follow from an input, gives the
# indices of a Gather along an axis of 6: from n - 1 down to 0 (Range to -1 in steps of -1), the last n (from -n to 0), from -n
# to 1, and for comparison from n - 1 down to 1 and from 1 up. All models pass onnx.checker's full check.
#
# Expected: the outputs of the session without optimisation, bit for bit. Indices of Gather may be negative, they count from the
# end; a Range that starts or stops there is how an axis of a length known at run time is reversed or cut.
# Seen: so for the last two. The first three come out with no entry along that axis, without an error or a warning: Range and
# Gather become a Slice with the same start, limit and step (microsoft/onnxruntime#13599), whose limits count from the end too:
# -1 is the last entry and no longer the one in front of the first, and from -n to 0 there is nothing. A sum over it is 0.
# It is right with disabled_optimizers=["GatherToSliceFusion"], at ORT_ENABLE_BASIC, and where the Range is a constant.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/gather.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
levels = ort.GraphOptimizationLevel


def model(times: int, plus: int, limit: int, step: int) -> bytes:
    """Rows times * n + plus, and on in steps to the limit."""
    nodes = [helper.make_node("Mul", ["n", "times"], ["m"]), helper.make_node("Add", ["m", "plus"], ["start"]),
             helper.make_node("Range", ["start", "limit", "step"], ["rows"]),
             helper.make_node("Gather", ["x", "rows"], ["y"], axis=1),
             helper.make_node("ReduceSum", ["y", "axis"], ["sum"])]
    held = {"times": np.int64(times), "plus": np.int64(plus), "limit": np.int64(limit), "step": np.int64(step),
            "axis": np.array([1])}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 3]),
                     helper.make_tensor_value_info("n", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "R", 3]),
         helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2, 1, 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def outputs(made: bytes, n: int, level=levels.ORT_ENABLE_ALL, **arguments) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"], **arguments)
    return session.run(None, {"x": x, "n": np.array(n)})


cases = {
    "all 6 in reverse": ((1, -1, -1, -1), 6, x[:, ::-1], True), "the last 3": ((-1, 0, 0, 1), 3, x[:, -3:], True),
    "from -2 to 1": ((-1, 0, 1, 1), 2, x[:, [-2, -1, 0]], True),
    "from 5 down to 1": ((1, -1, 0, -1), 6, x[:, :0:-1], False), "from 1 to 4": ((1, 0, 5, 1), 1, x[:, 1:5], False),
}
for name, (numbers, n, right, wrong) in cases.items():
    made = model(*numbers)
    for way in ({"level": levels.ORT_DISABLE_ALL}, {"level": levels.ORT_ENABLE_BASIC},
                {"disabled_optimizers": ["GatherToSliceFusion"]}):
        assert np.array_equal(outputs(made, n, **way)[0], right), (name, way)
    found, total = outputs(made, n)
    print(f"onnxruntime {ort.__version__}, {name}: {found.shape[1]} rows of {right.shape[1]}")
    if wrong:
        assert found.shape == (2, 0, 3) and not total.any()
    else:
        assert np.array_equal(found, right)
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/gather.py"
