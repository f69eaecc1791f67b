"""Channels and dead neurons that `strip` removes: parameters, operations, latency.

Of each model the channels with the smallest L1 norm go; of the onnx package's networks (random
weights) also dead ones, after some channels of every Conv and Gemm were killed, half by zero inputs
and half by zero outputs. Before and after run in turn on one thread; the table shows medians of
processor time, which other work hardly moves. Operations are the share that remains. The error is
the relative L2 of the outputs, where these must not change.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import known_models

from . import arguments, made
from .processes import work
from .results import DENSE, Results, Row, by_model, name_of, table

REPEATS = 3  # runs whose mean is the time of a round
NETWORKS = (
    "resnet50", "densenet121", "inception_v1", "inception_v2", "squeezenet", "shufflenet", "vgg19", "bvlc_alexnet",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS, metavar="NAME",
                        help=f"of the onnx package: {', '.join(NETWORKS)}")  # fmt: skip
    arguments.add_models(parser, "those of models/ and models/fetched/")
    parser.add_argument("--channels", type=float, default=0.3, metavar="SHARE", help="that is removed (default 0.3)")
    parser.add_argument("--dead", type=float, default=0.3, metavar="SHARE", help="that is killed (default 0.3)")
    parser.add_argument("--multiple", type=arguments.positive, metavar="N",
                        help="keep a multiple of N channels (default: 4 behind convolutions)")  # fmt: skip
    parser.add_argument("--rounds", type=arguments.positive, default=5, metavar="N", help="default 5")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure one model after the other."""
    made_one, dead = folder / "network.onnx", folder / "dead.onnx"
    rule = {"channels": options.channels}

    def rows(name: str, tool: str, source: Path, rule: dict[str, float]) -> list[Row]:
        print(f"{name}: {tool}", file=sys.stderr)
        facts = work(stripped, source, folder / "out.onnx", rule | {"multiple": options.multiple}, options.rounds)
        before, after = zip(*facts.pop("rounds"), strict=True)
        weights = facts.pop("parameters")
        return [
            Row(name, DENSE, weights["before"], cpu=list(before)),
            Row(name, tool, weights["after"], cpu=list(after), facts=facts),
        ]

    for name in options.network:
        work(made.network, made_one, name)
        found.rows += rows(name, f"channels {options.channels:g}", made_one, rule)
        work(killed, made_one, dead, options.dead)
        found.rows += rows(f"{name}, {100 * options.dead:.0f} % dead", "dead neurons", dead, {})
        yield
    for path in known_models.present() if options.model is None else options.model:
        found.rows += rows(name_of(path), f"channels {options.channels:g}", path, rule)
        yield


# workers --------------------------------------------------------------------------------------------


def killed(model: str, out: str, share: float) -> None:
    """Write the model with dead channels."""
    import onnx

    proto = onnx.load(model)
    kill(proto, share)
    onnx.save(proto, out)


def kill(model: Any, share: float, seed: int = 0) -> None:
    """Zero the incoming weights of some channels of each layer, and the outgoing ones of as many inputs."""
    import numpy as np
    from onnx import numpy_helper

    rng = np.random.default_rng(seed)
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in tensors:
            continue
        tensor = tensors[node.input[1]]
        array = numpy_helper.to_array(tensor).copy()
        for axis in (0, 1):
            if array.shape[axis] > 4:
                places = rng.choice(array.shape[axis], int(share / 2 * array.shape[axis]), replace=False)
                array[(slice(None),) * axis + (places,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def stripped(source: str, target: str, rule: dict[str, float], rounds: int) -> dict[str, Any]:
    """Strip a model.

    Returns:
        `parameters` before and after, the share of `operations` that remains, the largest relative L2 `error` of an
        output, or None where outputs may change, and the processor seconds of both in each of the `rounds`.
    """
    import onnx

    import onnxprune

    result = onnxprune.strip(source, target, samples=2, **rule)
    onnx.checker.check_model(target, full_check=True)
    flops = result.cost.flops if result.cost is not None else {"before": 1, "after": 1}
    errors = [] if "channels" in rule else [o["relative_l2"] or 0.0 for o in result.deviation.outputs]
    return {
        "parameters": result.parameters,
        "operations": flops["after"] / flops["before"],
        "error": max(errors, default=None),
        "rounds": _timed(source, target, rounds),
    }


def _timed(before: str, after: str, rounds: int) -> list[list[float]]:
    """Processor seconds of a run on one thread, before and after, in turn; the first round warms up."""
    import onnxruntime as ort

    from onnxprune.model.model import Model
    from onnxprune.runtime.session import open_session, run
    from onnxprune.runtime.synthetic_inputs import synthesise

    sessions = []
    for path in (before, after):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        sessions.append(open_session(path, options=options))
    feeds = synthesise(Model.load(before), sessions[0], 1).feeds[0]
    pairs = []
    for _ in range(rounds + 1):
        pair = []
        for session in sessions:
            start = time.process_time()
            for _ in range(REPEATS):
                run(session, feeds)
            pair.append((time.process_time() - start) / REPEATS)
        pairs.append(pair)
    return pairs[1:]


# what is printed ------------------------------------------------------------------------------------


def shown(rows: Sequence[Row]) -> str:
    """A line for each model and what was removed of it."""
    lines = []
    for name, (before, after) in by_model(rows).items():
        one, two = (1000 * statistics.median(row.cpu) for row in (before, after))
        ratio = statistics.median(b / a for a, b in zip(before.cpu, after.cpu, strict=True))
        size = f"{before.weights / 1e6:.2f} -> {after.weights / 1e6:.2f} M"
        operations, error = f"{after.facts['operations']:.2f}", after.facts["error"]
        shown_error = "-" if error is None else f"{error:.1e}"
        lines.append([name, after.tool, size, operations, f"{one:.2f} -> {two:.2f}", f"{ratio:.2f}", shown_error])
    return table(["model", "removed", "parameters", "operations", "CPU ms", "ratio", "error"], lines)
