"""Latency of integers in front of MatMul under options of the session, against dense.

A MatMul of --width x --width is stored as int8 and int4 at opset 17 (a scale per column) and 21
(blocks), and run with one thread under each option, in turn with the dense model; the table shows
medians of processor time over the dense model's in the same round. Options are those of
`SessionOptions.add_session_config_entry`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import arguments
from .processes import work
from .results import Results, Row, by_model, table

OPTIONS = {
    "none": {},
    "disable_quant_qdq=1": {"session.disable_quant_qdq": "1"},
    "qdq_matmulnbits_accuracy_level=1": {"session.qdq_matmulnbits_accuracy_level": "1"},
    "qdq_matmulnbits_block_size=128": {"session.qdq_matmulnbits_block_size": "128"},
    "qdq_matmulnbits_block_size=-1": {"session.qdq_matmulnbits_block_size": "-1"},
}
FORMS = (("int8", 17), ("int8", 21), ("int4", 21))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("--width", type=arguments.positive, default=1024, metavar="N", help="default 1024")
    parser.add_argument(
        "--batch", type=arguments.positive, nargs="+", default=[1, 64], metavar="N", help="default 1 64"
    )
    parser.add_argument("--rounds", type=arguments.positive, default=15, metavar="N", help="default 15")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure one form after the other."""
    for values, opset in FORMS:
        times = work(timed, folder, values, opset, options.width, options.batch, options.rounds)
        for option, by_batch in times.items():
            for batch, ratios in by_batch.items():
                name = f"{values}, opset {opset}"
                found.rows.append(Row(name, option, seconds=[], facts={"batch": int(batch), "ratios": ratios}))
        yield


def timed(
    folder: str, values: str, opset: int, width: int, batches: Sequence[int], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Option -> rows of the input -> processor time over that of the dense model, round by round."""
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from onnxprune.model.model import Model
    from onnxprune_passes import Encode

    rng = np.random.default_rng(0)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"]
    weight = numpy_helper.from_array(rng.standard_normal((width, width), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    dense, small = Path(folder, "dense.onnx"), Path(folder, "small.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), dense)
    model = Model.load(dense)
    Encode(values=values).run(model)
    model.write(small)

    def opened(path: Path, entries: dict[str, str]) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    before = opened(dense, {})
    sessions = {name: opened(small, entries) for name, entries in OPTIONS.items()}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in sessions}
    for batch in batches:
        feeds = {"x": rng.standard_normal((batch, width), np.float32)}
        for _ in range(rounds):
            reference = _seconds(before, feeds)
            for name, session in sessions.items():
                found[name].setdefault(str(batch), []).append(_seconds(session, feeds) / reference)
    return found


def _seconds(session: Any, feeds: dict[str, Any]) -> float:
    """Processor time of a run, the least of a few."""
    found = []
    for _ in range(5):
        start = time.process_time()
        session.run(None, feeds)
        found.append(time.process_time() - start)
    return min(found)


def shown(rows: Sequence[Row]) -> str:
    """A line for each form and batch, a column for each option."""
    lines = []
    for name, held in by_model(rows).items():
        for batch in dict.fromkeys(row.facts["batch"] for row in held):
            here = {row.tool: statistics.median(row.facts["ratios"]) for row in held if row.facts["batch"] == batch}
            lines.append([name, str(batch), *(f"{here[option]:.2f}" for option in OPTIONS if option in here)])
    return table(["form", "rows", *OPTIONS], lines)
