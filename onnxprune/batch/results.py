"""What became of each of several models: line by line what `--json` of several models holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import OnnxPruneError, ToleranceMissed, one_line

DONE, SKIPPED, FAILED, MISSED = "done", "skipped", "failed", "missed"


@dataclass(frozen=True)
class Compressed:
    """One model of several.

    Attributes:
        path: the model.
        output: where its result is or would be.
        status: done; skipped (the result was there already); missed (the tolerance); failed.
        error: one line, empty where it went well.
        result: the facts of its `Result`, None where there is none.
    """

    path: str
    output: str
    status: str
    error: str = ""
    result: dict[str, Any] | None = None


def failure(path: str, output: str, error: Exception) -> Compressed:
    """A model that has no result."""
    text = one_line(error)
    if not isinstance(error, OnnxPruneError) or path not in text:
        text = f"{path}: {text}"
    return Compressed(path, output, MISSED if isinstance(error, ToleranceMissed) else FAILED, text)


@dataclass(frozen=True)
class Batch:
    """All models of a request, in its order.

    Attributes:
        models: what became of each.
        notes: what was left out.
    """

    models: Sequence[Compressed]
    notes: Sequence[str]

    def count(self, *states: str) -> int:
        """How many have one of the states."""
        return sum(model.status in states for model in self.models)

    @property
    def exit_code(self) -> int:
        """0; 1 where a model failed; 3 where all that went wrong is that tolerances were missed."""
        return 1 if self.count(FAILED) else 3 if self.count(MISSED) else 0
