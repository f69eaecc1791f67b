"""Wake words, spoken by a voice and heard by detectors."""
# ruff: noqa: RUF001 - the IPA is not ASCII misspelt

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import open_session, run
from tasks.task import Outcome, Task, fetched, need, share

# What is said, as phonemes of the IPA, and the detector that is to hear it; the others are to be heard by none.
SAID = (
    ("əlˈɛksə", "alexa_v0.1"), ("hˈeɪ dʒˈɑːɹvɪs", "hey_jarvis_v0.1"), ("hˈeɪ mˈaɪkɹɔft", "hey_mycroft_v0.1"),
    ("ɹɪlˈæksɪŋ", ""), ("hˈeɪ tʃˈɑːɹli", ""), ("mˈaɪkɹoʊskˌoʊp", ""), ("ɡʊd mˈɔːɹnɪŋ", ""),
)  # fmt: skip
DETECTORS = [detector for _, detector in SAID if detector]
RATE, SECONDS = 16000, 3
WINDOW, STEP, HEARD = 76, 8, 16  # frames of an embedding and between two, and embeddings that a detector hears


def identities(phonemes: str, numbers: dict[str, list[int]]) -> np.ndarray:
    """The voice's `input` [1, token]: the phonemes between marks of the start and the end, a pad after each."""
    tokens = [numbers["^"][0], numbers["_"][0]]
    for phoneme in phonemes:
        tokens += [*numbers[phoneme], numbers["_"][0]]
    return np.array([[*tokens, numbers["$"][0]]], np.int64)


def windows(spectrogram: np.ndarray) -> np.ndarray:
    """The embedding's inputs [window, 76, 32, 1] of a spectrogram [frame, 32]."""
    found = np.lib.stride_tricks.sliding_window_view(spectrogram, WINDOW, axis=0)[::STEP]
    return np.ascontiguousarray(found.transpose(0, 2, 1)[..., None])


class WakeWords(Task):
    """Whether each detector hears its word: by the voice's or the embedding's network, the others as they were."""

    metric = "heard or none"

    @cached_property
    def _data(self) -> list[tuple[dict[str, np.ndarray], str]]:
        return self._texts(np.linspace(0.85, 1.3, 6))

    def _count(self) -> int:
        return len(self._data) * len(DETECTORS)

    def _texts(self, speeds: np.ndarray) -> list[tuple[dict[str, np.ndarray], str]]:
        """What the voice is fed for each text at each length scale, without random noise, and its detector."""
        config = json.loads(fetched("piper-joe", "en_US-joe-medium.onnx.json").read_text(encoding="utf-8"))
        found = []
        for speed in speeds:
            for phonemes, detector in SAID:
                tokens = identities(phonemes, config["phoneme_id_map"])
                lengths, scales = np.array([tokens.shape[1]]), np.array([0, speed, 0], np.float32)
                found.append(({"input": tokens, "input_lengths": lengths, "scales": scales}, detector))
        return found

    def _part(self, session: Any, folder: str, file: str) -> Any:
        """The session that is scored where it is that of this file, or else one of the file."""
        path = fetched(folder, file)
        return session if path == self.path else open_session(path)

    def _spectrograms(self, session: Any, texts: list[tuple[dict[str, np.ndarray], str]]) -> list[np.ndarray]:
        """Spectrograms [frame, 32] of what the voice says, with silence around it."""
        need("scipy")
        from scipy.signal import resample_poly

        voice = self._part(session, "piper-joe", "en_US-joe-medium.onnx")
        listener = self._part(session, "openwakeword", "melspectrogram.onnx")
        found = []
        for fed, _ in texts:
            sound = resample_poly(run(voice, fed)["output"].ravel(), 320, 441)  # 22,050 to 16,000 Hz
            whole = np.zeros(SECONDS * RATE, np.float32)
            sound = sound[: len(whole) - RATE // 2]
            end = len(whole) - RATE // 4
            whole[end - len(sound) : end] = 16000 * sound / np.abs(sound).max()
            whole += np.random.default_rng(0).normal(0, 10, len(whole)).astype(np.float32)
            (spectrogram,) = run(listener, {"input": whole[None]}).values()
            found.append(np.squeeze(spectrogram) / 10 + 2)
        return found

    def _score(self, session: Any) -> Outcome:
        embedding = self._part(session, "openwakeword", "embedding_model.onnx")
        detectors = [self._part(session, "openwakeword", f"{name}.onnx") for name in DETECTORS]
        heard = []
        for spectrogram in self._spectrograms(session, self._data):
            (features,) = run(embedding, {"input_1": windows(spectrogram)}).values()
            pieces = np.lib.stride_tricks.sliding_window_view(features[:, 0, 0], HEARD, axis=0).transpose(0, 2, 1)
            for detector in detectors:
                name = detector.get_inputs()[0].name
                said = [next(iter(run(detector, {name: piece[None].copy()}).values())) for piece in pieces]
                heard.append(bool(np.max(said) > 0.5))
        right = [name == detector for _, detector in self._data for name in DETECTORS]
        return Outcome(share(np.array(heard) == right), heard)

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        texts = self._texts(np.linspace(0.873, 1.277, -(-count // len(SAID))))
        rng = np.random.default_rng(0)
        if self.path.parent.name == "piper-joe":
            # Tokens of one length: a text is said from its start, without those at its end.
            shortest = min(fed["input"].shape[1] for fed, _ in texts)
            tokens = [np.hstack([fed["input"][:, : shortest - 1], fed["input"][:, -1:]]) for fed, _ in texts]
            return {
                "input": np.stack(tokens)[:count],
                "input_lengths": np.full((count, 1), shortest),
                "scales": np.stack([fed["scales"] for fed, _ in texts])[:count],
            }
        rows = np.concatenate([windows(one) for one in self._spectrograms(open_session(self.path), texts)])
        return {"input_1": rows[rng.permutation(len(rows))[:count]]}
