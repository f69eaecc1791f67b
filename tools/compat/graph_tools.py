"""Graph tools on encoded files: bytes after over before, whether the outputs stay, whether `decode` still finds all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import onnxprune
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.errors import OnnxPruneError
from onnxprune.model.model import Model

from .environments import GRAPH_TOOLS
from .models import ROOT
from .tool_runner import TOOLS

FORMS = {
    "exact flat": {"encoding": "flat", "values": "exact"},
    "shared bitmask": {"encoding": "bitmask", "values": "shared:4"},
    "half flat": {"encoding": "flat", "values": "half"}, "int8 flat": {"encoding": "flat", "values": "int8"},
    "coo": {"encoding": "coo", "values": "exact"},
}  # fmt: skip
CLOSE, CLOSE_HALF = 1e-4, 0.02


def measure(environments: Path) -> list[dict[str, Any]]:
    """A row for each tool, a cell for each form of LeNet-300-100, four fifths of whose weights are 0."""
    versions = dict(package.split("==") for package in GRAPH_TOOLS.packages)
    rows: list[dict[str, Any]] = [
        {"tool": f"{tool} {versions[package]}", "results": {}} for tool, (package, _) in TOOLS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for form, options in FORMS.items():
            source = place / "source.onnx"
            onnxprune.compress(ROOT / "models" / "lenet-300-100.onnx", source, sparsity=0.8, verify=False, **options)
            for row, tool in zip(rows, TOOLS, strict=True):
                made, said = place / "made.onnx", place / "said.json"
                made.unlink(missing_ok=True)
                GRAPH_TOOLS.call(environments, "tool_runner.py", tool, str(source), str(made), str(said))
                row["results"][form] = _cell(source, made, json.loads(said.read_text()))
    return rows


def _cell(source: Path, made: Path, failed: str) -> str:
    """What became of a file, in a few words."""
    if failed or not made.exists():
        return f"refused: {failed}".replace("|", "/")[:60]
    size = f"{made.stat().st_size / source.stat().st_size:.2f}x"
    x = {"image": np.random.default_rng(0).random((4, 1, 28, 28), np.float32)}
    want = _outputs(source, x)
    try:
        got = _outputs(made, x)
    except Exception as error:  # whatever onnxruntime says to the file is the result
        return f"{size}, **invalid**: {' '.join(str(error).split())[-60:]}".replace("|", "/")
    far = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    same = "equal" if far <= CLOSE else f"error {far:.0e}" if far <= CLOSE_HALF else f"**error {far:.0e}**"
    return f"{size}, {same}, {_decodes(made)}"


def _outputs(path: Path, feeds: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    array = next(iter(feeds.values())).reshape([4, *given.shape[1:]])
    return session.run(None, {given.name: array.astype(np.float16 if "float16" in given.type else np.float32)})[
        0
    ].astype(float)


def _decodes(path: Path) -> str:
    """How many weights are encoded still, and whether they decode."""
    model = Model.load(path)
    count = len(encoded_weights(model)) + len(model.proto.graph.sparse_initializer)
    if not count:
        return "dense"
    try:
        onnxprune.decode(path, path.with_suffix(".decoded"), verify=False)
    except OnnxPruneError as error:
        return f"**decode fails**: {error}"[:60]
    return f"{count} decode"
