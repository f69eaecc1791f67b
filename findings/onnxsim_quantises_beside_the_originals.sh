#!/usr/bin/env bash
# onnxsim's quantising options make a file larger: the float weights stay in it, read by nothing.
#
# onnxsim 0.8.1, onnx 1.23.2, numpy 2.4.6, onnxruntime 1.32.0, 2026-11-30. A MatMul of 1024x512 float32 weights (opset 21) passes
# onnx.checker's full check and is given to the command `onnxsim` with --weight-only-quantize (int8),
# --weight-only-quantize-int4 and --fp16-quantize; at opset 17, where DequantizeLinear has no blocks, with
# --weight-only-quantize-int4 too.
#
# Expected: a quarter, an eighth and half of the file; at opset 17 an error, a warning, or a quantised weight.
# Seen: 1.25, 1.16 and 1.5 times the file, exit code 0: the small weight stands beside the original, which no node reads any more. A
# second run of onnxsim without options takes it out (0.25). At opset 17 the command prints that it quantises the weights to
# int4, and writes the model as it was.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxsim==0.8.1 onnx==1.23.2 numpy==2.4.6 \
    onnxruntime==1.32.0 2>/dev/null
cd "$folder"
PATH="$folder/venv/bin:$PATH" python - <<'PYTHON'
import subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def simplified(source: str, target: str, *options: str) -> onnx.ModelProto:
    subprocess.run(["onnxsim", source, target, *options], check=True, capture_output=True)
    return onnx.load(target)


def ratio(path: str) -> float:
    return Path(path).stat().st_size / Path("model.onnx").stat().st_size


def write(path: str, opset: int, ir_version: int) -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 512])], [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


write("model.onnx", 21, 10)
for option in ("weight-only-quantize", "weight-only-quantize-int4", "fp16-quantize"):
    found = simplified("model.onnx", "small.onnx", f"--{option}")
    read = {name for node in found.graph.node for name in node.input}
    unread = [each.name for each in found.graph.initializer if each.name not in read]
    large = ratio("small.onnx")
    simplified("small.onnx", "again.onnx")
    print(f"{option}: {large:.2f} of the file, {unread} read by nothing; {ratio('again.onnx'):.2f} after a second run")
    assert large > 1.1, option
    assert unread == ["w"], option
write("old.onnx", 17, 8)
nodes = [node.op_type for node in simplified("old.onnx", "small.onnx", "--weight-only-quantize-int4").graph.node]
print("opset 17, int4:", nodes)
assert nodes == ["MatMul"], nodes
PYTHON
