#!/usr/bin/env bash
# onnxscript's version converter changes the opset without the nodes below 18, and the nodes without the opset in a ModelProto.
#
# onnxscript 0.7.2, onnx-ir 1.1.0, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-11-30. onnxscript.version_converter's
# convert_version with its defaults, given models that pass onnx.checker's full check: as onnx_ir.Model a Softmax of opset 11
# (axis 1 and all behind it) and a ReduceMean of opset 17 (axes as an attribute), to 21; as onnx.ModelProto a GridSample of
# opset 18 (whose mode "bilinear" is "linear" from 20 on), to 20.
#
# Expected: a model of the new opset with the same outputs, or an error: the converter starts at 18
# (SUPPORTED_MIN_ONNX_OPSET), and raises one where the target is below that.
# Seen: no error and no warning. Softmax and ReduceMean stay as they were in a model that says opset 21: the softmax goes along
# one axis, and sums of what was one softmax are no longer 1; ReduceMean's model is not loaded any more. fallback=True, off by
# default, takes onnx's converter for them. Of the ModelProto, which is changed in place, the nodes are converted and the opset stays
# 18, where "linear" is not a mode: onnxruntime does not load it. With its opset_import set to 20 it is right.
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/halves.py" <<'PYTHON'
import logging
from importlib.metadata import version

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxscript import version_converter

warned = []
handler = logging.Handler(logging.WARNING)
handler.emit = warned.append
logging.getLogger().addHandler(handler)
rng = np.random.default_rng(0)


def model(node: onnx.NodeProto, opset: int, feeds: dict, shape: list[int]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def output(made: onnx.ModelProto, feeds: dict) -> np.ndarray | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)[0]
    except Exception as error:  # its errors have no common base
        print("onnxruntime:", str(error).strip().splitlines()[0][:150])
        return None


def converted(made: onnx.ModelProto, opset: int, **options) -> onnx.ModelProto:
    held = onnx_ir.from_proto(made)
    version_converter.convert_version(held, opset, **options)
    return onnx_ir.to_proto(held)


def opset(made: onnx.ModelProto) -> int:
    return next(each.version for each in made.opset_import if not each.domain)


print("onnxscript", version("onnxscript"), "onnx-ir", version("onnx-ir"))
feeds = {"x": rng.standard_normal((2, 3, 4)).astype(np.float32)}
softmax = model(helper.make_node("Softmax", ["x"], ["y"], axis=1), 11, feeds, [2, 3, 4])
right, made = output(softmax, feeds), converted(softmax, 21)
found = output(made, feeds)
print(f"Softmax of opset {opset(made)}: sums of {right.sum((1, 2))} before, {found.sum((1, 2))} after")
assert opset(made) == 21
assert np.abs(found - right).max() > 0.1
mean = model(helper.make_node("ReduceMean", ["x"], ["y"], axes=[-1]), 17, feeds, [2, 3, 1])
right, made = output(mean, feeds), converted(mean, 21)
print(f"ReduceMean of opset {opset(made)}, attributes: {[each.name for each in made.graph.node[0].attribute]}")
assert opset(made) == 21
assert output(made, feeds) is None
assert not warned
for before in (softmax, mean):
    assert np.allclose(output(converted(before, 21, fallback=True), feeds), output(before, feeds), atol=1e-6)
feeds = {"x": rng.standard_normal((1, 1, 4, 4)).astype(np.float32), "g": rng.uniform(-1, 1, (1, 3, 3, 2)).astype(np.float32)}
grid = model(helper.make_node("GridSample", ["x", "g"], ["y"], mode="bilinear"), 18, feeds, [1, 1, 3, 3])
right, warned[:] = output(grid, feeds), []
version_converter.convert_version(grid, 20)
modes = [helper.get_attribute_value(each) for each in grid.graph.node[0].attribute if each.name == "mode"]
print(f"GridSample of opset {opset(grid)}, mode {modes}")
assert (opset(grid), modes) == (18, [b"linear"])
assert output(grid, feeds) is None
assert not warned
grid.opset_import[0].version = 20
assert np.allclose(output(grid, feeds), right, atol=1e-5)
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6 2>/dev/null
"$folder/env/bin/python" "$folder/halves.py"
