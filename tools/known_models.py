"""The models of models/ by name: whatever else lies there is somebody's output."""

from __future__ import annotations

from pathlib import Path

from derived_models import DERIVED
from fetch_models import FETCHED, MODELS, read_manifest

TRAINED = (MODELS / "lenet-300-100.onnx", MODELS / "lenet-5.onnx")


def fetched() -> list[Path]:
    """The models of the manifest and those made of them, whether they were brought or not."""
    return [
        FETCHED / entry.name / file
        for entry in read_manifest()
        for file in (*(member.file for member in entry.files), *DERIVED.get(entry.name, {}))
        if file.endswith(".onnx")
    ]


def present() -> list[Path]:
    """The trained models, and those that were brought."""
    return [*TRAINED, *(path for path in fetched() if path.is_file())]
