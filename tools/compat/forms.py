"""All forms in an environment, and the boxes of cases that have the same outcome."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from .boxes import Box, boxes
from .cases import Case
from .environments import Environment
from .outcomes import EACH_RUN, UNREAD, Seen

FIELDS = ("encoding", "values", "fused", "consumer", "opset")


def measure(environment: Environment, environments: Path, folder: Path, cases: Iterable[Case]) -> dict[Case, Any]:
    """What the runner found of the cases in a folder; of those at the environment's opsets and in its value forms."""
    asked = [case for case in cases if environment.asks(case.consumer, case.values, case.opset)]
    with tempfile.TemporaryDirectory() as place:
        listed, out = Path(place) / "cases.json", Path(place) / "results"
        listed.write_text(json.dumps([{"name": case.name, "folder": str(folder / case.name)} for case in asked]))
        environment.run(environments, listed, out)
        found = {result["name"]: result for result in map(json.loads, out.read_text().splitlines())}
    return {case: found[case.name] for case in asked}


def merged(seen: dict[Case, Seen]) -> list[dict[str, Any]]:
    """The rows of a data file: cases with the same outcome are one row, whose fields list their values."""
    by_word: dict[str, list[tuple[Any, ...]]] = {}
    for case, what in seen.items():
        if what.word != UNREAD:
            by_word.setdefault(what.word, []).append(tuple(getattr(case, field) for field in FIELDS))
    rows = []
    for word, rest in sorted(by_word.items()):
        for box in boxes(rest):
            reasons = [seen[case].reason for case in seen if seen[case].word == word and _inside(case, box)]
            row: dict[str, Any] = dict(zip(FIELDS, map(list, box), strict=True)) | {"outcome": word}
            rows.append(row | ({"reason": reasons[0][:160]} if reasons[0] and word != EACH_RUN else {}))
    return rows


def without(
    rows: Iterable[dict[str, Any]], encodings: Collection[str], layers: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows less what they say of some encodings in front of some layers; without one of either, of all."""
    dropped = {"encoding": encodings, "consumer": layers}
    asked = {field: names for field, names in dropped.items() if names}
    left = []
    for row in rows:
        kept = {field: [each for each in row[field] if each not in names] for field, names in asked.items()}
        over = dict(row)
        for field, names in asked.items():  # what is outside of one field's names, then of the next
            if kept[field]:
                left.append(over | {field: kept[field]})
            over |= {field: [each for each in row[field] if each in names]}
            if not over[field]:
                break
    return left


def _inside(case: Case, box: Box) -> bool:
    return all(getattr(case, field) in held for field, held in zip(FIELDS, box, strict=True))
