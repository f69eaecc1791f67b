"""Lines of text, found on a page."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.rendering import blurred, font, phrase, scaled, shades
from tasks.task import Outcome, Task, need

Box = tuple[float, float, float, float]  # left, top, right, bottom


def pages(count: int, seed: int) -> list[tuple[list[Box], np.ndarray]]:
    """Boxes of the lines, and the page as uint8 [480, 640]."""
    need("matplotlib", "PIL")
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        paper, ink = shades(rng)
        image = Image.new("L", (640, 480), paper)
        draw = ImageDraw.Draw(image)
        boxes: list[Box] = []  # as wide as the ink and as high as the line, ascent to descent
        top = int(rng.integers(8, 40))
        while True:
            letters, text = font(rng, int(rng.integers(13, 38))), phrase(rng, int(rng.integers(1, 4)))
            left = int(rng.integers(8, 200))
            inked = draw.textbbox((left, top), text, letters)
            box = (inked[0], float(top), inked[2], float(top + sum(letters.getmetrics())))
            if box[3] > 472:
                break
            if box[2] < 632:
                draw.text((left, top), text, ink, letters)
                boxes.append(box)
                top = int(box[3]) + int(rng.integers(6, 40))
        found.append((boxes, blurred(image, rng, 1.2)))
    return found


def boxes_of(chances: np.ndarray) -> list[Box]:
    """The boxes of a map [height, width]: parts above 0.3 of 0.5 or more on average, grown by DB's ratio of 1.6."""
    from scipy import ndimage

    parts, count = ndimage.label(chances > 0.3)
    means = ndimage.mean(chances, parts, range(1, count + 1)) if count else []
    found = []
    for (rows, columns), mean in zip(ndimage.find_objects(parts), means, strict=True):
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        if min(high, wide) >= 3 and mean >= 0.5:
            grow = 1.6 * high * wide / (2 * (high + wide))
            found.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return found


def overlap(a: list[Box], b: list[Box]) -> np.ndarray:
    """Intersection over union [a, b]."""
    one, two = np.reshape(a, (-1, 1, 4)), np.reshape(b, (1, -1, 4))
    inner = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    common = np.prod(np.maximum(inner, 0), axis=2)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=2) for box in (one, two)]
    return common / (areas[0] + areas[1] - common)


def matched(pages: Iterable[tuple[list[Box], list[Box]]]) -> Outcome:
    """F1 of the boxes found on pages of (drawn, found): a prediction for each drawn, hit or not, and the false ones."""
    from scipy.optimize import linear_sum_assignment

    hits: list[bool] = []
    false: list[int] = []
    for drawn, found in pages:
        near = overlap(drawn, found) >= 0.5
        rows, columns = linear_sum_assignment(near, maximize=True)
        hit = np.isin(np.arange(len(drawn)), rows[near[rows, columns]])
        hits += hit.tolist()
        false.append(len(found) - int(hit.sum()))
    right = sum(hits)
    return Outcome(2 * right / (right + sum(false) + len(hits)), [*hits, *false])


class FindBoxes(Task):
    """Text detection: F1 against the boxes drawn. It compares by each box found or not, and the false ones a page."""

    metric = "F1 of boxes"

    @cached_property
    def _data(self) -> list[tuple[list[Box], np.ndarray]]:
        need("scipy")
        return pages(160, 6)

    def _count(self) -> int:
        return sum(len(boxes) for boxes, _ in self._data)

    def _score(self, session: Any) -> Outcome:
        return matched((boxes, self._found(session, image)) for boxes, image in self._data)

    def _found(self, session: Any, image: np.ndarray) -> list[Box]:
        (chances,) = run(session, {"x": scaled(image, *image.shape)[None]}).values()
        return boxes_of(chances[0, 0])

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        # One axis more makes each window a whole input: a batch of many would take gigabytes, as would whole pages.
        windows = (image[112:368, 160:480] for _, image in pages(count, 7))
        return {"x": np.stack([scaled(window, *window.shape)[None] for window in windows])}
