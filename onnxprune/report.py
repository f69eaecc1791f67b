"""What a person reads: rich tables, and a closing line that promises nothing that was not measured."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxprune.api import Deviation, Result
from onnxprune.files import staged, write

_ROWS = 40  # weights shown on a terminal; --json has all of them


def size(count: int) -> str:
    """Bytes as people write them (1 MB = 1,000,000 bytes)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def percent(part: int, whole: int) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, (title, justify) in enumerate(columns):
        table.add_column(
            title, justify=justify, overflow="ellipsis" if index == 0 else "fold", no_wrap=True,  # type: ignore[arg-type]
        )  # fmt: skip
    return table


def show_result(console: Console, result: Result) -> None:
    """The table of weights, what was left alone, and the closing lines."""
    if result.weights:
        table = _table(("weight", "left"), ("shape", "right"), ("zeros", "right"), ("asked", "right"),
                       ("stored as", "left"), ("before", "right"), ("after", "right"))  # fmt: skip
        largest = sorted(result.weights, key=lambda w: -w.bytes_before)[:_ROWS]
        for weight in (w for w in result.weights if w in largest):
            asked = "" if weight.requested is None else f"{100 * weight.requested:.1f} %"
            table.add_row(
                weight.name, "x".join(map(str, weight.shape)), percent(weight.zeros, weight.total), asked,
                weight.encoding, size(weight.bytes_before), size(weight.bytes_after),
            )  # fmt: skip
        console.print(table)
        if len(result.weights) > _ROWS:
            console.print(f"... and {len(result.weights) - _ROWS} smaller weights (--json lists all)")
        console.print()
    _show_skipped(console, result.skipped)
    for note in result.notes[:8]:
        _line(console, f"note: {note}", "yellow")
    _show_closing(console, result)


def _show_skipped(console: Console, skipped: list[dict[str, str]]) -> None:
    if skipped:
        reasons = Counter(s["reason"].split(":")[0] for s in skipped)
        text = ", ".join(f"{count} {_plural(reason)}" for reason, count in reasons.most_common(6))
        _line(console, f"left alone: {text}", "dim")


def _plural(reason: str) -> str:
    return reason.removeprefix("is a ").removeprefix("is an ").removeprefix("is ")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _show_closing(console: Console, result: Result) -> None:
    before, after = result.input, result.output
    counts = result.parameters
    zeros = counts["after"] - counts["nonzero"]
    _line(console, f"{after.path}", "bold")
    smaller = f"{result.ratio:.2f}x smaller" if result.ratio >= 1 else f"{1 / result.ratio:.2f}x larger"
    _line(console, f"  on disk     {size(before.bytes)} -> {size(after.bytes)}  ({smaller})")
    _line(console, f"  gzipped     {size(before.gzip_bytes)} -> {size(after.gzip_bytes)}")
    _line(
        console, f"  parameters  {counts['after']:,}, of which {zeros:,} are zero ({percent(zeros, counts['after'])})"
    )
    show_deviation(console, result.deviation)
    if zeros:
        _line(console, "  speed       unchanged: onnxruntime computes with zeros as with any other number", "dim")


def show_deviation(console: Console, deviation: Deviation) -> None:
    """One line per output, with where the inputs came from."""
    if deviation.source == "none":
        _line(
            console, f"  verified    no{': ' + deviation.reason if deviation.reason else ' (not asked for)'}", "yellow"
        )
        return
    inputs = "samples of --data" if deviation.source == "data" else "synthesised inputs (random: --data says more)"
    _line(console, f"  verified    in onnxruntime on {deviation.samples} {inputs}")
    for output in deviation.outputs[:_ROWS]:
        _line(console, f"              {output['name']}: {_deviation_text(output)}")


def _deviation_text(output: dict[str, Any]) -> str:
    if output["max_abs"] == 0:
        return "equal"
    if output["max_abs"] is None:
        return "shape or finiteness differs"
    parts = [f"max abs {output['max_abs']:.3g}"]
    if output["sqnr_db"] is not None:
        parts.append(f"SQNR {output['sqnr_db']:.1f} dB")
    parts.append(f"cosine {output['cosine']:.5f}")
    if output["top1_agreement"] is not None:
        parts.append(f"top-1 agreement {100 * output['top1_agreement']:.2f} %")
    return ", ".join(parts)


def show_inspection(console: Console, rows: list[dict[str, Any]]) -> None:
    """Every weight with what is known of it."""
    table = _table(("weight", "left"), ("kind", "left"), ("shape", "right"), ("type", "left"), ("std", "right"),
                   ("zeros", "right"), ("bytes", "right"), ("stored as", "left"), ("left alone", "left"))  # fmt: skip
    for row in rows:
        std = row.get("std")
        table.add_row(
            row["name"], row["kind"], "x".join(map(str, row["shape"])), row["dtype"],
            "" if std is None else f"{std:.3g}", percent(row["zeros"], row["total"]), size(row["bytes"]),
            row["encoding"], row.get("left_alone") or "",
        )  # fmt: skip
    console.print(table)
    total = sum(r["bytes"] for r in rows)
    _line(console, f"{len(rows)} tensors, {sum(r['total'] for r in rows):,} parameters, {size(total)}")


def to_json(facts: Any) -> str:
    """Valid JSON: numbers that it lacks are null."""
    return json.dumps(_finite(facts), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, facts: Any) -> None:
    """The facts as a JSON file, written atomically."""
    with staged(path) as place:
        write(place, [to_json(facts).encode()])
