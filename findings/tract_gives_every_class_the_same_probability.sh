#!/usr/bin/env bash
# tract gives every entry of a Softmax a probability of 1 where its input and its output are quantised.
#
# tract 0.23.9 (PyPI), onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, 2026-11-30. A Softmax between QuantizeLinear and DequantizeLinear
# on both sides, as quantisers write it: uint8 and int8, outputs in steps of 1/256 and 1/100. Beside it the same with floats
# on either side. All models pass onnx.checker's full check.
#
# Expected: the outputs of onnxruntime, to two of the output's steps.
# Seen: so with floats on either side. With both quantised every entry is 1, or as near to it as the codes get (255/256), whatever
# the input is: no error, no warning, and the ArgMax is always the same. tract computes such a Softmax with integers, which was
# called experimental when it was added (sonos/tract#683).
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/softmax.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import tract
from onnx import TensorProto, helper, numpy_helper

x = (2 * np.random.default_rng(0).standard_normal((4, 10))).astype(np.float32)
path = Path(sys.argv[1]) / "model.onnx"


def rounding(source: str, target: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    codes = f"codes of {source}"
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [codes]),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [target]),
    ]


def outputs(before: bool, after: bool, dtype, zeros: tuple[int, int], step: float) -> tuple[np.ndarray, np.ndarray]:
    """Of onnxruntime and of tract."""
    held = {"sx": np.float32(0.05), "zx": dtype(zeros[0]), "sy": np.float32(step), "zy": dtype(zeros[1])}
    held = {name: array for name, array in held.items() if (before if name.endswith("x") else after)}
    nodes = rounding("x", "t", "sx", "zx") if before else []
    nodes.append(helper.make_node("Softmax", ["t" if before else "x"], ["p" if after else "y"], axis=-1))
    nodes += rounding("p", "y", "sy", "zy") if after else []
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 10]) for name in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    (right,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (found,) = tract.onnx().load(str(path)).into_model().into_runnable().run([x])
    return right, found.to_numpy()


print("tract", version("tract"))
for dtype, zeros, step in ((np.uint8, (128, 0), 1 / 256), (np.int8, (0, -128), 1 / 256), (np.uint8, (128, 0), 1 / 100)):
    for before, after in ((True, False), (False, True), (True, True)):
        right, found = outputs(before, after, dtype, zeros, step)
        far = np.abs(right - found).max()
        print(f"{dtype.__name__}, step {step:.4f}, quantised before {before}, after {after}: {far:.2g} off, from {found.min():.3f}")
        if before and after:
            assert np.ptp(found) == 0
            assert found.min() > 0.99
        else:
            assert far < 2.01 * step
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check tract==0.23.9 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 2>/dev/null
"$folder/env/bin/python" "$folder/softmax.py" "$folder"
