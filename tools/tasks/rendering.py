"""Text rendered in the fonts of matplotlib: lines of words and codes, blurred, with noise."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np

from tasks.task import need

WORDS = (
    "able acid anchor apple autumn balance bamboo beacon bicycle bottle bridge butter cabinet candle carbon "
    "castle chapter circle clover copper cotton cradle dagger desert dinner dragon eagle engine fabric feather "
    "filter finger forest garden ginger glacier granite hammer harbour helmet hollow insect island jacket jigsaw "
    "kernel kettle ladder lantern lemon library magnet marble meadow mirror mosaic needle nickel number oxygen "
    "oyster paddle palace parcel pepper pillow planet pocket pottery quarry quiver rabbit ribbon river rocket "
    "saddle salmon shadow silver spiral summer tablet temple thunder timber tunnel turtle umbrella vacuum valley "
    "velvet violin walnut whistle window winter yellow zebra zigzag "
)
CODES = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic",
         "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")  # fmt: skip


def font(rng: np.random.Generator, size: int) -> Any:
    """One of the fonts that come with matplotlib."""
    from PIL import ImageFont

    package = importlib.util.find_spec("matplotlib").submodule_search_locations[0]  # type: ignore[union-attr,index]
    return ImageFont.truetype(f"{package}/mpl-data/fonts/ttf/{rng.choice(FONTS)}.ttf", size)


def phrase(rng: np.random.Generator, words: int) -> str:
    """Words, some with a capital or in capitals, with a number or a code among them."""
    parts = [str(word) for word in rng.choice(WORDS.split(), words)]
    parts = [part.title() if style == 0 else part.upper() if style == 1 else part
             for part, style in zip(parts, rng.integers(0, 6, words), strict=True)]  # fmt: skip
    extra = "".join(rng.choice(list(CODES), 5)) if rng.random() < 0.5 else str(rng.integers(10, 100000))
    parts.insert(int(rng.integers(0, words + 1)), extra)
    return " ".join(parts)


def blurred(image: Any, rng: np.random.Generator, strongest: float) -> np.ndarray:
    """The image after a blur and noise of random strength, uint8."""
    from PIL import ImageFilter

    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, strongest)))), np.float32)
    return np.clip(soft + rng.normal(0, rng.uniform(0, 16), soft.shape), 0, 255).astype(np.uint8)


def shades(rng: np.random.Generator) -> tuple[int, int]:
    """Paper and ink, at least 90 of 255 apart."""
    paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 80))
    return (ink, paper) if rng.random() < 0.2 else (paper, ink)


def lines(count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Texts, and their images as uint8 [height, width]."""
    need("matplotlib", "PIL")
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        text, letters = phrase(rng, int(rng.integers(1, 4))), font(rng, int(rng.integers(11, 34)))
        paper, ink = shades(rng)
        left, top, right, bottom = (int(v) for v in letters.getbbox(text))
        edge = int(rng.integers(2, 6))
        image = Image.new("L", (right - left + 2 * edge, bottom - top + 2 * edge), paper)
        ImageDraw.Draw(image).text((edge - left, edge - top), text, ink, letters)
        found.append((text, blurred(image, rng, letters.size / 22)))
    return found


def scaled(image: np.ndarray, height: int, widest: int) -> np.ndarray:
    """The line at this height as float32 [3, height, width] in -1..1."""
    from PIL import Image

    width = min(widest, math.ceil(image.shape[1] * height / image.shape[0]))
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.repeat((np.asarray(small, np.float32)[None] / 255 - 0.5) / 0.5, 3, axis=0)


def padded(images: list[np.ndarray], width: int = 0) -> np.ndarray:
    """One batch, each image filled up with zeros on the right."""
    width = width or max(image.shape[2] for image in images)
    return np.stack([np.pad(image, ((0, 0), (0, 0), (0, width - image.shape[2]))) for image in images])


def unpadded(image: np.ndarray) -> np.ndarray:
    """What `padded` filled up, as it was: `scaled` makes no zero, since 127.5 is no grey."""
    return image[..., : np.flatnonzero(image.any(axis=(0, 1)))[-1] + 1]
