"""Read the images and labels that `tools/fetch_models.py mnist fashion-mnist` brings, and vary them for training."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "models" / "fetched"
SETS = {"mnist": "mnist", "fashion": "fashion-mnist"}
HELD_OUT = 5_000  # the last training images: they choose, the test images only measure


def _idx(path: Path, header: int) -> np.ndarray:
    data = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    return np.frombuffer(data, np.uint8, offset=header)


def load(part: str, data: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 1, 28, 28] as float32 in 0..1, and labels [N] as int64; `part` is "train" or "t10k"."""
    folder = FOLDER / SETS[data]
    images = _idx(folder / f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = _idx(folder / f"{part}-labels-idx1-ubyte", 8)
    return images.astype(np.float32) / 255, labels.astype(np.int64)


def vary(images: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Each image turned by up to 10 degrees, scaled by up to 10 % and shifted by up to 1.5 pixels, times `strength`."""
    if not strength:
        return images
    varied = np.empty_like(images)
    for start in range(0, len(images), 1000):
        piece = images[start : start + 1000, 0]
        turn, wide, high, right, down = strength * rng.uniform(-1, 1, (5, len(piece), 1, 1)).astype(np.float32)
        rows, columns = np.mgrid[-13.5:14.5, -13.5:14.5].astype(np.float32)
        sine, cosine = np.sin(turn * np.pi / 18), np.cos(turn * np.pi / 18)
        x = (cosine * columns - sine * rows) * (1 + wide / 10) + 1.5 * right
        y = (sine * columns + cosine * rows) * (1 + high / 10) + 1.5 * down
        varied[start : start + 1000, 0] = _bilinear(piece, x + 14.5, y + 14.5)
    return varied


def _bilinear(images: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Images read at (x, y), which count from one pixel outside; beyond the border everything is black."""
    framed = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    x, y = x.clip(0, 29), y.clip(0, 29)
    left, top = x.astype(np.int32), y.astype(np.int32)
    corner = np.arange(len(images), dtype=np.int32)[:, None, None] * 31 * 31 + top * 31 + left
    flat, x, y = framed.reshape(-1), x - left, y - top
    upper = flat[corner] * (1 - x) + flat[corner + 1] * x
    lower = flat[corner + 31] * (1 - x) + flat[corner + 32] * x
    return upper * (1 - y) + lower * y
