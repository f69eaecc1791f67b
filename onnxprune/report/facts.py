"""Facts as JSON, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxprune.core.files import staged, write
from onnxprune.errors import OutputError


def to_json(facts: Any) -> str:
    """Valid JSON: numbers that it lacks are null."""
    return json.dumps(_finite(facts), indent=2, allow_nan=False) + "\n"


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """One line of JSON for each of the facts, written atomically."""
    lines = [json.dumps(_finite(row), allow_nan=False).encode() + b"\n" for row in rows]
    with staged(path) as place:
        write(place, lines)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def check_place(path: Path, others: Iterable[Path]) -> None:
    """Raise OutputError, before anything is done, where a file of facts cannot be written, or is one of the others."""
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: it is not a regular file in a folder that exists")
    if path.resolve() in {other.resolve() for other in others}:
        raise OutputError(f"{path} is another file of this command already: choose another one for what it reports")


def write_json(path: Path, facts: Any) -> None:
    """The facts as a JSON file, written atomically."""
    with staged(path) as place:
        write(place, [to_json(facts).encode()])
