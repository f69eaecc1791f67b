#!/usr/bin/env bash
# ONNX Runtime stops, or pads other axes, where a Pad, Resize or CenterCropPad that names its axes stands behind a Transpose.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. Images go through a Transpose to channels last, a node of opset
# 18 or newer that says which axes it works on, and a Transpose back: a Pad of height and width, one that lists all four axes
# in another order, a Resize and a CenterCropPad of height and width. And a Pad in time of a sound of three axes. Beside them
# the same Pad without axes, with four numbers for each side. All models pass onnx.checker's full check.
#
# Expected: the outputs of the session without optimisation. Opset 18 gave Pad and Resize axes, so that one need not pad all.
# Seen: so without axes. With a Pad of two axes, and that of the sound, the model loads and every run stops from ORT_ENABLE_BASIC
# on: "indices element out of data bounds", in a Gather that the model does not have. The Transpose is moved behind the Pad,
# whose numbers are put into another order as if there were one for each axis, in the order of the axes. A Pad that lists
# all axes pads the batch and the channels in place of height and width, without an error. Resize and CenterCropPad stop at
# ORT_ENABLE_ALL. All are right with both passes that move Transposes off, which are disabled_optimizers=["TransposeOptimizer",
# "TransposeOptimizer_CPUExecutionProvider"].
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/pad.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
levels = ort.GraphOptimizationLevel
moves = ["TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"]
image, sound = rng.standard_normal((1, 3, 4, 5)).astype(np.float32), rng.standard_normal((1, 3, 9)).astype(np.float32)


def model(x: np.ndarray, name: str, inputs: list[str], held: dict, shape: tuple, **attributes) -> bytes:
    last, first = ([0, 2, 3, 1], [0, 3, 1, 2]) if x.ndim == 4 else ([0, 2, 1], [0, 2, 1])
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=last),
             helper.make_node(name, ["t", *inputs], ["u"], **attributes),
             helper.make_node("Transpose", ["u"], ["y"], perm=first)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def output(made: bytes, x: np.ndarray, level=levels.ORT_ENABLE_ALL, **arguments) -> np.ndarray | str:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    session = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"], **arguments)
    try:
        return session.run(None, {"x": x})[0]
    except Exception as error:
        return f"no run: {error}"


def pad(before: list[int], axes: list[int], x: np.ndarray, shape: tuple) -> bytes:
    held = {"p": np.array([*before, *[0] * len(before)]), "axes": np.array(axes)}
    return model(x, "Pad", ["p", "", "axes"] if axes else ["p"], held if axes else {"p": held["p"]}, shape)


padded = np.pad(image, ((0, 0), (0, 0), (1, 0), (2, 0)))
cases = {
    "Pad without axes": (pad([0, 1, 2, 0], [], image, padded.shape), image, padded, "right"),
    "Pad of 1 and 2": (pad([1, 2], [1, 2], image, padded.shape), image, padded, "no run"),
    "Pad of all, 1 and 2 first": (pad([1, 2, 0, 0], [1, 2, 0, 3], image, padded.shape), image, padded, "wrong"),
    "Pad in time": (pad([4], [1], sound, (1, 3, 13)), sound, np.pad(sound, ((0, 0), (0, 0), (4, 0))), "no run"),
    "Resize of 1 and 2": (
        model(image, "Resize", ["", "s"], {"s": np.array([2, 2], np.float32)}, (1, 3, 8, 10), mode="nearest", axes=[1, 2]),
        image, image.repeat(2, 2).repeat(2, 3), "no run at all optimisations"),
    "CenterCropPad of 1 and 2": (
        model(image, "CenterCropPad", ["s"], {"s": np.array([2, 3])}, (1, 3, 2, 3), axes=[1, 2]),
        image, image[:, :, 1:3, 1:4], "no run at all optimisations"),
}
for name, (made, x, right, seen) in cases.items():
    assert np.array_equal(output(made, x, levels.ORT_DISABLE_ALL), right), name
    assert np.array_equal(output(made, x, disabled_optimizers=moves), right), name
    basic, full = output(made, x, levels.ORT_ENABLE_BASIC), output(made, x)
    print(f"onnxruntime {ort.__version__}, {name}: {right.shape} wanted, "
          + (f"{full[:6]} ... {full[-90:]}" if isinstance(full, str) else f"{full.shape} found"))
    if seen == "right":
        assert np.array_equal(full, right) and np.array_equal(basic, right)
    elif seen == "wrong":
        assert full.shape == basic.shape == (3, 4, 4, 5)
    else:
        assert "out of data bounds" in full
        assert np.array_equal(basic, right) if seen != "no run" else "out of data bounds" in basic
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/pad.py"
