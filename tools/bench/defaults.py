"""Where the processor time of `compress` with no options goes, phase by phase.

Networks of the onnx package with random weights (tools/fill_light.py), one thread, no
verification. The phases are functions of onnxprune, timed from outside: each moment belongs to the
innermost of them.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import arguments, made
from .phases import REST, START, TOTAL, Clock
from .processes import measure, work, worker
from .results import Results, Row, by_model, name_of, table

NETWORKS = ("densenet121", "resnet50")


def functions() -> dict[str, tuple[Callable[..., Any], ...]]:
    """What each phase spends its time in."""
    from onnxprune.allocation.measurement import measure as measured
    from onnxprune.allocation.noise_counts import noise_counts
    from onnxprune.allocation.synthetic_feedback import synthetic_feedback
    from onnxprune.api.result import file_facts
    from onnxprune.encodings.inventory import inspect_model, weight_facts
    from onnxprune.encodings.opset import raise_for
    from onnxprune.encodings.smallest import Encoder
    from onnxprune.encodings.values.rounding import loss_of
    from onnxprune.model.model import Model
    from onnxprune.quantization.codebook import fit_codebooks
    from onnxprune.quantization.error_feedback import Feedback
    from onnxprune.quantization.histogram import Histogram
    from onnxprune.quantization.rounding import balance, encode
    from onnxprune_passes.dead_neurons import DeadNeurons

    return {
        "codebooks of all pairs": (fit_codebooks,),
        "histograms": (Histogram.of,),
        "curves: scales, bytes, channels": (measured,),
        "noise that reaches the outputs": (noise_counts,),
        "what layers read of synthesised inputs": (synthetic_feedback,),
        "codes, by error feedback too": (encode, Feedback.round_each),
        "balance of errors": (balance,),
        "check against the plan": (loss_of,),
        "candidates, packing": (Encoder.store,),
        "raise the opset": (raise_for,),
        "look for dead neurons": (DeadNeurons.run,),
        "facts of the weights, gzip sizes": (inspect_model, weight_facts, file_facts),
        "open and write": (Model.load, Model.write),
    }


def profiled(model: str, out: str) -> dict[str, float]:
    """Compress in this process: processor seconds by phase."""
    clock = Clock(time.process_time)
    builtins.__import__ = clock.timed(START, builtins.__import__)
    importlib.import_module = clock.timed(START, importlib.import_module)
    with clock.phase(START):
        from onnxprune.cli import main

        importlib.import_module("onnxprune.api.compress")
        phases = functions()
        for name, held in phases.items():
            for function in held:
                clock.watch(name, function)
    sys.argv = ["onnxprune", "compress", model, "-o", out, "--no-verify", "--quiet", "--jobs", "1"]
    with clock.phase(REST):
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    return {name: clock.seconds[name] for name in (START, *phases, REST)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS, metavar="NAME",
                        help=f"of the onnx package: {', '.join(NETWORKS)}")  # fmt: skip
    parser.add_argument("--model", nargs="*", type=Path, default=(), metavar="FILE", help="others")
    arguments.add_runs(parser, "runs, of which the one of least time is shown")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """A row for each phase of each model, and for the whole; the runs of all rows of a model are the same."""
    filled, answer, out = folder / "network.onnx", folder / "answer.json", folder / "out.onnx"
    for source in (*options.network, *options.model):
        model, name = (source, name_of(source)) if isinstance(source, Path) else (filled, source)
        if model is filled:
            work(made.network, filled, name)
        rows: dict[str, Row] = {}
        for turn in range(options.runs):
            print(f"{name}: run {turn + 1} of {options.runs}", file=sys.stderr)
            whole = measure(worker(profiled, model, out), answer)
            if whole.problem:
                raise SystemExit(f"Error: {name}: {whole.problem}")
            phases = json.loads(answer.read_text(encoding="utf-8"))
            phases[START] += whole.cpu - sum(phases.values())
            for phase, seconds in (phases | {TOTAL: whole.cpu}).items():
                rows.setdefault(phase, Row(name, phase, read=model.stat().st_size)).cpu.append(seconds)
        rows[TOTAL].bytes = out.stat().st_size
        found.rows += rows.values()
        yield


def shown(rows: Sequence[Row]) -> str:
    """Markdown, of each model's run of least time: a phase a row, its seconds and its share."""
    models, cells = list(by_model(rows).items()), {}
    for _, own in models:
        whole = next(row for row in own if row.tool == TOTAL).cpu
        turn = min(range(len(whole)), key=whole.__getitem__)
        for row in own:
            share = f"{100 * row.cpu[turn] / whole[turn]:.0f} %"
            cells.setdefault(row.tool, []).extend([f"{row.cpu[turn]:.2f}", share])
    first = {row.tool: max(row.cpu) for row in models[0][1]}
    order = sorted(cells, key=lambda phase: (phase == TOTAL, -first[phase]))
    head = ["processor time, one thread", *(text for name, _ in models for text in (f"{name}, s", "share"))]
    return table(head, [[phase, *cells[phase]] for phase in order])
