#!/usr/bin/env bash
# ONNX Runtime's MatMulNBitsQuantizer writes a file that nothing loads, where two products share a weight and the format is QDQ.
#
# onnxruntime 1.32.0, onnx-ir 1.1.0, numpy 2.4.6, onnx 1.23.2, 2026-12-01. Two MatMuls in a row with one weight of 64x64, and
# with a copy of it, are quantised to 4 bits in blocks of 32, as QOperator (its default) and as QDQ. The models pass
# onnx.checker's full check.
#
# Expected: a DequantizeLinear that both read, or two, and outputs as with the copy.
# Seen: so as QOperator, and with the copy. As QDQ each product gets a DequantizeLinear of its own, and both name their output
# after the weight: "Duplicate definition of name". onnx.checker refuses the file as well, the quantiser reports nothing. A
# layer that is called twice, or tied tables, is enough for it, and so is a pass that merged equal weights before.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/shared.py" <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import matmul_nbits_quantizer

logging.disable(logging.WARNING)
rng = np.random.default_rng(0)
weight = (rng.standard_normal((64, 64)) / 8).astype(np.float32)
x = rng.standard_normal((5, 64)).astype(np.float32)


def output(made: onnx.ModelProto, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], inputs)[0]


for second in ("w", "copy"):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], "first"), helper.make_node("MatMul", ["t", second], ["y"], "second")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 64])],
        [numpy_helper.from_array(weight, name) for name in dict.fromkeys(["w", second])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    right = output(made, x=x)
    for form in quantization.QuantFormat.QOperator, quantization.QuantFormat.QDQ:
        quantiser = matmul_nbits_quantizer.MatMulNBitsQuantizer(
            onnx.ModelProto.FromString(made.SerializeToString()), block_size=32, is_symmetric=True, quant_format=form)
        quantiser.process()
        small = quantiser.model.model
        title = f"onnxruntime {ort.__version__}, {'one weight' if second == 'w' else 'two copies'}, {form.name}"
        if form == quantization.QuantFormat.QDQ and second == "w":
            for refuse in (onnx.checker.check_model, lambda model: output(model, x=x)):
                try:
                    refuse(small)
                except Exception as refused:
                    print(f"{title}: {str(refused).strip()[-120:]}")
                    assert "w_DQ_Q4_output" in str(refused)
                else:
                    raise SystemExit("it is accepted")
            continue
        error = float(np.linalg.norm(output(small, x=x) - right) / np.linalg.norm(right))
        print(f"{title}: relative error {error:.3f}")
        assert error < 0.2
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx-ir==1.1.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/shared.py"
