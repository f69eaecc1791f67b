"""What a person reads: rich tables, and a closing line that promises nothing that was not measured."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxprune.batch import DONE, FAILED, MISSED, SKIPPED, Batch
from onnxprune.compatibility import Compatibility
from onnxprune.curves import Curves
from onnxprune.errors import OutputError
from onnxprune.files import staged, write
from onnxprune.layer_costs import Costs
from onnxprune.maskfile import MaskFile
from onnxprune.metrics import UNITS
from onnxprune.result import Cost, Deviation, Result, WeightFacts
from onnxprune.rounds import Iteration
from onnxprune.search import Searched

_ROWS = 40  # weights shown on a terminal; --json has all of them


def size(count: int) -> str:
    """Bytes as people write them (1 MB = 1,000,000 bytes)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def percent(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


@dataclass(frozen=True)
class _Column:
    """A column of a table; on a narrow terminal those of lowest rank go first, rank 0 never."""

    title: str
    rank: int = 0
    right: bool = True


_NAME = 16  # characters of a name below which the table would rather lose a column


def _print_table(console: Console, columns: list[_Column], rows: list[list[str]]) -> None:
    """A table that fits the terminal: numbers stay whole, names lose their middle."""
    widths = [max(map(len, (c.title, *(row[i] for row in rows)))) for i, c in enumerate(columns)]
    shown = list(range(len(columns)))
    while _room(console, widths, shown) < min(_NAME, widths[0]) and any(columns[i].rank for i in shown):
        shown.remove(min((i for i in shown if columns[i].rank), key=lambda i: columns[i].rank))
    room = max(_room(console, widths, shown), 4)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i in shown:
        table.add_column(columns[i].title, justify="right" if columns[i].right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(shortened(row[i], room) if i == 0 else row[i]) for i in shown))
    console.print(table)


def _room(console: Console, widths: list[int], shown: list[int]) -> int:
    """Characters that are left for the first column."""
    return console.width - sum(widths[i] + 2 for i in shown[1:]) - 1


def shortened(name: str, room: int) -> str:
    """The name with its middle left out: what tells weights apart stands at the end."""
    if len(name) <= room:
        return name
    head = (room - 1) // 3
    return f"{name[:head]}…{name[len(name) - (room - 1 - head) :]}"


_RESULT = [
    _Column("weight", right=False), _Column("shape", 2), _Column("zeros"), _Column("asked", 1),
    _Column("stored as", 4, right=False), _Column("before", 3), _Column("after"),
]  # fmt: skip
_INSPECTION = [
    _Column("weight", right=False), _Column("kind", 5, right=False), _Column("shape"), _Column("type", 3, right=False),
    _Column("std", 2), _Column("zeros", 6), _Column("bytes"), _Column("stored as", 4, right=False),
    _Column("left alone", 1, right=False),
]  # fmt: skip

_COMPATIBILITY = [
    _Column("form", right=False), _Column("weights"), _Column("opset", 1), _Column("onnxruntime loads"),
    _Column("fast from"), _Column("OpenVINO", right=False),
]  # fmt: skip
_COSTS = [
    _Column("layer", right=False), _Column("kind", 1, right=False), _Column("weights", 4), _Column("bytes", 2),
    _Column("FLOP"), _Column("weight %", 5), _Column("act %", 6), _Column("FLOP %"), _Column("ms", 3),
]  # fmt: skip
_MASKS = [
    _Column("parameter", right=False), _Column("shape"), _Column("asked", 2), _Column("reached"), _Column("below", 1),
    _Column("ONNX weight", 4, right=False), _Column("transform", 3, right=False),
]  # fmt: skip
_ROUNDS = [
    _Column("round"), _Column("asked", 1), _Column("zeros"), _Column("non-zeros"), _Column("returned", 2),
    _Column("metric"), _Column("within"),
]  # fmt: skip
_BATCH = [
    _Column("model", right=False), _Column("", 1, right=False), _Column("before", 4), _Column("after"),
    _Column("smaller"), _Column("zeros", 3), _Column("verified", 2),
]  # fmt: skip
_NEWER = "newer than 1.32"


def show_result(console: Console, result: Result) -> None:
    """The table of weights, what was left alone, and the closing lines."""
    if result.weights:
        largest = {id(w) for w in sorted(result.weights, key=lambda w: -w.bytes_before)[:_ROWS]}
        rows = [
            [
                weight.name,
                _shape(weight),
                percent(weight.zeros, weight.total),
                "" if weight.requested is None else f"{100 * weight.requested:.1f} %",
                weight.encoding,
                size(weight.bytes_before),
                size(weight.bytes_after),
            ]
            for weight in result.weights
            if id(weight) in largest
        ]
        _print_table(console, _RESULT, rows)
        if len(result.weights) > _ROWS:
            console.print(f"... and {len(result.weights) - _ROWS} smaller weights (--json lists all)")
        console.print()
    _show_skipped(console, result.skipped)
    for note in result.notes[:8]:
        _line(console, f"note: {note}", "yellow")
    _show_closing(console, result)


def _shape(weight: WeightFacts) -> str:
    after = "x".join(map(str, weight.shape_after))
    before = "x".join(map(str, weight.shape))
    return after if after == before else f"{before} -> {after}"


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
    _line(console, f"  on disk     {size(before.bytes)} -> {size(after.bytes)}  ({_smaller(result.ratio)})")
    _line(console, f"  gzipped     {size(before.gzip_bytes)} -> {size(after.gzip_bytes)}")
    _line(
        console, f"  parameters  {counts['after']:,}, of which {zeros:,} are zero ({percent(zeros, counts['after'])})"
    )
    show_deviation(console, result.deviation)
    if result.search is not None:
        _show_search(console, result.search)
    if result.cost is not None:
        _show_cost(console, result.cost)
    if result.integers:
        what = "1 matrix is" if result.integers == 1 else f"{result.integers} matrices are"
        _line(
            console, f"  speed       {what} read as integers from onnxruntime 1.25 on; before, slower than dense", "dim"
        )
    elif zeros and result.cost is None:
        _line(console, "  speed       unchanged: onnxruntime computes with zeros as with any other number", "dim")


def _smaller(ratio: float) -> str:
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"


def _show_search(console: Console, found: Searched) -> None:
    unit, ended = UNITS.get(found.metric, ""), "" if found.complete else ", ended by the time limit"
    chosen = f"a loss of {found.loss:.3g} is within the drop of {found.max_drop:g}"
    _line(console, f"  searched    {found.trials} trials{ended}; {chosen}")
    for half, what in ((found.decided, "decided"), (found.held_out, "held out")):
        if half is not None:
            on = f" on {half.samples:,} samples" if half.samples else ""
            text = f"{found.metric} {half.original:.6g}{unit} -> {half.result:.6g}{unit}{on}"
            answer = f", where one is {100 / half.samples:.2g} points" if unit == " %" and half.samples else ""
            _line(console, f"              {what}: {text}{answer}")


def _show_cost(console: Console, cost: Cost) -> None:
    before, after = cost.flops["before"], cost.flops["after"]
    if before:
        _line(
            console, f"  operations  {before / 1e6:,.4g} -> {after / 1e6:,.4g} MFLOP a run ({percent(after, before)})"
        )
    slow, fast = cost.latency_ms["before"], cost.latency_ms["after"]
    _line(console, f"  latency     {slow:.3g} -> {fast:.3g} ms a run, measured here ({percent(fast, slow)})")


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
    judged = deviation.metric
    if judged is not None:
        unit = UNITS.get(judged.metric, "")
        _line(console, f"  {judged.metric:11s} {judged.original:.6g}{unit} -> {judged.result:.6g}{unit}")


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
    _print_table(console, _INSPECTION, [_inspection_row(row) for row in rows])
    total = sum(r["bytes"] for r in rows)
    _line(console, f"{len(rows)} tensors, {sum(r['total'] for r in rows):,} parameters, {size(total)}")


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
    _print_table(console, _COSTS, rows)
    if total.measured_flops < total.flops:
        _line(console, f"FLOP % is known for {percent(total.measured_flops, total.flops)} of the operations", "yellow")
    inputs = "samples of --data" if costs.source == "data" else "synthesised inputs (random: --data says more)"
    _line(console, f"shares measured on {costs.samples} {inputs}")
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in costs.inputs.items())
    others = ", ".join(f"{kind} {ms:.3f}" for kind, ms in list(costs.other_ms.items())[:6])
    _line(
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


def show_compatibility(console: Console, facts: Compatibility) -> None:
    """Every form with what it needs, and what to do where that is missing."""
    versions = f"opset {facts.opset}, IR version {facts.ir_version}"
    if not facts.forms:
        _line(console, f"No weight is encoded. {versions}: onnxruntime {facts.loads or _NEWER} loads it.")
        return
    rows = [
        [f.form, str(f.weights), str(f.opset), f.loads or _NEWER, f.fast or _NEWER, f.openvino] for f in facts.forms
    ]
    _print_table(console, _COMPATIBILITY, rows)
    console.print()
    _line(console, f"{versions}: onnxruntime {facts.loads or _NEWER} loads it, {facts.fast or _NEWER} runs it fast.")
    if facts.fast != facts.loads:
        _line(
            console,
            f"Before {facts.fast} weights for MatMul are dequantised at every inference, many times slower than dense: "
            "for such a release compress with --values shared:4.",
            "yellow",
        )
    for note in dict.fromkeys(f.note for f in facts.forms if f.note):
        _line(console, f"{note}.", "yellow")
    _line(console, "Leave the session's graph optimisation on: without it every inference decodes.")
    _line(console, "For other runtimes write dense weights: onnxprune decode MODEL -o OUT", "dim")


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
    _print_table(console, _MASKS, rows)
    kept, total = sum(int(m.sum()) for m in masks.masks.values()), sum(m.size for m in masks.masks.values())
    others = len(masks.parameters) - len(rows)
    _line(console, f"{len(rows)} masks keep {kept:,} of {total:,} entries; {others} more parameters are named")
    _line(console, f"pruned from a model with SHA-256 {masks.model}", "dim")


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
    _print_table(console, _ROUNDS, rows)
    for note in result.notes[:8]:
        _line(console, f"note: {note}", "yellow")
    chosen = result.rounds[result.chosen - 1]
    _line(console, result.output, "bold")
    _line(
        console,
        f"  round {chosen.number}: {chosen.nonzero:,} of {result.parameters:,} parameters are not zero "
        f"({result.parameters / max(chosen.nonzero, 1):.1f}x fewer); its masks are {chosen.masks}",
    )
    _line(console, f"  store it small: onnxprune compress {result.output} --sparsity 0", "dim")


def show_batch(console: Console, batch: Batch) -> None:
    """Every model that has a result, and the counts."""
    results = [(model, model.result) for model in batch.models if model.result is not None]
    before, after = (sum(result[side]["bytes"] for _, result in results) for side in ("input", "output"))
    largest = {model.path for model, _ in sorted(results, key=lambda r: -r[1]["input"]["bytes"])[:_ROWS]}
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
        _print_table(console, _BATCH, rows)
        if len(results) > _ROWS:
            console.print(f"... and {len(results) - _ROWS} smaller models (--json lists all)")
        console.print()
        _line(console, f"{size(before)} -> {size(after)}  ({_smaller(before / after)})")
    counts = {state: batch.count(state) for state in (DONE, SKIPPED, MISSED, FAILED)}
    told = ", ".join(f"{count} {_STATES[state]}" for state, count in counts.items() if count)
    _line(console, f"{len(batch.models)} models: {told}", "bold")


_STATES = {
    DONE: "done", SKIPPED: "skipped because they are done", MISSED: "missed the tolerance", FAILED: "failed"
}  # fmt: skip


def _worst(deviation: dict[str, Any]) -> str:
    """The output that differs most, in one word."""
    if deviation["source"] == "none":
        return "no"
    outputs = deviation["outputs"]
    if any(output["max_abs"] is None for output in outputs):
        return "differs"
    decibels = [output["sqnr_db"] for output in outputs if output["max_abs"]]
    return f"{min(decibels):.1f} dB" if decibels else "equal"


def show_curves(console: Console, curves: Curves) -> None:
    """The metric by layer and level."""
    unit = UNITS.get(curves.metric, "")
    levels = [p.sparsity for p in curves.layers[0].points]
    columns = [_Column("layer", right=False), _Column(curves.of, len(levels) + 1)]
    columns += [_Column(f"{100 * s:g} %", len(levels) - i) for i, s in enumerate(levels)]
    rows = [[c.name, f"{c.size:,}", *(f"{p.metric:.5g}" for p in c.points)] for c in curves.layers]
    _print_table(console, columns, rows)
    on = f" on {curves.samples:,} samples" if curves.samples else ""
    _line(console, f"{curves.metric} with one layer pruned; as it is {curves.baseline:.6g}{unit}{on}")


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


def check_place(path: Path, *models: str | os.PathLike[str] | None) -> None:
    """Raise OutputError, before anything is done, where a file of facts can or may not be written."""
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: it is not a regular file in a folder that exists")
    if path.resolve() in {Path(model).resolve() for model in models if model is not None}:
        raise OutputError(f"{path} is a model: choose another file for --json and --report")


def write_json(path: Path, facts: Any) -> None:
    """The facts as a JSON file, written atomically."""
    with staged(path) as place:
        write(place, [to_json(facts).encode()])
