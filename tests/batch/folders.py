"""Folders of models, and what became of them."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxprune.batch.ledger import NAME
from tests.helpers.builders import mlp

SIZES = (32, 64, 8)
FAST = {"sparsity": 0.5, "values": "exact", "verify": False}


def put(path: Path, seed: int = 0) -> Path:
    """Write a small model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mlp(sizes=SIZES, seed=seed).SerializeToString())
    return path


def put_external(path: Path, data: str, seed: int = 0) -> Path:
    """Write a model whose tensors are in the file `data` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(mlp(sizes=(64, 128, 8), seed=seed), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def files(folder: Path) -> dict[str, bytes]:
    """What is there, but for the ledger, whose lines come in the order in which models are finished."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != NAME}


def states(batch) -> dict[str, str]:
    """What became of each model."""
    return {model.path: model.status for model in batch.models}


def stamps(folder: Path) -> dict[str, int]:
    """When each model was written."""
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.onnx") if p.parent.name[-4:] != ".tmp"
    }
