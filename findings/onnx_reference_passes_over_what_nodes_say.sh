#!/usr/bin/env bash
# onnx.reference computes recurrent layers, normalisations and softmaxes of older opsets otherwise than their operators say,
# without an error.
#
# onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, 2026-11-30. ReferenceEvaluator runs models of one node, which pass
# onnx.checker's full check: LSTM, GRU and RNN with sequence_lens, clip, other activations, coupled gates (input_forget); Softmax,
# LogSoftmax and Hardmax of opset 11, whose default is to flatten all axes from 1 on; BatchNormalization of opset 9; LRN.
#
# Expected: what the specification says, as in onnxruntime, to 1e-4, or an error that names what is not implemented. It is
# the reference implementation of the specification, and constant folding and tests rely on it.
# Seen: what recurrent layers say there is taken and not read: outputs are those without it, bit for bit. Softmaxes go
# along one axis, as from opset 13 on. BatchNormalization of opset 9 to 13 mixes in a tenth of its input's own mean and
# variance, as in training (onnx/onnx#8442, open). LRN counts images where it should count channels: of one image the first
# channel alone is normalised (onnx/onnx#7805, closed, not mended in 1.23.2).
#
# Exits 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/reference.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from onnx.reference import ReferenceEvaluator

rng = np.random.default_rng(0)


def floats(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def outputs(op, opset, given, **attributes):
    """The first output, of the reference and of onnxruntime."""
    inputs = [name if array is not None else "" for name, array in given.items()]
    feeds = {name: array for name, array in given.items() if array is not None}
    rank = {"LSTM": 4, "GRU": 4, "RNN": 4}.get(op, feeds["x"].ndim)
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], **attributes)], "g",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
         for name, array in feeds.items()],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [f"d{k}" for k in range(rank)])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(model).run(None, feeds)[0], session.run(None, feeds)[0]


def off(found, right):
    return float(np.abs(found - right).max())


facts = {}
for op, gates, activations in (("LSTM", 4, ["Sigmoid", "Relu", "Relu"]), ("GRU", 3, ["Sigmoid", "Relu"]), ("RNN", 1, None)):
    given = {"x": floats(5, 2, 3), "w": floats(1, 4 * gates, 3), "r": floats(1, 4 * gates, 4), "b": floats(1, 8 * gates)}
    plain, same = outputs(op, 14, given, hidden_size=4)
    assert off(plain, same) < 1e-4
    changed = {"sequence_lens": ({**given, "lens": np.array([5, 3], np.int32)}, {}), "clip": (given, {"clip": 0.3})}
    if activations:
        changed["activations"] = given, {"activations": activations}
    if op == "LSTM":
        changed["input_forget"] = given, {"input_forget": 1}
    for name, (taken, attributes) in changed.items():
        found, right = outputs(op, 14, taken, hidden_size=4, **attributes)
        assert np.array_equal(found, plain), f"{op} reads {name} now"
        facts[f"{op} {name}"] = off(found, right)
for op in ("Softmax", "LogSoftmax", "Hardmax"):
    facts[f"{op} of opset 11"] = off(*outputs(op, 11, {"x": floats(2, 3, 4)}))
x, scale, bias, mean = floats(1, 4, 5, 5), *(floats(4) for _ in range(3))
variance = np.square(floats(4)) + 1
found, right = outputs("BatchNormalization", 9, {"x": x, "scale": scale, "bias": bias, "mean": mean, "variance": variance})
last = [each.reshape(4, 1, 1) for each in (scale, bias, mean, variance)]
assert off(right, (x - last[2]) / np.sqrt(last[3] + 1e-5) * last[0] + last[1]) < 1e-4
facts["BatchNormalization of opset 9"] = off(found, right)
found, right = outputs("LRN", 13, {"x": x}, size=3, alpha=0.9)
facts["LRN, one image"], facts["LRN, its first channel"] = off(found, right), off(found[:, 0], right[:, 0])
print(f"onnx {onnx.__version__}, largest differences:", {name: round(far, 3) for name, far in facts.items()})
assert facts.pop("LRN, its first channel") < 1e-4
assert all(far > 0.05 for far in facts.values()), facts
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
"$folder/env/bin/python" "$folder/reference.py"
