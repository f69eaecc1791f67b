#!/usr/bin/env bash
# IREE decodes a small weight while it compiles, so that the module holds floats, and a larger one at every call.
#
# iree-base-compiler 3.13.0, iree-base-runtime 3.13.0 (PyPI), onnx 1.23.2, numpy 2.4.6, 2026-11-30. Models that pass
# onnx.checker's full check multiply a vector with a matrix of 256 columns and 1,024 or 2,048 rows, whose entries
# codes of a byte look up among 256 floats. Compiled for this CPU without options, and with
# --iree-opt-const-eval=false and --iree-opt-const-expr-max-size-increase-threshold above the matrix's bytes.
#
# Expected: both are treated alike, as the help of iree-compile has it: results of constant expressions are hoisted
# into globals that are evaluated at program load, and the module is as small as the codes.
# Seen: what grows by less than 1 MiB is computed by the compiler, and the module is four times as large as the codes;
# what grows by more is computed at each call. With both options modules are as small as the codes, and each matrix is
# computed once. The limit is on purpose (iree-org/iree#15065), the flag for it is of iree-org/iree#17064.
#
# Exits 0 while the smaller matrix's module is more than three times as large without the options, and a product with
# the larger one takes more than twice as long without them (least of 30 calls, in turn).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/decodes.py" <<'PYTHON'
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import iree.compiler.tools as compiler
import iree.runtime as runtime
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

AT_LOAD = ["--iree-opt-const-eval=false", f"--iree-opt-const-expr-max-size-increase-threshold={1 << 40}"]
COLUMNS = 256


def imported(rows: int) -> tuple[str, np.ndarray]:
    """The model for IREE, and its matrix."""
    rng = np.random.default_rng(0)
    book, codes = rng.standard_normal(256).astype(np.float32), rng.integers(0, 256, (rows, COLUMNS)).astype(np.uint8)
    nodes = [
        helper.make_node("Cast", ["codes"], ["places"], to=TensorProto.INT32),
        helper.make_node("Gather", ["book", "places"], ["matrix"]),
        helper.make_node("MatMul", ["x", "matrix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, COLUMNS])], 
        [numpy_helper.from_array(book, "book"), numpy_helper.from_array(codes, "codes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path = Path(sys.argv[1]) / f"{rows}.onnx"
    onnx.save(model, path)
    command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(path), "-o", str(path.with_suffix(".mlir"))]
    subprocess.run(command, check=True, capture_output=True)
    return str(path.with_suffix(".mlir")), book[codes]


def opened(module: bytes):
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    loaded = runtime.VmModule.copy_buffer(context.instance, module)
    context.add_vm_module(loaded)
    (name,) = [each for each in loaded.function_names if not each.startswith("__") and "$" not in each]
    return context.modules[loaded.name][name]


def ones(rows: int) -> np.ndarray:
    return np.ones((1, rows), np.float32)


size, call, seconds = {}, {}, {}
for rows in (1024, 2048):
    source, matrix = imported(rows)
    for options in ([], AT_LOAD):
        key = rows, bool(options)
        arguments = ["--iree-llvmcpu-target-cpu=host", *options]
        module = compiler.compile_file(source, target_backends=["llvm-cpu"], input_type="onnx", extra_args=arguments)
        size[key], call[key], seconds[key] = len(module) / matrix.size, opened(module), []
        assert np.allclose(np.asarray(call[key](ones(rows)))[0], matrix.sum(0), atol=1e-3)
for _ in range(30):
    for key, multiply in call.items():
        start = time.process_time()
        multiply(ones(key[0]))
        seconds[key].append(time.process_time() - start)
print("IREE", version("iree-base-compiler"))
for (rows, options), times in seconds.items():
    how = "computed at load" if options else "no options"
    print(f"{rows} rows, {how}: module {size[rows, options]:.2f} bytes an entry, {1e6 * min(times):.0f} us a call")
grown = size[1024, False] > 3 * size[1024, True]
slow = min(seconds[2048, False]) > 2 * min(seconds[2048, True])
sys.exit(not (grown and slow))
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check iree-base-compiler==3.13.0 iree-base-runtime==3.13.0 \
    numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/decodes.py" "$folder"
