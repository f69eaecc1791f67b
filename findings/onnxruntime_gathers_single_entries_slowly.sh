#!/usr/bin/env bash
# ONNX Runtime takes ten times as long for Gather from a vector as for GatherElements, which gives the same there.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-11-29. Codes of a codebook are looked up: 8 million int32 indices
# into 16 floats. Both operators are models of one node that pass onnx.checker's full check.
#
# Expected: the same loop and the same time, or Gather faster: it is the simpler operator, and the one that exporters write.
# Seen: Gather copies each entry as a block of its own, 6 to 12 ns an entry; GatherElements takes 0.5 to 1 ns. The outputs are
# equal bit for bit. It is the main cost of loading a model whose weights are codes of a codebook.
#
# Exits 0 while Gather takes more than three times as long (least of five runs, one thread).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/gather.py" <<'PYTHON'
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

count = 8_000_000
codes = np.random.default_rng(0).integers(0, 16, count, dtype=np.int32)
book = np.linspace(-1, 1, 16, dtype=np.float32)
seconds, outputs = {}, {}
for kind in ("Gather", "GatherElements"):
    graph = helper.make_graph(
        [helper.make_node(kind, ["book", "codes"], ["values"])], "g",
        [helper.make_tensor_value_info("codes", TensorProto.INT32, [count])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [count])],
        [numpy_helper.from_array(book, "book")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(5):
        start = time.process_time()
        (outputs[kind],) = session.run(None, {"codes": codes})
        times.append(time.process_time() - start)
    seconds[kind] = min(times)
    print(f"onnxruntime {ort.__version__}: {kind} {1e9 * seconds[kind] / count:.2f} ns an entry")
same = np.array_equal(outputs["Gather"], outputs["GatherElements"])
sys.exit(not (same and seconds["Gather"] > 3 * seconds["GatherElements"]))
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/gather.py"
