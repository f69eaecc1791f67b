"""All forms in an environment, and the boxes of cases that have the same outcome."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .cases import Case
from .environments import Environment
from .outcomes import UNREAD, Seen, outcome

Box = tuple[tuple[Any, ...], ...]
FIELDS = ("encoding", "values", "fused", "consumer", "opset")


def measure(environment: Environment, environments: Path, folder: Path, cases: Iterable[Case]) -> dict[Case, Seen]:
    """What an environment does with the cases that lie in a folder; of those at its opsets and in its value forms."""
    asked = [
        case
        for case in cases
        if case.opset in environment.opsets and (not environment.values or case.values in environment.values)
    ]
    asked = [case for case in asked if case.opset == 17 or len(environment.opsets) > 2 or case.values.startswith("int")]
    with tempfile.TemporaryDirectory() as place:
        listed, out = Path(place) / "cases.json", Path(place) / "results"
        listed.write_text(json.dumps([{"name": case.name, "folder": str(folder / case.name)} for case in asked]))
        environment.run(environments, listed, out)
        found = {result["name"]: result for result in map(json.loads, out.read_text().splitlines())}
    return {case: outcome(case, found[case.name]) for case in asked}


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
            rows.append(row | ({"reason": reasons[0][:160]} if reasons[0] and word != "each run" else {}))
    return rows


def _inside(case: Case, box: Box) -> bool:
    return all(getattr(case, field) in held for field, held in zip(FIELDS, box, strict=True))


def boxes(rows: Sequence[tuple[Any, ...]]) -> list[Box]:
    """Merge rows that differ in a single field, one field after the other: a field then lists its values."""
    merging: set[Box] = {tuple((field,) for field in row) for row in rows}
    for axis in reversed(range(len(rows[0]))):
        by_rest: dict[Any, set[Any]] = {}
        for box in merging:
            by_rest.setdefault((*box[:axis], *box[axis + 1 :]), set()).update(box[axis])
        merging = {(*rest[:axis], tuple(sorted(parts)), *rest[axis:]) for rest, parts in by_rest.items()}
    return sorted(merging)
