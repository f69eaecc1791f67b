"""Lines of text, read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.decoding import greedy
from tasks.rendering import lines, padded, scaled, unpadded
from tasks.task import Outcome, Task, fetched, share

BATCH = 8


def characters(session: Any) -> list[str]:
    """The blank, the characters that the model lists in its metadata or else those of PP-OCRv4, and the space."""
    listed = session.get_modelmeta().custom_metadata_map.get("character")
    if listed is None:
        listed = fetched("ocr-models", "ppocr_keys_v1.txt").read_text(encoding="utf-8").removesuffix("\n")
    return ["", *listed.split("\n"), " "]


def read(session: Any, images: list[np.ndarray]) -> list[str]:
    """The texts of lines [3, 48, width], decoded greedily; the longer of a batch of like widths pads the others."""
    alphabet = characters(session)
    order = sorted(range(len(images)), key=lambda i: (images[i].shape[2], i))
    texts = [""] * len(images)
    for at in range(0, len(order), BATCH):
        batch = order[at : at + BATCH]
        (scores,) = run(session, {"x": padded([images[i] for i in batch])}).values()
        for i, best in zip(batch, scores.argmax(2), strict=True):
            texts[i] = greedy(best, alphabet)
    return texts


def lines_read(session: Any, data: Mapping[str, np.ndarray]) -> float:
    """The percentage of lines that are read exactly as in `targets`, each without its padding: for `--metric`."""
    return 100 * share(np.array(read(session, [unpadded(image) for image in data["x"]])) == data["targets"])


def words_read(session: Any, data: Mapping[str, np.ndarray]) -> float:
    """As `lines_read`, spaces aside: `targets` hold none."""
    found = read(session, [unpadded(image) for image in data["x"]])
    return 100 * share(np.array(list(map(unspaced, found))) == data["targets"])


def unspaced(text: str) -> str:
    return text.replace(" ", "")


class ReadLines(Task):
    """Text recognition with greedy CTC decoding."""

    metric = "lines exact"
    function = "tasks.ocr:lines_read"

    def _compared(self, text: str) -> str:
        """What of a text, written or read, has to agree."""
        return text

    @cached_property
    def _data(self) -> list[tuple[str, np.ndarray]]:
        return lines(800, 2)

    def _score(self, session: Any) -> Outcome:
        texts = read(session, [scaled(image, 48, 2**31) for _, image in self._data])
        found = list(map(self._compared, texts))
        right = [self._compared(text) for text, _ in self._data]
        return Outcome(share([a == b for a, b in zip(right, found, strict=True)]), found)

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        others = lines(count, 3)
        images = padded([scaled(image, 48, 480) for _, image in others])
        return {"x": images, "targets": np.array([self._compared(text) for text, _ in others])}


class ReadWords(ReadLines):
    """The same without the spaces: PP-OCRv4 leaves most of them out where Latin words are close."""

    metric = "lines exact, spaces aside"
    function = "tasks.ocr:words_read"

    def _compared(self, text: str) -> str:
        return unspaced(text)
