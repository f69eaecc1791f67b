"""What became of a model, and a closing line that promises nothing that was not measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from shlex import quote
from typing import Any

from rich.console import Console

from onnxprune.api.result import Cost, Deviation, Result, Skipped
from onnxprune.encodings.file_contents import MUCH
from onnxprune.encodings.inventory import WeightFacts
from onnxprune.layer_costs.decoding import Decoding
from onnxprune.layer_costs.gain import Gain
from onnxprune.report.deviations import concern, inputs, remarks, sqnr, verdict
from onnxprune.report.terminal.tables import ROWS, Column, line, percent, print_table, size, smaller
from onnxprune.runtime.metrics import MOST_DB, UNITS, shown
from onnxprune.search.budget import Searched
from onnxprune.search.promise import POINTS, Promised
from onnxprune.search.speed import SpeedUp

_REASONS = 6  # that are counted in the line of what was left alone
_SLOWER = 1.1  # times the dense model's time: more than noise

_RESULT = [
    Column("weight", right=False), Column("shape", 2), Column("zeros"), Column("asked", 1),
    Column("stored as", 4, right=False), Column("before", 3), Column("after"),
]  # fmt: skip


def show_result(console: Console, result: Result) -> None:
    """The table of weights, what was left alone, and the closing lines."""
    if result.weights:
        largest = {id(w) for w in sorted(result.weights, key=lambda w: -w.bytes_before)[:ROWS]}
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
        print_table(console, _RESULT, rows)
        if len(result.weights) > ROWS:
            console.print(f"... and {len(result.weights) - ROWS} smaller weights (--json lists all)")
        console.print()
    _show_skipped(console, result.skipped)
    for note in result.notes[:8]:
        line(console, f"note: {note}", "yellow")
    _show_closing(console, result)


def _shape(weight: WeightFacts) -> str:
    after = "x".join(map(str, weight.shape_after))
    before = "x".join(map(str, weight.shape))
    return after if after == before else f"{before} -> {after}"


def _show_skipped(console: Console, skipped: Sequence[Skipped]) -> None:
    if skipped:
        labels = Counter(entry.reason.label or entry.reason.text for entry in skipped)
        text = ", ".join(f"{count} {label}" for label, count in labels.most_common(_REASONS))
        line(console, f"left alone: {text}", "dim")


def _show_closing(console: Console, result: Result) -> None:
    before, after = result.input, result.output
    counts = result.parameters
    zeros = counts["after"] - counts["nonzero"]
    line(console, f"{after.path}", "bold")
    line(console, f"  on disk     {size(before.bytes)} -> {size(after.bytes)}  ({smaller(result.ratio)})")
    _show_contents(console, result.contents)
    line(console, f"  gzipped     {size(before.gzip_bytes)} -> {size(after.gzip_bytes)}")
    line(console, f"  parameters  {counts['after']:,}, of which {zeros:,} are zero ({percent(zeros, counts['after'])})")
    show_deviation(console, result.deviation)
    if result.search is not None:
        _show_search(console, result.search)
    if result.promise is not None:
        _show_promise(console, result.promise)
    if result.cost is not None:
        _show_cost(console, result.cost, narrowed=bool(result.removed))
    if result.speed_up is not None:
        _show_speed_up(console, result.speed_up)
    if result.activations is not None:
        _show_gain(console, result.activations)
    ran = result.deviation.decoding
    timed = result.cost is not None or result.activations is not None or (ran is not None and ran.latency_ms)
    if result.integers and ran is None:
        read = _count(result.integers, "matrix", "matrices")
        text = f"{read} read as integers from onnxruntime 1.25 on; before, slower than dense"
        line(console, f"  speed       {text}", "dim")
    elif zeros and not timed and not result.integers:
        line(console, "  speed       unchanged: onnxruntime computes with zeros as with any other number", "dim")


def _show_contents(console: Console, contents: dict[str, int]) -> None:
    """What the file holds, where much of it is no weight."""
    total, around = sum(contents.values()), {k: v for k, v in contents.items() if k not in ("weights", "embeddings")}
    if sum(around.values()) > MUCH * total:
        parts = ", ".join(f"{name} {size(count)}" for name, count in contents.items() if count)
        advice = " (--strip-metadata drops it)" if contents["metadata"] > MUCH * total else ""
        line(console, f"              {parts}{advice}")


def _show_search(console: Console, found: Searched) -> None:
    ended = "" if found.complete else ", ended by the time limit"
    chosen = f"a loss of {found.loss:.3g} is within the drop of {found.max_drop:g}"
    line(console, f"  searched    {found.trials} trials{ended}; {chosen}")
    for half, what in ((found.decided, "decided"), (found.held_out, "held out")):
        if half is not None:
            on = f" on {half.samples:,} samples" if half.samples else ""
            error = f" (± {half.error:.2g})" if half.error else ""
            before, after = (shown(found.metric, value) for value in (half.original, half.result))
            text = f"{found.metric} {before} -> {after}{error}{on}"
            unit = UNITS.get(found.metric, "")
            answer = f", where one is {100 / half.samples:.2g} points" if unit == " %" and half.samples else ""
            likely = "" if half.expected is None else f"; by margins {half.expected:.4g}{unit}"
            line(console, f"              {what}: {text}{answer}{likely}")


def _show_promise(console: Console, found: Promised) -> None:
    """What was promised, and what the held-out samples say."""
    kept = "kept" if found.kept else "NOT kept: give a smaller --loss, or more data and --max-drop"
    plain = "" if found.attempt.calibrated else ", without calibration"
    equal = found.sqnr is not None and found.sqnr >= MOST_DB
    found_at = ": the outputs are equal" if equal else f" at a loss of {found.attempt.loss:.3g}{plain}"
    text = f"  promise     {kept}, on {found.samples:,} held-out samples{found_at}"
    line(console, text, "" if found.kept else "yellow")
    if found.metric is not None:
        change = f"{found.metric} {found.original:.4g} % -> {found.result:.4g} % of {found.answers:,}"
        one = f", where one is {100 / found.answers:.2g}" if found.answers < 100 / POINTS else ""
        points = "1 point" if found.allowed == POINTS else f"{found.allowed:.2g} points"
        line(console, f"              {change}; {points} allowed{one}")
    if found.expected is not None:
        text = f"by their margins {found.expected:.4g} % of the answers stay; at least {100 - POINTS:g} % wanted"
        line(console, f"              {text}")
    if found.sqnr is not None and not equal:
        text = f"SQNR {found.sqnr:.1f} dB of the worst output; at least {found.least_sqnr:.1f} dB wanted"
        line(console, f"              {text}")


def _show_cost(console: Console, cost: Cost, *, narrowed: bool) -> None:
    before, after = cost.flops["before"], cost.flops["after"]
    if before:
        line(console, f"  operations  {before / 1e6:,.4g} -> {after / 1e6:,.4g} MFLOP a run ({percent(after, before)})")
    slow, fast = cost.latency_ms["before"], cost.latency_ms["after"]
    text = f"{slow:.3g} -> {fast:.3g} ms a run, measured here on one thread ({percent(fast, slow)})"
    line(console, f"  latency     {text}")
    if narrowed and fast > _SLOWER * slow:
        line(
            console,
            "              channels are computed in blocks, which --multiple 8 fills",
            "yellow",
        )


def _show_speed_up(console: Console, found: SpeedUp) -> None:
    """What channels brought, and the options that remove them again without a search."""
    times = f"{found.before:.3g} -> {found.after:.3g} ms of one thread a run, measured here"
    line(console, f"  speed-up    {found.found:.2f}x by {found.trials} trials: {times}")
    if found.shares:
        line(console, f"              the same again: {' '.join(f'--channels {quote(s)}' for s in found.shares)}")


def _show_gain(console: Console, gain: Gain) -> None:
    slow, fast = gain.latency_ms["before"], gain.latency_ms["after"]
    text = f"{slow:.3g} -> {fast:.3g} ms a run in one thread, measured here ({percent(fast, slow)})"
    line(console, f"  integers    {len(gain.layers)} convolutions: {text}")


def show_deviation(console: Console, deviation: Deviation) -> None:
    """One line per output, with where the inputs came from."""
    if deviation.source == "none":
        line(
            console, f"  verified    no{': ' + deviation.reason if deviation.reason else ' (not asked for)'}", "yellow"
        )
        return
    line(console, f"  verified    in onnxruntime on {inputs(deviation)}")
    for output in deviation.outputs[:ROWS]:
        line(console, f"              {output['name']}: {_deviation_text(output, deviation.source)}")
    if concern(deviation):
        line(console, f"              {concern(deviation)}", "yellow")
    judged = deviation.metric
    if judged is not None:
        before, after = (shown(judged.metric, value) for value in (judged.original, judged.result))
        line(console, f"  {judged.metric:11s} {before} -> {after}")
    if deviation.decoding is not None:
        show_speed(console, deviation.decoding)


def show_speed(console: Console, found: Decoding) -> None:
    """What this ONNX Runtime does with the encoded weights, where that costs or saves time in a run."""
    if found.each_run:
        names = ", ".join(f"'{name}'" for name in found.each_run[:ROWS])
        more = ", ..." if len(found.each_run) > ROWS else ""
        line(console, f"  decoded     at every run, by onnxruntime {version('onnxruntime')}: {names}{more}", "yellow")
        line(console, "              encode the dense model again, with --values shared:6 for old releases", "yellow")
    if found.latency_ms:
        slow, fast = found.latency_ms["before"], found.latency_ms["after"]
        did = [f"{_count(len(found.fused), 'matrix', 'matrices')} read as integers"] if found.fused else []
        did += [f"{_count(len(found.gathered), 'table', 'tables')} decoded row by row"] if found.gathered else []
        what = f": {', '.join(did)}" if did else ""
        options = [f"the session option {key}={value} runs it" for key, value in found.unfused.items()]
        otherwise = "--values shared:6 computes" if found.fused or not did else "--encoding dense runs"
        otherwise = next(iter(options), otherwise)
        hint = f"; {otherwise} as before" if found.slower > _SLOWER else ""
        text = f"{slow:.3g} -> {fast:.3g} ms a run, measured here on one thread ({percent(fast, slow)}){what}{hint}"
        line(console, f"  speed       {text}", "yellow" if hint else "")


def _count(count: int, one: str, many: str) -> str:
    return f"1 {one} is" if count == 1 else f"{count} {many} are"


def _deviation_text(output: dict[str, Any], source: str) -> str:
    said = verdict(output, source)
    if said is not None:
        return said
    real = source == "data"
    largest = [] if output["max_abs"] is None else [f"max abs {output['max_abs']:.3g}"]
    far = [] if output["sqnr_db"] is None else [f"SQNR {sqnr(output)}"]
    parts = [*largest, *far] if real else [*far, *largest]
    parts.append(f"cosine {output['cosine']:.5f}")
    if real and output["top1_agreement"] is not None:
        parts.append(f"top-1 agreement {100 * output['top1_agreement']:.2f} %")
    return ", ".join(parts) + remarks(output)
