#!/usr/bin/env bash
# tract computes a Cast of a constant of more than 2^20 entries at every run, and folds one of 2^20 while loading.
#
# tract 0.23.9 (PyPI), onnx 1.23.2, numpy 2.4.6, 2026-11-30. Models that pass onnx.checker's full check look one row up in a
# table of uint8 that a Cast makes float: 1024 rows of 1024, and one row more.
#
# Expected: a look-up takes microseconds for both: what depends on no input is computed once, as for the smaller table.
# Seen: with one row more each run casts the whole table. The bound is on purpose (sonos/tract#2445): it keeps the model
# small in memory. An embedding of float16 or int8 behind a Cast is slower for it by all its rows.
#
# Exits 0 while a run with the larger table takes more than three times as long (least of 30 runs, in turn).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/folds.py" <<'PYTHON'
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import tract
from onnx import TensorProto, helper, numpy_helper

models, seconds = {}, {}
for rows in (1024, 1025):
    table = np.random.default_rng(0).integers(0, 256, (rows, 1024)).astype(np.uint8)
    nodes = [
        helper.make_node("Cast", ["codes"], ["table"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["table", "row"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("row", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1024])], [numpy_helper.from_array(table, "codes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path = Path(sys.argv[1]) / f"{rows}.onnx"
    onnx.save(model, path)
    models[rows], seconds[rows] = tract.onnx().load(str(path)).into_model().into_runnable(), []
    (found,) = models[rows].run([np.array([7], np.int64)])
    assert np.array_equal(found.to_numpy()[0], table[7].astype(np.float32))
for _ in range(30):
    for rows, runnable in models.items():
        start = time.process_time()
        runnable.run([np.array([7], np.int64)])
        seconds[rows].append(time.process_time() - start)
least = {rows: 1e6 * min(times) for rows, times in seconds.items()}
print(f"tract {version('tract')}: " + ", ".join(f"{rows} rows {time:.0f} us a run" for rows, time in least.items()))
sys.exit(not least[1025] > 3 * least[1024])
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check tract==0.23.9 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/folds.py" "$folder"
