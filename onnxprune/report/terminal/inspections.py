"""What is known of a model: its weights, its layers, who reads it, what its layers bear."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from rich.console import Console

from onnxprune.allocation.curves import Curves
from onnxprune.encodings.compatibility import Compatibility
from onnxprune.encodings.measured import releases
from onnxprune.layer_costs.costs import Costs
from onnxprune.layer_costs.decoding import Decoding
from onnxprune.report.terminal.results import show_speed
from onnxprune.report.terminal.tables import Column, line, percent, print_table, size
from onnxprune.runtime.metrics import shown

_INSPECTION = [
    Column("weight", right=False), Column("kind", 5, right=False), Column("shape"), Column("type", 3, right=False),
    Column("std", 2), Column("zeros", 6), Column("bytes"), Column("stored as", 4, right=False),
    Column("left alone", 1, right=False),
]  # fmt: skip


def show_inspection(console: Console, rows: list[dict[str, Any]]) -> None:
    """Every weight with what is known of it."""
    print_table(console, _INSPECTION, [_inspection_row(row) for row in rows])
    total = sum(r["bytes"] for r in rows)
    line(console, f"{len(rows)} tensors, {sum(r['total'] for r in rows):,} parameters, {size(total)}")


def _inspection_row(row: dict[str, Any]) -> list[str]:
    std = row.get("std")
    return [
        row["name"],
        row["kind"],
        "x".join(map(str, row["shape"])),
        row["dtype"],
        "" if std is None else f"{std:.3g}",
        percent(row["zeros"], row["total"]),
        size(row["bytes"]),
        row["encoding"],
        row.get("left_alone") or "",
    ]


_COSTS = [
    Column("layer", right=False), Column("kind", 1, right=False), Column("weights", 4), Column("bytes", 2),
    Column("FLOP"), Column("weight %", 5), Column("act %", 6), Column("FLOP %"), Column("ms", 3),
]  # fmt: skip


def show_costs(console: Console, costs: Costs) -> None:
    """Every layer, the sums, and where time goes that belongs to no layer."""
    total = costs.total
    rows = [
        [
            ", ".join(layer.weights) or layer.name,
            layer.kind,
            f"{layer.parameters:,}",
            size(layer.bytes),
            "-" if layer.flops is None else _operations(layer.flops),
            *(_share(share) for share in (layer.weight_share, layer.act_share, layer.flop_share)),
            "-" if layer.latency_ms is None else f"{layer.latency_ms:.3f}",
        ]
        for layer in costs.layers
    ]
    shares = (total.weight_share, total.act_share, total.flop_share)
    rows.append(
        ["total", "", f"{total.parameters:,}", size(total.bytes), _operations(total.flops), *map(_share, shares),
         f"{total.layers_ms:.3f}"]
    )  # fmt: skip
    print_table(console, _COSTS, rows)
    if total.measured_flops < total.flops:
        line(console, f"FLOP % is known for {percent(total.measured_flops, total.flops)} of the operations", "yellow")
    inputs = "samples of --data" if costs.source == "data" else "synthesised inputs (--data says more)"
    line(console, f"shares measured on {costs.samples} {inputs}")
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in costs.inputs.items())
    others = ", ".join(f"{kind} {ms:.3f}" for kind, ms in list(costs.other_ms.items())[:6])
    line(
        console,
        f"a run ({shapes}) takes {total.latency_ms:.3g} ms; its nodes, profiled: layers {total.layers_ms:.3g}, "
        f"others {total.other_ms:.3g} ms"
        + (f" ({others}{' ...' if len(costs.other_ms) > 6 else ''})" if others else ""),
    )


def _operations(count: int) -> str:
    """Operations as people write them."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:,.4g} {unit}"
    return str(count)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


_COMPATIBILITY = [
    Column("form", right=False), Column("weights"), Column("opset", 1), Column("onnxruntime loads"),
    Column("fast from"), Column("OpenVINO", right=False),
]  # fmt: skip

_NEWER = "newer than 1.32"


def show_compatibility(console: Console, facts: Compatibility) -> None:
    """Every form with what it needs, and what to do where that is missing."""
    versions = f"opset {facts.opset}, IR version {facts.ir_version}"
    if not facts.forms:
        line(console, f"No weight is encoded. {versions}: onnxruntime {facts.loads or _NEWER} loads it.")
        return
    rows = [
        [f.form, str(f.weights), str(f.opset), f.loads or _NEWER, f.fast or _NEWER, f.openvino] for f in facts.forms
    ]
    print_table(console, _COMPATIBILITY, rows)
    console.print()
    line(console, f"{versions}: onnxruntime {facts.loads or _NEWER} loads it, {facts.fast or _NEWER} runs it fast.")
    late = [f.form for f in facts.forms if f.fast != f.loads]
    if any("int8-dynamic" in form for form in late):
        line(console, "Before 1.25 onnxruntime multiplies int8-dynamic wrong on processors with AMX.", "yellow")
    if any("int8-dynamic" not in form for form in late):
        line(
            console,
            f"Before {facts.fast} weights for MatMul are dequantised at every inference, many times slower than dense: "
            "for such a release compress with --values shared:4.",
            "yellow",
        )
    for note in dict.fromkeys(f.note for f in facts.forms if f.note):
        line(console, f"{note}.", "yellow")
    line(console, "Leave the session's graph optimisation on: without it every inference decodes.")
    others = [name for name in releases() if name not in facts.targets]
    line(console, f"Read right and no slower by: {', '.join(facts.targets) or 'none that was measured'}.")
    if others:
        line(console, f"For {', '.join(others)} encode again with --target NAME.")
    if facts.wrong:
        line(console, f"{', '.join(facts.wrong)}: other numbers for what is in this file, without an error.", "yellow")
    line(console, "For other runtimes write dense weights: onnxprune decode MODEL -o OUT", "dim")


def show_decoding(console: Console, found: Decoding) -> None:
    """Each encoded weight with what this ONNX Runtime does with it, and the time of a run."""
    console.print()
    what = {
        "decoded at load": found.folded, "read as integers": found.fused, "decoded row by row": found.gathered,
        "decoded at each run": found.each_run,
    }  # fmt: skip
    rows = [[name, said] for said, names in what.items() for name in names]
    release = version("onnxruntime")
    print_table(console, [Column("weight", right=False), Column(f"onnxruntime {release}", right=False)], rows)
    show_speed(console, found)


def show_curves(console: Console, curves: Curves) -> None:
    """The metric by layer and level."""
    levels = [p.sparsity for p in curves.layers[0].points]
    columns = [Column("layer", right=False), Column(curves.of, len(levels) + 1)]
    columns += [Column(f"{100 * s:g} %", len(levels) - i) for i, s in enumerate(levels)]
    rows = [[c.name, f"{c.size:,}", *(f"{p.metric:.5g}" for p in c.points)] for c in curves.layers]
    print_table(console, columns, rows)
    on = f" on {curves.samples:,} samples" if curves.samples else ""
    line(console, f"{curves.metric} with one layer pruned; as it is {shown(curves.metric, curves.baseline)}{on}")
