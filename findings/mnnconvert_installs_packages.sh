#!/usr/bin/env bash
# mnnconvert of MNN's wheel installs another package, with whatever pip stands first on the path.
#
# MNN 3.6.1, numpy 2.4.6, onnx 1.23.2, 2026-11-29. A model of one MatMul is converted while a `pip` that only notes its
# arguments stands first on the path, as that of an activated environment does.
#
# Expected: a converter reads a model and writes one; packages are what its wheel requires.
# Seen: `pip install -U aliyun-log-python-sdk`, though the converter runs from an environment of its own. With a real pip
# that package brings others, and on 2026-11-29 put protobuf back to 5.29.6 in the environment on the path, where onnx
# 1.23.2 could not be imported any more.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check MNN==3.6.1 numpy==2.4.6 onnx==1.23.2 2>/dev/null
mkdir "$folder/first"
printf '#!/bin/sh\necho "$@" >> "%s/asked"\n' "$folder" > "$folder/first/pip"
chmod +x "$folder/first/pip"
"$folder/venv/bin/python" - "$folder/model.onnx" <<'PYTHON'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    [numpy_helper.from_array(np.ones((8, 4), np.float32), "w")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[1])
PYTHON
touch "$folder/asked"
PATH="$folder/first:$PATH" "$folder/venv/bin/mnnconvert" -f ONNX --modelFile "$folder/model.onnx" \
    --MNNModel "$folder/model.mnn" --bizCode test > "$folder/log" 2>&1
test -s "$folder/model.mnn"
echo "pip was asked for: $(cat "$folder/asked")"
grep -q "install -U aliyun-log-python-sdk" "$folder/asked"
