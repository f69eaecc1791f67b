"""Latency of models against what `compress` makes of them with no options.

Both run in turn within one process on one synthesised sample; free dimensions of text models take
--tokens. The table shows the medians of the rounds, and the median of their ratios.
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

from . import arguments
from .peers import COMPRESS
from .processes import work
from .results import DENSE, Results, Row, by_model, name_of, table

REPEATS = 5  # runs whose median is the time of a round


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    arguments.add_models(parser, "those of models/ and models/fetched/")
    parser.add_argument("--tokens", type=arguments.positive, default=64, metavar="N", help="default 64")
    parser.add_argument("--rounds", type=arguments.positive, default=15, metavar="N", help="default 15")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure one model after the other."""
    for path in options.model or known_models.present():
        name, small = name_of(path), folder / "small.onnx"
        print(name, file=sys.stderr)
        rounds = work(timed, path, small, options.tokens, options.rounds)
        for tool, file, seconds in zip((DENSE, COMPRESS), (path, small), zip(*rounds, strict=True), strict=True):
            found.rows.append(
                Row(name, tool, read=path.stat().st_size, seconds=list(seconds), bytes=file.stat().st_size)
            )
        yield


def timed(model: str, small: str, tokens: int, rounds: int) -> list[tuple[float, float]]:
    """Compress a model to `small`; the seconds of one run of both, round by round."""
    import numpy as np

    import onnxprune
    from onnxprune.model.model import Model
    from onnxprune.runtime.session import open_session
    from onnxprune.runtime.synthetic_inputs import synthesise

    onnxprune.compress(model, small, verify=False)
    dense, result = open_session(model), open_session(small)
    feeds = dict(synthesise(Model.load(model), dense, 1).feeds[0])
    if "input_ids" in feeds:
        feeds = {name: np.resize(array, (1, tokens)) for name, array in feeds.items()}
    return [(_seconds(dense, feeds), _seconds(result, feeds)) for _ in range(rounds)]


def _seconds(session: Any, feeds: dict[str, Any]) -> float:
    """One run, the median of a few."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        session.run(None, feeds)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def shown(rows: Sequence[Row]) -> str:
    """A line for each model."""
    lines = []
    for name, (dense, small) in by_model(rows).items():
        ratio = statistics.median(b / a for a, b in zip(dense.seconds, small.seconds, strict=True))
        lines.append([name, f"{1000 * dense.time:.3f}", f"{1000 * small.time:.3f}", f"{ratio:.2f}"])
    return table(["model", "dense ms", "compressed ms", "ratio"], lines)
