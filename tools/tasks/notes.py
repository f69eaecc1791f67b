"""Notes, heard in music."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.task import Outcome, Task

RATE, LENGTH, HOP, FRAMES = 22050, 43844, 256, 172  # a window of basic-pitch: 2 s
LOWEST, KEYS = 21, 88  # the piano's, by MIDI's numbers


def windows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sound [window, 43844, 1] of up to three voices of plucked tones, and the keys that sound [window, frame, key]."""
    rng = np.random.default_rng(seed)
    sounds, keys = np.zeros((count, LENGTH, 1), np.float32), np.zeros((count, FRAMES, KEYS), bool)
    at = np.arange(LENGTH) / RATE
    for sound, heard in zip(sounds, keys, strict=True):
        for _ in range(int(rng.integers(1, 4))):
            start = float(rng.uniform(0, 0.3))
            while start < at[-1] - 0.3:
                length, key = float(rng.uniform(0.25, 0.8)), int(rng.integers(45, 82))
                inside = at[(at >= start) & (at < start + length)] - start
                frequency = 440 * 2 ** ((key - 69) / 12)
                tone = sum(np.sin(2 * np.pi * frequency * k * inside) / k**1.5 for k in range(1, 7))
                fade = np.minimum(1, np.minimum(inside, length - inside) / 0.01) * np.exp(-2 * inside)
                sound[(at >= start) & (at < start + length), 0] += rng.uniform(0.1, 0.25) * tone * fade
                heard[int(start * RATE / HOP) : int((start + length) * RATE / HOP), key - LOWEST] = True
                start += length + float(rng.uniform(0.02, 0.2))
        sound += rng.normal(0, 0.002, sound.shape)
    return sounds, keys


class Notes(Task):
    """basic-pitch: F1 of the keys that sound in each frame."""

    metric = "F1 of keys"

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        return windows(48, 12)

    def _count(self) -> int:
        return int(self._data[1].sum())

    def _score(self, session: Any) -> Outcome:
        sounds, keys = self._data
        name = session.get_inputs()[0].name
        said = [run(session, {name: sound[None]})["StatefulPartitionedCall:1"][0] for sound in sounds]
        found = np.stack(said) > 0.4
        right = int((found & keys).sum())
        return Outcome(2 * right / (int(found.sum()) + self.samples), np.packbits(found).tolist())

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        return {"serving_default_input_2:0": windows(count, 13)[0]}
