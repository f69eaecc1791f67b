"""What networks of connectionist temporal classification say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def greedy(best: np.ndarray, alphabet: Sequence[str]) -> str:
    """The text of the best class of each step [step]: runs are one, and class 0, the blank, is the empty text."""
    return "".join(alphabet[i] for i in best[np.diff(best, prepend=-1) != 0])
