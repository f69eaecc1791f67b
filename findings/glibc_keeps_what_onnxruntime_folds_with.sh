#!/usr/bin/env bash
# A model whose weights are computed from small constants stays several times as large in memory as what it needs: glibc, and
# none of ONNX Runtime's settings, keeps what was freed.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, glibc 2.36, 2026-11-30. Eight matrices of 640x640, each folded from
# positions by CumSum, Mod, GatherElements and Reshape, which the model's weights of 13 MB are after loading. It passes
# onnx.checker's full check.
#
# Expected: what constant folding frees goes back to the system, or stays in ONNX Runtime's arena, which enable_cpu_mem_arena =
# False switches off.
# Seen: 48 to 140 MB resident after a run, with the arena and without it. Blocks of megabytes are mapped by glibc at first, but
# each that is freed raises its threshold (M_MMAP_THRESHOLD, up to 32 MB): later ones come from the heap, and stay there.
# malloc_trim(0) leaves 24 MB, the environment variable MALLOC_TRIM_THRESHOLD_=131072 from the start as well.
#
# Exits 0 while memory after a run is more than 1.5 times that after malloc_trim, and less with the variable.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/make.py" <<'PYTHON'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

side, last, nodes = 640, "x", []
held = {"axis": np.array(0), "most": np.array(16), "shape": np.array([side, side]),
        "book": np.linspace(-1, 1, 16, dtype=np.float32) / side}
for k in range(8):
    held[f"gaps{k}"] = np.random.default_rng(k).integers(0, 9, side * side)
    nodes += [helper.make_node("CumSum", [f"gaps{k}", "axis"], [f"places{k}"]),
              helper.make_node("Mod", [f"places{k}", "most"], [f"codes{k}"]),
              helper.make_node("GatherElements", ["book", f"codes{k}"], [f"flat{k}"]),
              helper.make_node("Reshape", [f"flat{k}", "shape"], [f"weight{k}"]),
              helper.make_node("MatMul", [last, f"weight{k}"], [f"y{k}"])]
    last = f"y{k}"
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", side])],
    [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", side])],
    [numpy_helper.from_array(array, name) for name, array in held.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, sys.argv[1])
PYTHON
cat > "$folder/measure.py" <<'PYTHON'
import ctypes
import sys

import numpy as np
import onnxruntime as ort


def resident():
    """Megabytes of this process."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024


before = resident()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = sys.argv[2] == "arena"
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.zeros((1, 640), np.float32)})
after = resident() - before
ctypes.CDLL(None).malloc_trim(0)
trimmed = resident() - before
print(f"onnxruntime {ort.__version__}, {sys.argv[2]}: {after:.0f} MB after a run, {trimmed:.0f} after malloc_trim")
sys.exit((after > 1.5 * trimmed) != (sys.argv[3] == "kept"))
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/make.py" "$folder/model.onnx"
"$folder/env/bin/python" "$folder/measure.py" "$folder/model.onnx" arena kept
"$folder/env/bin/python" "$folder/measure.py" "$folder/model.onnx" "no arena" kept
MALLOC_TRIM_THRESHOLD_=131072 "$folder/env/bin/python" "$folder/measure.py" "$folder/model.onnx" "arena" returned
