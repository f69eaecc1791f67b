"""Strings rendered as captchas are, read."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.decoding import greedy
from tasks.rendering import blurred, font
from tasks.task import Outcome, Task, fetched, literal, need, share

LETTERS = "abcdefhkmnprtwxyACDEFGHKLMNPQRTWXY34678"  # none that looks like another, in capitals or not
HEIGHT, CANVAS = 64, (240, 64)


def strings(count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Strings of 4 or 5 letters and digits, and their images as uint8 [64, 240]: each letter turned, lines across."""
    need("matplotlib", "PIL")
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        text = "".join(rng.choice(list(LETTERS), int(rng.integers(4, 6))))
        letters, paper = font(rng, int(rng.integers(36, 46))), int(rng.integers(215, 256))
        image = Image.new("L", CANVAS, paper)
        left = float(rng.uniform(4, 10))
        for letter in text:
            wide = letters.getlength(letter)
            tile = Image.new("L", (int(wide) + 20, 76), 0)
            ImageDraw.Draw(tile).text((10, 10), letter, 255, letters)
            turned = tile.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC)
            place = (int(left) - 10, int(rng.integers(-6, 2)))
            image.paste(int(rng.integers(0, 90)), place, turned)
            left += wide + rng.uniform(3, 8)
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(0, 2))):
            (y0, y1), shade = rng.integers(0, CANVAS[1], 2), int(rng.integers(120, 200))
            draw.line((0, int(y0), CANVAS[0], int(y1)), shade, 1)
        found.append((text, blurred(image, rng, 0.8)))
    return found


def scaled(image: np.ndarray) -> np.ndarray:
    """The image as ddddocr takes it: float32 [1, 1, 64, width] in 0..1."""
    from PIL import Image

    width = int(image.shape[1] * HEIGHT / image.shape[0])
    small = Image.fromarray(image).resize((width, HEIGHT), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32)[None, None] / 255


class Captchas(Task):
    """Strings read exactly, capitals or not."""

    metric = "strings read"

    @cached_property
    def _data(self) -> list[tuple[str, np.ndarray]]:
        return strings(150, 8)

    def _score(self, session: Any) -> Outcome:
        letters = literal(fetched("ddddocr", "charsets.py"), "CHARSET_BETA")  # its first entry is the blank
        texts = []
        for _, image in self._data:
            (scores,) = run(session, {"input1": scaled(image)}).values()
            texts.append(greedy(scores[:, 0].argmax(1), letters).lower())
        return Outcome(
            share([text.lower() == found for (text, _), found in zip(self._data, texts, strict=True)]), texts
        )

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        # One axis more makes each image a whole input: the model takes one at a time.
        return {"input1": np.stack([scaled(image) for _, image in strings(count, 9)])}
