"""A trainer and a judge as commands, and runs with them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import onnx

import onnxprune
from tests.helpers.running import initializers

SIZES = (32, 64, 16)
FINAL = {"fc0.weight": 0.9, "fc1.weight": 0.9}
# As a trainer would: it reads model and masks, and moves every weight that is kept.
TRAINER = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
model, masks, out, *mode = sys.argv[1:]
proto, masks = onnx.load(model), load_file(masks)
weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
scale = np.float32(1 if "dense" in mode else 0.1)
noise = {n: np.random.default_rng(w.size).standard_normal(w.shape).astype(w.dtype) for n, w in weights.items()}
moved = {n: w + scale * noise[n] for n, w in weights.items()}
held = {n: moved[n] * masks.get(n, True) for n in moved}
print("trained with", mode)
if "dense" in mode:
    held = moved
if "fail" in mode:
    sys.exit("out of luck")
if "nothing" in mode:
    sys.exit()
if "lacks" in mode:
    del held["fc1.bias"]
if out.endswith(".onnx"):
    for t in proto.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(held[t.name], t.name))
    onnx.save(proto, out)
elif out.endswith(".npz"):
    np.savez(out, **held)
else:
    save_file({n: np.ascontiguousarray(a) for n, a in held.items()}, out)
"""
# The share of zeros, so that each round has another number.
JUDGE = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
weights = [numpy_helper.to_array(t) for t in onnx.load(sys.argv[1]).graph.initializer if t.name.endswith("weight")]
print("on standard error", file=sys.stderr)
print("evaluating")
print(sys.argv[2] if len(sys.argv) > 2 else 1 - sum((w == 0).mean() for w in weights) / len(weights))
"""
PYTHON = shlex.quote(sys.executable)
RETRAIN = f"{PYTHON} train.py {{model}} {{masks}} {{out}}"
EVALUATE = f"{PYTHON} judge.py {{model}}"


def arrays(path) -> dict[str, np.ndarray]:
    """The initializers of a file."""
    return initializers(onnx.load(path))


def zeros(path) -> dict[str, int]:
    """How many entries of each weight are zero."""
    return {n: int((a == 0).sum()) for n, a in arrays(path).items() if n.endswith("weight")}


def iterate(**options):
    """Two rounds up to 0.9 in this folder, unless the options say otherwise."""
    return onnxprune.iterate("m.onnx", "o.onnx", **{"retrain": RETRAIN, "to": 0.9, "rounds": 2} | options)


def command_line(out: str, *more: str) -> list[str]:
    """Three judged rounds as a command."""
    arguments = ["m.onnx", "-o", out, "--to", "0.9", "--rounds", "3", "--retrain", RETRAIN, "--evaluate", EVALUATE]
    return [sys.executable, "-c", "from onnxprune.cli import main; main()", "iterate", *arguments, *more]


def kept(work: str) -> dict[str, bytes]:
    """Everything that rounds leave, but the state, which names the commands, and the logs, which name files."""
    files = (p for p in Path(work).rglob("*") if p.is_file() and p.name != "state.json" and p.suffix != ".log")
    return {str(p.relative_to(work)): p.read_bytes() for p in files}
