"""A task: a model, samples with known answers that score it, and others for `--data`."""

from __future__ import annotations

import ast
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

MODELS = Path(__file__).resolve().parent.parent.parent / "models"
FETCHED = MODELS / "fetched"


class Unavailable(Exception):
    """The data or a package of a task is missing; the message is one line."""


@dataclass(frozen=True)
class Outcome:
    """What a session reached: a share of 0..1, and one prediction for each item, to compare sessions by."""

    accuracy: float
    predictions: Sequence[Hashable]


class Task(ABC):
    """A model and samples with known answers; all of it raises Unavailable when something is missing.

    Attributes:
        path: the model.
        name: by default the stem of its file.
        chosen_on: the defaults of `compress` were chosen on this task; the others only judge them.
    """

    metric: ClassVar[str]
    function: ClassVar[str] = ""  # MODULE:FUNCTION that is the metric, in percent, on `unscored` samples

    def __init__(self, path: Path, name: str = "", *, chosen_on: bool = False) -> None:
        self.path = path
        self.name = name or path.stem
        self.chosen_on = chosen_on

    @property
    def samples(self) -> int:
        """How many samples are scored."""
        return self._count()

    def score(self, session: Any) -> Outcome:
        """Run the task in a session of the original or of what was made of it."""
        return self._score(session)

    def unscored(self, count: int) -> dict[str, np.ndarray]:
        """Samples for `--data`, none of which is scored: `count`, or fewer if there are no more.

        Returns:
            Inputs by name with a leading axis of samples; `targets` too where a metric holds the outputs against them.
        """
        return self._unscored(count)

    @cached_property
    @abstractmethod
    def _data(self) -> Any: ...

    def _count(self) -> int:
        return len(self._data)

    @abstractmethod
    def _score(self, session: Any) -> Outcome: ...

    @abstractmethod
    def _unscored(self, count: int) -> dict[str, np.ndarray]: ...


def need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"a package is not there: pip install {' '.join(missing).replace('PIL', 'pillow')}")


def fetched(folder: str, file: str) -> Path:
    """A file that fetch_models brings."""
    path = FETCHED / folder / file
    if not path.is_file():
        raise Unavailable(f"{file} is not there: python tools/fetch_models.py {folder}")
    return path


def literal(source: Path, name: str) -> Any:
    """What a Python file that fetch_models brings assigns to a name, read without running it."""
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return ast.literal_eval(statement.value)
    raise ValueError(f"{source.name} assigns no {name}")


def share(right: Any) -> float:
    return float(np.mean(right))
