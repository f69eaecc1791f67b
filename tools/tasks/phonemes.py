"""Words, and how they are said."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import open_session, run
from tasks.task import Outcome, Task, fetched, share

GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
_PHONEMES = (
    "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 "
    "EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH "
    "UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
)
PHONEMES = _PHONEMES.split()
START, END = PHONEMES.index("<s>"), PHONEMES.index("</s>")
STEPS = 20  # the most phonemes that g2p-en says of a word
WORDS = 4000


def pronunciations(dictionary: str) -> dict[str, set[str]]:
    """What cmudict's lines say of each word of the letters a to z: its phonemes, one set of them or more."""
    found: dict[str, set[str]] = {}
    for line in dictionary.splitlines():
        word, said = line.partition("#")[0].split(maxsplit=1)
        if plain := re.fullmatch(r"([a-z]+)(\(\d+\))?", word):
            found.setdefault(plain[1], set()).add(" ".join(said.split()))
    return found


def spelt(words: Sequence[str]) -> dict[str, np.ndarray]:
    """The encoder's inputs: `graphemes` [word, place] with the end of each word, and `lengths`."""
    rows = [[*(GRAPHEMES.index(letter) for letter in word), GRAPHEMES.index("</s>")] for word in words]
    lengths = np.array([len(row) for row in rows], np.int32)
    graphemes = np.zeros((len(rows), lengths.max()), np.int64)
    for row, filled in zip(rows, graphemes, strict=True):
        filled[: len(row)] = row
    return {"graphemes": graphemes, "lengths": lengths}


def steps(decoder: Any, state: np.ndarray) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """What is fed to the decoder at each step, and the phonemes [word] that it says, each fed to the next step."""
    phoneme = np.full(len(state), START, np.int64)
    found = []
    for _ in range(STEPS):
        fed = {"phoneme": phoneme, "state": state}
        said = run(decoder, fed)
        phoneme, state = said["logits"].argmax(1), said["next_state"]
        found.append((fed, phoneme))
    return found


def texts(said: np.ndarray) -> list[str]:
    """The phonemes of words [word, step], each up to its end."""
    return [" ".join(PHONEMES[i] for i in row[: np.argmax(np.append(row, END) == END)]) for row in said]


class Phonemes(Task):
    """Grapheme to phoneme: what cmudict says, by g2p-en's encoder or its decoder, the other one as it was."""

    metric = "words right"

    @cached_property
    def _words(self) -> list[tuple[str, set[str]]]:
        """All words, in the order of a hash."""
        said = pronunciations(fetched("cmudict", "cmudict.dict").read_text(encoding="utf-8"))
        return sorted(said.items(), key=lambda pair: hashlib.sha256(pair[0].encode()).digest())

    @cached_property
    def _data(self) -> list[tuple[str, set[str]]]:
        return self._words[:WORDS]

    def _state(self, session: Any, words: Sequence[str]) -> np.ndarray:
        """What the encoder makes of words [word, hidden]."""
        encoder = session if self.name == "g2p_encoder" else open_session(fetched("g2p-en", "g2p_encoder.onnx"))
        return run(encoder, spelt(words))["state"]

    def _score(self, session: Any) -> Outcome:
        decoder = session if self.name == "g2p_decoder" else open_session(fetched("g2p-en", "g2p_decoder.onnx"))
        state = self._state(session, [word for word, _ in self._data])
        found = texts(np.stack([phonemes for _, phonemes in steps(decoder, state)], axis=1))
        return Outcome(share([text in right for text, (_, right) in zip(found, self._data, strict=True)]), found)

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        words = [word for word, _ in self._words[WORDS : WORDS + count]]
        if self.name == "g2p_encoder":
            return spelt(words)
        session = open_session(self.path)
        fed = [inputs for inputs, _ in steps(session, self._state(session, words))]
        at = np.random.default_rng(0).integers(0, 8, len(words))  # a word is 6 phonemes on average
        return {name: np.stack([fed[step][name][i] for i, step in enumerate(at)]) for name in ("phoneme", "state")}
