"""The data file: what `--target`, `onnxprune compat` and docs/runtimes.md go by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parents[2] / "onnxprune" / "encodings" / "runtimes.json"
EMPTY: dict[str, list[Any]] = {"forms": [], "models": [], "tools": []}


def read() -> dict[str, list[Any]]:
    """What is there; nothing where the file is missing."""
    return json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.exists() else dict(EMPTY)


def with_forms(
    data: dict[str, Any], runtime: str, version: str, day: str, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The data with what a version does with each form, in place of what was there; versions that agree are one."""
    forms = []
    for held in data["forms"]:
        left = [each for each in held["versions"] if (held["runtime"], each) != (runtime, version)]
        if left:
            forms.append(held | {"versions": left})
    same = next(
        (held for held in forms if (held["runtime"], held["measured"], held["rows"]) == (runtime, day, list(rows))),
        None,
    )
    if same is None:
        forms.append({"runtime": runtime, "versions": [version], "measured": day, "rows": list(rows)})
    else:
        same["versions"].append(version)
    return data | {"forms": sorted(forms, key=lambda held: (held["runtime"], number(held["versions"][0])))}


def rows_of(data: dict[str, Any], runtime: str, version: str) -> list[dict[str, Any]]:
    """What is there of a version of a runtime."""
    return next(
        (held["rows"] for held in data["forms"] if held["runtime"] == runtime and version in held["versions"]), []
    )


def with_models(data: dict[str, Any], runtime: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data with whole models in a runtime, in place of what was there."""
    kept = [row for row in data["models"] if row["runtime"] != runtime]
    return data | {"models": sorted([*kept, *rows], key=lambda row: row["runtime"])}


def write(data: dict[str, Any]) -> None:
    """The file, a row a line."""
    lines = []
    for held in data["forms"]:
        versions = sorted(held["versions"], key=number)
        head = json.dumps(held | {"versions": versions, "rows": []})[:-2]
        lines.append(head + "\n" + ",\n".join(f"   {json.dumps(row)}" for row in held["rows"]) + "\n  ]}")
    models = ",\n".join(f"  {json.dumps(row)}" for row in data["models"])
    forms = ",\n".join(f"  {line}" for line in lines)
    tools = ",\n".join(f"  {json.dumps(row)}" for row in data["tools"])
    PLACE.write_text(
        f'{{\n "forms": [\n{forms}\n ],\n "models": [\n{models}\n ],\n "tools": [\n{tools}\n ]\n}}\n',
        encoding="utf-8",
    )


def number(version: str) -> list[int]:
    """What versions are sorted by."""
    return [int(part) for part in version.split(".") if part.isdigit()]
