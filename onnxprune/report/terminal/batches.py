"""Several models at once."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from onnxprune.batch.results import DONE, FAILED, MISSED, SKIPPED, Batch
from onnxprune.report.terminal.tables import ROWS, Column, line, percent, print_table, size, smaller

_BATCH = [
    Column("model", right=False), Column("", 1, right=False), Column("before", 4), Column("after"),
    Column("smaller"), Column("zeros", 3), Column("verified", 2),
]  # fmt: skip

_STATES = {
    DONE: "done", SKIPPED: "skipped because they are done", MISSED: "missed the tolerance", FAILED: "failed"
}  # fmt: skip


def show_batch(console: Console, batch: Batch) -> None:
    """Every model that has a result, and the counts."""
    results = [(model, model.result) for model in batch.models if model.result is not None]
    before, after = (sum(result[side]["bytes"] for _, result in results) for side in ("input", "output"))
    largest = {model.path for model, _ in sorted(results, key=lambda r: -r[1]["input"]["bytes"])[:ROWS]}
    rows = [
        [
            model.path,
            model.status,
            size(result["input"]["bytes"]),
            size(result["output"]["bytes"]),
            f"{result['ratio']:.2f}x",
            percent(result["parameters"]["after"] - result["parameters"]["nonzero"], result["parameters"]["after"]),
            _worst(result["deviation"]),
        ]
        for model, result in results
        if model.path in largest
    ]
    if rows:
        print_table(console, _BATCH, rows)
        if len(results) > ROWS:
            console.print(f"... and {len(results) - ROWS} smaller models (--json lists all)")
        console.print()
        line(console, f"{size(before)} -> {size(after)}  ({smaller(before / after)})")
    counts = {state: batch.count(state) for state in (DONE, SKIPPED, MISSED, FAILED)}
    told = ", ".join(f"{count} {_STATES[state]}" for state, count in counts.items() if count)
    line(console, f"{len(batch.models)} models: {told}", "bold")


def _worst(deviation: dict[str, Any]) -> str:
    """The output that differs most, in one word."""
    if deviation["source"] == "none":
        return "no"
    outputs = deviation["outputs"]
    far = [output for output in outputs if output["max_abs"] is None]
    if any(output.get("differs") or not output.get("classes") for output in far):
        return "differs"
    if far:
        least = 100 * min(output["top1_agreement"] for output in far)
        return f"{least:.1f} % agree" if deviation["source"] == "data" else f"{100 - least:.1f} % differ"
    unequal = [output["sqnr_db"] for output in outputs if output["max_abs"]]
    if unequal:  # without a number: what differs from an original of zeros
        return "differs" if None in unequal else f"{min(unequal):.1f} dB"
    return "says nothing" if outputs and all(output.get("says_nothing") for output in outputs) else "equal"
