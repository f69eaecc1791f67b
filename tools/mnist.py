"""MNIST and Fashion-MNIST as `tools/fetch_models.py mnist fashion-mnist` brings them, and varied for training."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "models" / "fetched"
SETS = {"mnist": "mnist", "fashion": "fashion-mnist"}
HELD_OUT = 5_000  # the last training images: they choose, the test images only measure


def _idx(path: Path, header: int) -> np.ndarray:
    """The bytes behind the header of an IDX file, which may be packed; SystemExit with one line if there is none."""
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and not packed.exists():
        raise SystemExit(f"Error: {path.name} is not there: python tools/fetch_models.py {path.parent.name}")
    data = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    return np.frombuffer(data, np.uint8, offset=header)


def load(part: str, data: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """Read images [N, 1, 28, 28] as float32 in 0..1, and labels [N] as int64.

    Args:
        part: "train" (60,000 images) or "t10k" (10,000).
        data: a key of `SETS`.

    Raises:
        SystemExit: they were not fetched.
    """
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
