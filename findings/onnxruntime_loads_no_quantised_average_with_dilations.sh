#!/usr/bin/env bash
# ONNX Runtime loads no quantised AveragePool that writes its dilations, be they 1, which is the default.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. A Conv and an AveragePool (2x2) of opset 19, which gave the
# operator the attribute dilations, without it, with [1, 1] and with [2, 2]. The models pass onnx.checker's full check, run in
# onnxruntime, and are quantised by its quantize_static, as QDQ (its default) and as QOperator, with uint8 activations.
#
# Expected: a session for each, with the outputs of the float model to some hundredths. MaxPool with dilations is quantised so.
# Seen: so without the attribute. With it the quantiser reports nothing, and neither file is loaded: "Unrecognized attribute:
# dilations for operator QLinearAveragePool" (microsoft/onnxruntime#26528, open). The QOperator file holds that node, so that no
# level of optimisation helps. The QDQ file does not: the session makes it of nodes that are right at ORT_ENABLE_BASIC and with
# session.disable_quant_qdq=1.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/average.py" <<'PYTHON'
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.quantization as quantization
from onnx import TensorProto, helper, numpy_helper

logging.disable(logging.WARNING)
folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.standard_normal((8, 4, 6, 6)).astype(np.float32)
weight = (rng.standard_normal((4, 4, 1, 1)) / 2).astype(np.float32)
levels = ort.GraphOptimizationLevel


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.samples = iter(x)

    def get_next(self):
        sample = next(self.samples, None)
        return None if sample is None else {"x": sample[None]}


def output(path: Path, level=levels.ORT_ENABLE_ALL, **entries) -> np.ndarray | str:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    for name, entry in entries.items():
        options.add_session_config_entry(f"session.{name}", entry)
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return session.run(None, {"x": x})[0]


for name, dilations in (("AveragePool", None), ("AveragePool", 1), ("AveragePool", 2), ("MaxPool", 2)):
    said = {} if dilations is None else {"dilations": [dilations] * 2}
    size = 6 - (dilations or 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
         helper.make_node(name, ["c"], ["y"], "pool", kernel_shape=[2, 2], **said)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, size, size])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, folder / "floats.onnx")
    right = output(folder / "floats.onnx")
    for form in (quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator):
        path = folder / f"{form}.onnx"
        quantization.quantize_static(
            folder / "floats.onnx", path, Samples(), quant_format=form, activation_type=quantization.QuantType.QUInt8
        )
        found = [output(path, levels.ORT_DISABLE_ALL), output(path, levels.ORT_ENABLE_BASIC),
                 output(path, disable_quant_qdq="1"), output(path)]
        shown = ["not loaded" if isinstance(one, str) else f"{np.abs(one - right).max():.3f} off" for one in found]
        print(f"onnxruntime {ort.__version__}, {name}, dilations {dilations}, {form}: none, basic, without fusions of "
              f"integers, all: {', '.join(shown)}")
        refused = name == "AveragePool" and dilations is not None
        for place, one in enumerate(found):
            if refused and (place == 3 or form == quantization.QuantFormat.QOperator):
                assert "dilations" in one and "QLinearAveragePool" in one
            else:
                assert np.abs(one - right).max() < 0.1
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
"$folder/env/bin/python" "$folder/average.py" "$folder"
