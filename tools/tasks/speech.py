"""Speech between pauses, under noise."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import inputs_of, open_session, run
from tasks.task import Outcome, Task, fetched, need, share

RATE, CHUNK, CONTEXT = 16000, 512, 64
LIBRIVOX = "sense_and_sensibility_01_austen_64kb-0{}.wav"
SCORED_CLIPS = (
    *(LIBRIVOX.format(number) for number in (870, 880, 890, 920)),
    *("003.wav", "004.wav", "005.wav", "goforward.raw", "numbers.raw", "dhd.2934z.raw"),
)
HELD_CLIPS = (LIBRIVOX.format(930), "001.wav", "002.wav", "something.raw")
NOISES = (("none", 0.0), ("white", 20.0), ("white", 8.0), ("pink", 12.0), ("pink", 3.0), ("hum", 6.0))


def clip(name: str) -> np.ndarray:
    """A recording as float32, its root mean square 0.05."""
    path = fetched("speech", name)
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            raw = file.readframes(file.getnframes())
    else:
        raw = path.read_bytes()
    sound = np.frombuffer(raw, "<i2").astype(np.float32) / 32768
    return sound * np.float32(0.05 / np.sqrt(np.mean(sound**2)))


def noise(kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of root mean square 1."""
    if kind == "hum":
        at = np.arange(length) / RATE
        sound = sum(np.sin(2 * np.pi * 50 * k * at + rng.uniform(0, 6)) / k for k in (1, 2, 3, 5, 7, 12))
        sound = sound + 0.1 * rng.standard_normal(length)
    else:
        spectrum = np.fft.rfft(rng.standard_normal(length))
        if kind == "pink":
            spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        sound = np.fft.irfft(spectrum, length)
    return sound / np.sqrt(np.mean(sound**2))


def spoken(sound: np.ndarray) -> np.ndarray:
    """Which chunks of a clean recording hold speech: above -20 dB of its level; clicks dropped, 0.3 s bridged."""
    from scipy.ndimage import binary_closing, binary_opening

    loud = np.sqrt(np.mean(sound.reshape(-1, CHUNK) ** 2, axis=1)) > 0.05 * 10 ** (-20 / 20)
    return binary_closing(np.pad(binary_opening(loud, np.ones(3)), 10), np.ones(10))[10:-10]


def streams(clips: tuple[str, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sound [stream, chunk, 576], each chunk after the 64 values before it, and bool labels [stream, chunk]."""
    rng = np.random.default_rng(seed)
    sounds = [np.pad(sound, (0, -len(sound) % CHUNK)) for sound in map(clip, clips)]
    pauses = np.linspace(20, 100, len(sounds) + 1).astype(int)  # chunks: 0.6 to 3.2 s
    heard, labels = [], []
    for kind, decibels in NOISES:
        track, truth = [], []
        gaps = rng.permutation(pauses)
        for place, number in enumerate(rng.permutation(len(sounds))):
            track += [np.zeros(gaps[place] * CHUNK), sounds[number]]
            truth += [np.zeros(gaps[place], bool), spoken(sounds[number])]
        joined = np.concatenate([*track, np.zeros(gaps[-1] * CHUNK)])
        if kind != "none":
            joined = joined + 0.05 * 10 ** (-decibels / 20) * noise(kind, len(joined), rng)
        padded = np.concatenate([np.zeros(CONTEXT), joined]).astype(np.float32)
        heard.append(np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK])
        labels.append(np.concatenate([*truth, np.zeros(gaps[-1], bool)]))
    return np.stack(heard), np.stack(labels)


class Speech(Task):
    """silero-vad at 16 kHz, the state carried from chunk to chunk, the streams side by side."""

    metric = "speech or none"

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        need("scipy")
        return streams(SCORED_CLIPS, 0)

    def _count(self) -> int:
        return self._data[1].size

    def _score(self, session: Any) -> Outcome:
        sound, labels = self._data
        if "h" in (i.name for i in inputs_of(session)):
            zero = np.zeros((1, 1, 128), np.float32)
            said = np.stack([run(session, {"input": s, "h": zero, "c": zero})["speech_probs"] for s in sound])
        else:
            said = np.stack([said for _, said in self._steps(session, sound)], axis=1)
        found = said > 0.5
        return Outcome(share(found == labels), found.ravel().tolist())

    def _steps(self, session: Any, sound: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """What is fed for each chunk, and the probabilities [stream]."""
        state = np.zeros((2, len(sound), 128), np.float32)
        for at in range(sound.shape[1]):
            fed = {"input": np.ascontiguousarray(sound[:, at]), "state": state, "sr": np.array(RATE, np.int64)}
            found = run(session, fed)
            yield fed, found["output"][:, 0]
            state = found["stateN"]

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        need("scipy")
        sound, _ = streams(HELD_CLIPS, 1)
        rng = np.random.default_rng(1)
        session = open_session(self.path)
        if "h" in (i.name for i in inputs_of(session)):
            pieces = sound[:, : sound.shape[1] // 32 * 32].reshape(-1, 32, CONTEXT + CHUNK)
            zero = np.zeros((min(count, len(pieces)), 1, 1, 128), np.float32)
            return {"input": pieces[rng.permutation(len(pieces))[:count]], "h": zero, "c": zero}
        steps = [fed for fed, _ in self._steps(session, sound)]
        chosen = [divmod(int(i), len(sound)) for i in rng.permutation(len(steps) * len(sound))[:count]]
        return {
            "input": np.stack([steps[at]["input"][one : one + 1] for at, one in chosen]),
            "state": np.stack([steps[at]["state"][:, one : one + 1] for at, one in chosen]),
            "sr": np.full(len(chosen), RATE, np.int64),
        }
