"""A model with external data."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.helpers.builders import mlp


def external(folder: Path, **kw) -> Path:
    """mlp(8, 300, 4) with its tensors in m.data."""
    onnx.save(
        mlp(sizes=(8, 300, 4)), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0, **kw
    )
    return folder / "m.onnx"
