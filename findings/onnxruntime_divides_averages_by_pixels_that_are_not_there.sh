#!/usr/bin/env bash
# ONNX Runtime's quantised AveragePool divides by pixels beyond the padding, where the float one does not.
#
# onnxruntime 1.32.0 (CPU), numpy 2.4.6, onnx 1.23.2, 2026-12-01. A Conv and an AveragePool of 3x3 with strides of 2, pads of 1
# and ceil_mode=1, over 8x8, so that the last window reaches one pixel over the padding; with count_include_pad 1 and 0, and
# without ceil_mode. The models pass onnx.checker's full check and are quantised by quantize_static, as QDQ (its default) and as
# QOperator.
#
# Expected: what the operator says and the float kernel does: "count_include_pad" counts the pads, and a window that ends behind
# them is divided by what is there, 6 in place of 9 at an edge (microsoft/onnxruntime#16203 mended that in the float kernel).
# And a QDQ file has the same outputs with optimisation as without.
# Seen: so without ceil_mode, or without count_include_pad. With both the last row and column are 2/3 of what they should be,
# and the corner 4/9: in QOperator files, and in QDQ files once a session optimises them, which the same session right without.
# No error and no warning: both are QLinearAveragePool, which divides by the whole window. With session.disable_quant_qdq=1 the
# QDQ file is right.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/average.py" <<'PYTHON'
import logging
import os

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

logging.disable(logging.WARNING)
os.chdir(os.path.dirname(__file__))
rng = np.random.default_rng(0)
levels = ort.GraphOptimizationLevel
QDQ, QOperator = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def outputs(name: str, level=levels.ORT_ENABLE_ALL) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    session = ort.InferenceSession(name, options, providers=["CPUExecutionProvider"])
    return [np.concatenate(parts) for parts in zip(*(session.run(None, {"x": x}) for x in samples))]


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(samples)

    def get_next(self) -> dict | None:
        x = next(self.left, None)
        return None if x is None else {"x": x}


def quantise(nodes: list, held: dict, shapes: dict, opset: int = 17, **options) -> tuple[list, list, list]:
    """The outputs in floats, quantised, and quantised and optimised."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, samples[0].shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, "float.onnx")
    quantization.quantize_static("float.onnx", "small.onnx", Samples(), **options)
    onnx.checker.check_model(onnx.load("small.onnx"), full_check=True)
    return outputs("float.onnx"), outputs("small.onnx", levels.ORT_DISABLE_ALL), outputs("small.onnx")


def off(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


samples = [random(1, 8, 8, 8) for _ in range(24)]
weight = random(8, 8, 3, 3) / 8


def averaged(x: np.ndarray, size: int, padded: int) -> np.ndarray:
    """Of what is there: the image and, where padded is 1, its padding."""
    held, there = np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2))), np.zeros((x.shape[2] + 3, x.shape[3] + 3))
    there[1 - padded:9 + padded, 1 - padded:9 + padded] = 1
    spans = [slice(2 * place, 2 * place + 3) for place in range(size)]
    windows = [(down, across) for down in spans for across in spans]
    means = [held[..., down, across].sum((2, 3)) / there[down, across].sum() for down, across in windows]
    return np.stack(means, -1).reshape(*x.shape[:2], size, size)


for ceil, padded in ((1, 1), (1, 0), (0, 1)):
    size = 5 if ceil else 4
    nodes = [helper.make_node("Conv", ["x", "w"], ["t"], pads=[1, 1, 1, 1]),
             helper.make_node("AveragePool", ["t"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
                              ceil_mode=ceil, count_include_pad=padded)]
    for form in (QDQ, QOperator):
        right, plain, best = (found[0] for found in quantise(
            nodes, {"w": weight}, {"y": [1, 8, size, size]}, quant_format=form))
        convolved = onnx.load("float.onnx")
        del convolved.graph.node[1], convolved.graph.output[0]
        convolved.graph.output.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 8, 8, 8]))
        onnx.save(convolved, "conv.onnx")
        assert np.allclose(averaged(outputs("conv.onnx")[0], size, padded), right, atol=1e-5)
        kept = ort.SessionOptions()
        kept.add_session_config_entry("session.disable_quant_qdq", "1")
        session = ort.InferenceSession("small.onnx", kept, providers=["CPUExecutionProvider"])
        kept = np.concatenate([session.run(None, {"x": x})[0] for x in samples])
        row, last = (..., -1, slice(1, -1)), (..., -1, -1)
        edge = [float((found[row] * right[row]).sum() / (right[row] ** 2).sum()) for found in (plain, best)]
        corner = float((best[last] * right[last]).sum() / (right[last] ** 2).sum())
        print(f"onnxruntime {ort.__version__}, ceil_mode {ceil}, count_include_pad {padded}, {form.name}: last row "
              f"{edge[0]:.2f} of what is right, optimised {edge[1]:.2f}, corner {corner:.2f}; without QDQ {off(kept, right):.3f} off")
        assert off(best[..., :-1, :-1], right[..., :-1, :-1]) < 0.06
        if ceil and padded:
            assert abs(edge[1] - 2 / 3) < 0.03 and abs(corner - 4 / 9) < 0.03
            assert abs(edge[0] - (1 if form == QDQ else 2 / 3)) < 0.03 and (off(kept, right) < 0.06) == (form == QDQ)
        else:
            assert max(off(plain, right), off(best, right)) < 0.06
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6 onnx==1.23.2 2>/dev/null
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/average.py"
