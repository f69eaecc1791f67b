"""Letters on a picture, found."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.boxes import Box, matched, overlap
from tasks.captcha import LETTERS
from tasks.rendering import font
from tasks.task import Outcome, Task, need

SIDE, STRIDES = 416, (8, 16, 32)


def pictures(count: int, seed: int) -> list[tuple[list[Box], np.ndarray]]:
    """Boxes of 3 to 5 turned letters on a soft background, and the picture as float32 [3, 416, 416] of 0..255."""
    need("matplotlib", "PIL")
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(90, 256, (6, 6, 3), dtype=np.uint8))
        image = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        boxes: list[Box] = []
        places = rng.permutation(9)[: int(rng.integers(3, 6))]
        for place in places:
            tile = Image.new("L", (138, 138), 0)
            letters = font(rng, int(rng.integers(60, 90)))
            ImageDraw.Draw(tile).text((69, 69), str(rng.choice(list(LETTERS))), 255, letters, anchor="mm")
            turned = tile.rotate(float(rng.uniform(-30, 30)), Image.Resampling.BICUBIC)
            left, top = 138 * int(place % 3), 138 * int(place // 3)
            image.paste(tuple(int(v) for v in rng.integers(0, 110, 3)), (left, top), turned)
            x0, y0, x1, y1 = turned.getbbox()
            boxes.append((float(left + x0), float(top + y0), float(left + x1), float(top + y1)))
        found.append((boxes, np.asarray(image, np.float32)[..., ::-1].transpose(2, 0, 1).copy()))
    return found


def boxes_of(rows: np.ndarray) -> list[Box]:
    """The boxes of YOLOX's rows [place, 6] above 0.1, less those that overlap a surer one by more than 0.45."""
    grids, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride]
        grids.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    grid, stride = np.concatenate(grids), np.concatenate(strides)
    middle, half = (rows[:, :2] + grid) * stride, np.exp(rows[:, 2:4]) * stride / 2
    sure = rows[:, 4] * rows[:, 5]
    kept: list[Box] = []
    for i in np.argsort(-sure):
        if sure[i] <= 0.1:
            break
        box: Box = tuple(float(v) for v in (*(middle[i] - half[i]), *(middle[i] + half[i])))  # type: ignore[assignment]
        if not kept or overlap([box], kept).max() <= 0.45:
            kept.append(box)
    return kept


class FindTargets(Task):
    """Detection by YOLOX: F1 against the letters drawn. It compares by each box found or not, and the false ones."""

    metric = "F1 of boxes"

    @cached_property
    def _data(self) -> list[tuple[list[Box], np.ndarray]]:
        need("scipy")
        return pictures(60, 14)

    def _count(self) -> int:
        return sum(len(boxes) for boxes, _ in self._data)

    def _score(self, session: Any) -> Outcome:
        return matched((boxes, self._found(session, image)) for boxes, image in self._data)

    def _found(self, session: Any, image: np.ndarray) -> list[Box]:
        (rows,) = run(session, {"images": image[None]}).values()
        return boxes_of(rows[0])

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        return {"images": np.stack([image for _, image in pictures(count, 15)])}
