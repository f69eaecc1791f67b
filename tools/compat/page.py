"""The tables of docs/runtimes.md, made from the data file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from marks import replaced

from . import data
from .boxes import boxes
from .data import number

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"
_WORDS = ("once", "fused", "each run", "expanded", "wrong", "refused")  # from good to bad
_RATIOS = ("run", "load", "memory", "shipped")  # of whole models, over dense
_BITS = re.compile(r":\d+")


def write(*, check: bool) -> int:
    """Make the tables; with `check`, only say whether they are what the data gives.

    Returns:
        The exit code.
    """
    before = PAGE.read_text(encoding="utf-8")
    after = made(before)
    if not check:
        PAGE.write_text(after, encoding="utf-8")
    elif after != before:
        print(f"{PAGE} is not what python tools/compat tables makes", file=sys.stderr)
        return 1
    return 0


def made(text: str) -> str:
    """A page with its tables made again."""
    held = data.read()
    return replaced(PAGE, text, lambda name, _: f"\n{TABLES[name](held)}\n\n")


def _markdown(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _forms(held: dict[str, Any]) -> str:
    """Of each runtime, a row an outcome: encodings and value forms in front of which layers."""
    rows = []
    for measured in held["forms"]:
        versions = sorted(measured["versions"], key=number)
        span = versions[0] if len(versions) == 1 else ", ".join(versions)
        words: dict[tuple[str, bool, str, str], set[str]] = {}
        for row in measured["rows"]:
            for key in _keys(row):
                words.setdefault(key, set()).add(row["outcome"])
        by_word: dict[str, list[tuple[Any, ...]]] = {}
        for (values, fused, encoding, layer), found in words.items():
            worst = max(found, key=_WORDS.index)
            form = f"{values} for a kernel" if fused else values
            by_word.setdefault(worst, []).append((encoding, form, layer))
        for word in sorted(by_word, key=_WORDS.index):
            for box in boxes(by_word[word]):
                rows.append([f"{measured['runtime']} {span}", word, *map(", ".join, box)])
    shown = [row if place == 0 or rows[place - 1][0] != row[0] else ["", *row[1:]] for place, row in enumerate(rows)]
    return _markdown(["runtime", "outcome", "encoding", "values", "in front of"], shown)


def _keys(row: dict[str, Any]) -> Iterable[tuple[str, bool, str, str]]:
    for values in row["values"]:
        for fused in row["fused"]:
            for encoding in row["encoding"]:
                for layer in row["consumer"]:
                    yield _BITS.sub("", values), fused, encoding, layer


def _models(held: dict[str, Any]) -> str:
    """Of each runtime and model: size, error, latency, load, memory and the file that the runtime wants over dense."""
    rows = []
    for row in held["models"]:
        head = [f"{row['runtime']} {row['version']}", row["model"]]
        if "run" in row:
            numbers = [f"{row['dense_bytes'] / row['bytes']:.1f}x", f"{row['own_error']:.0e}"]
            rows.append([*head, *numbers, *(f"{row[part]:.2f}" if part in row else "" for part in _RATIOS)])
        else:
            why = f"the dense model is refused: {row['dense']}" if "dense" in row else f"refused: {row['refused']}"
            rows.append([*head, why.replace("|", "/")[:110], *[""] * (1 + len(_RATIOS))])
    return _markdown(["runtime", "model", "smaller", "error", "latency", "load", "memory", "shipped"], rows)


def _tools(held: dict[str, Any]) -> str:
    """Of each graph tool and form: bytes over the file's before, outputs, decode."""
    forms = list(held["tools"][0]["results"])
    rows = [[row["tool"], *(row["results"][form] for form in forms)] for row in held["tools"]]
    return _markdown(["tool", *forms], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"forms": _forms, "models": _models, "tools": _tools}
