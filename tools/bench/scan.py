"""A sensitivity scan in one process, in two, and on a dask cluster of two workers.

LeNet-5 on MNIST's 10,000 test images at 10 levels: 40 trials, one thread a process. It needs
`python tools/fetch_models.py mnist` and the cluster extra. The three take turns and must write the
same curves. The cluster is started before the clock: what it adds is its scheduling.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import arguments, made
from .processes import work
from .results import Results, Row, bar, table

MODEL = made.MODELS / "lenet-5.onnx"
ONE, TWO, CLUSTER = "one process", "two processes", "a cluster of two"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("--data", type=Path, metavar="FILE", help="samples with `targets`, instead of MNIST's")
    parser.add_argument("--samples", type=arguments.positive, default=10_000, metavar="N", help="default 10000")
    parser.add_argument("--rounds", type=arguments.positive, default=3, metavar="N", help="default 3")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure all rounds."""
    data = options.data
    if data is None:
        data = folder / "mnist.npz"
        work(test_images, data)
    seconds, same = work(scanned, data, options.samples, options.rounds, folder)
    found.rows = [Row(MODEL.stem, way, seconds=held) for way, held in seconds.items()]
    found.bars = [bar(same, "all scans write the same curves, byte for byte")]
    yield


def test_images(out: str) -> None:
    """Write MNIST's test images and labels."""
    import mnist
    import numpy as np

    images, labels = mnist.load("t10k")
    np.savez(out, image=images, targets=labels)


def scanned(data: str, samples: int, rounds: int, folder: str) -> tuple[dict[str, list[float]], bool]:
    """The seconds of each way to scan, round by round, and whether all curves are the same."""
    import os
    import time

    os.environ["OMP_NUM_THREADS"] = "1"  # of the cluster's workers, as of each process of a scan
    from distributed import LocalCluster

    from onnxprune.search import sensitivity

    curves = set()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        ways = {ONE: {"jobs": 1}, TWO: {"jobs": 2}, CLUSTER: {"cluster": cluster.scheduler_address}}
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, how in ways.items():
                out = Path(folder, "scan.json")
                start = time.perf_counter()
                sensitivity.scan(MODEL, out, data=data, samples=samples, **how)
                found[way].append(time.perf_counter() - start)
                curves.add(out.read_bytes())
                out.unlink()
    return found, len(curves) == 1


def shown(rows: Sequence[Row]) -> str:
    """Medians, each round, and the medians of the ratios to two processes in the same round."""
    by = {row.tool: row.seconds for row in rows}
    lines = []
    for row in rows:
        ratios = [a / b for a, b in zip(row.seconds, by[TWO], strict=True)]
        each = ", ".join(f"{seconds:.1f}" for seconds in row.seconds)
        lines.append([row.tool, f"{row.time:.1f}", each, f"{statistics.median(ratios):.2f}x"])
    return table([rows[0].model, "seconds", "of each round", "of two processes' time"], lines)
