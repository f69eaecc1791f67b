"""Read the MNIST images and labels that `tools/fetch_models mnist` brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "models" / "fetched" / "mnist"


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), np.uint8, offset=header)


def load(part: str, folder: Path = FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 1, 28, 28] as float32 in 0..1, and labels [N] as int64; `part` is "train" or "t10k"."""
    images = _idx(folder / f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = _idx(folder / f"{part}-labels-idx1-ubyte", 8)
    return images.astype(np.float32) / 255, labels.astype(np.int64)
