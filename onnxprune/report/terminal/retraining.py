"""Masks, and rounds of retraining."""

from __future__ import annotations

from rich.console import Console

from onnxprune.masks.file import MaskFile
from onnxprune.report.terminal.tables import Column, line, print_table
from onnxprune.retraining.results import Iteration

_MASKS = [
    Column("parameter", right=False), Column("shape"), Column("asked", 2), Column("reached"), Column("below", 1),
    Column("ONNX weight", 4, right=False), Column("transform", 3, right=False),
]  # fmt: skip


def show_masks(console: Console, masks: MaskFile) -> None:
    """Every mask, the weights that it is of, and what was matched besides."""
    facts = masks.facts()["parameters"]
    rows = []
    for name, parameter in masks.parameters.items():
        if parameter.pruning is not None:
            asked, threshold = parameter.pruning.requested, parameter.pruning.threshold
            rows.append([
                " = ".join((name, *parameter.aliases)),
                "x".join(map(str, parameter.shape)),
                "" if asked is None else f"{100 * asked:.1f} %",
                f"{100 * facts[name]['mask']['reached']:.1f} %",
                "" if threshold is None else f"{threshold:.3g}",
                ", ".join(dict.fromkeys(link.weight for link in parameter.links)),
                ", ".join(dict.fromkeys(link.transform for link in parameter.links)),
            ])  # fmt: skip
    print_table(console, _MASKS, rows)
    kept, total = sum(int(m.sum()) for m in masks.masks.values()), sum(m.size for m in masks.masks.values())
    others = len(masks.parameters) - len(rows)
    line(console, f"{len(rows)} masks keep {kept:,} of {total:,} entries; {others} more parameters are named")
    line(console, f"pruned from a model with SHA-256 {masks.model}", "dim")


_ROUNDS = [
    Column("round"), Column("asked", 1), Column("zeros"), Column("non-zeros"), Column("returned", 2),
    Column("metric"), Column("within"),
]  # fmt: skip


def show_iteration(console: Console, result: Iteration) -> None:
    """Every round, and which one was written."""
    metric = "" if result.metric is None else f"{result.metric:g}"
    rows = [["0", "", "", "", "", metric, ""]] if metric else []
    for r in result.rounds:
        rows.append([
            str(r.number),
            "" if r.asked is None else f"{100 * r.asked:.2f} %",
            f"{100 * r.sparsity:.2f} %",
            f"{r.nonzero:,}",
            f"{r.returned:,}",
            "" if r.metric is None else f"{r.metric:g}",
            {None: "", True: "yes", False: "no"}[r.within],
        ])  # fmt: skip
    print_table(console, _ROUNDS, rows)
    for note in result.notes[:8]:
        line(console, f"note: {note}", "yellow")
    chosen = result.rounds[result.chosen - 1]
    line(console, result.output, "bold")
    line(
        console,
        f"  round {chosen.number}: {chosen.nonzero:,} of {result.parameters:,} parameters are not zero "
        f"({result.parameters / max(chosen.nonzero, 1):.1f}x fewer); its masks are {chosen.masks}",
    )
    line(console, f"  store it small: onnxprune compress {result.output} --sparsity 0", "dim")
