#!/usr/bin/env bash
# ONNX Runtime makes one division of a division and a product of integers, whose result is another number.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. A constant 1 is divided by an input, and the quotient is
# multiplied with another input (Div, Mul): integers of 32 and of 64 bits, floats, and floats whose 1 has an axis more
# than the inputs. All models pass onnx.checker's full check.
#
# Expected: the outputs of the session without optimisation. The quotient of integers is cut to an integer, 1 / x is 0 for
# every x above 1, and so is the product: it selects what goes with an x of 1. And an output has as many axes as the graph says.
# Seen: so for floats. Integers become b / x at ORT_ENABLE_BASIC already, without an error or a warning: 1 / 3 * 7 is 2 in
# place of 0. Div and Mul become b / x where the constant is 1, (microsoft/onnxruntime#7183), which is the
# same for real numbers alone. Where the 1 has the shape 1x1x1 the output loses an axis. Both are right with
# disabled_optimizers=["DivMulFusion"].
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/divide.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

levels = ort.GraphOptimizationLevel
x, b = np.array([[1, 2, 3], [4, 1, 6]]), np.array([[5, 6, 7], [8, 9, 10]])


def model(kind: type, axes: int) -> bytes:
    """1 / x * b, where the 1 has so many axes."""
    of = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    shape = [1] * (axes - 2) + [2, 3]
    graph = helper.make_graph(
        [helper.make_node("Div", ["one", "x"], ["part"]), helper.make_node("Mul", ["part", "b"], ["y"])], "g",
        [helper.make_tensor_value_info(name, of, [2, 3]) for name in ("x", "b")],
        [helper.make_tensor_value_info("y", of, shape)], [numpy_helper.from_array(np.ones([1] * axes, kind), "one")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def output(made: bytes, kind: type, level=levels.ORT_ENABLE_ALL, **arguments) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"], **arguments)
    return session.run(None, {"x": x.astype(kind), "b": b.astype(kind)})[0]


for kind, axes in ((np.int32, 2), (np.int64, 2), (np.float32, 2), (np.float32, 3)):
    made = model(kind, axes)
    right = output(made, kind, levels.ORT_DISABLE_ALL)
    whole = np.issubdtype(kind, np.integer)
    exact = (1 // x if whole else 1 / x) * b
    assert np.allclose(right, exact.reshape([1] * (axes - 2) + [2, 3]), rtol=1e-6)
    kept = output(made, kind, disabled_optimizers=["DivMulFusion"])
    assert kept.shape == right.shape and np.allclose(kept, right, rtol=1e-6)
    for level in (levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_ALL):
        found = output(made, kind, level)
        if whole:
            assert np.array_equal(found, b // x) and not np.array_equal(found, right)
        else:
            assert np.allclose(found, exact, rtol=1e-6) and found.shape == (2, 3)
    print(f"onnxruntime {ort.__version__}, {kind.__name__}, 1 / {x[0]} * {b[0]}: {found[0]}, shape {found.shape}; "
          f"without the fusion {kept.reshape(2, 3)[0]}, shape {kept.shape}")
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/divide.py"
