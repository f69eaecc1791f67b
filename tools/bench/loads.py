"""What loading and running a file is like, measured in fresh processes that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from .processes import high_water, work

LATENCY_RUNS = 20


def load(path: str, feeds: Mapping[str, str]) -> dict[str, float]:
    """Open a model in this process and run it.

    Args:
        path: the model.
        feeds: the name of a latency, in ms, and the .npz file of what is fed for it.

    Returns:
        `load_seconds` to a session, `load_peak_bytes` that it adds to the peak of the memory, and the median of
        `LATENCY_RUNS` runs for each of `feeds`.
    """
    import numpy as np

    from onnxprune.runtime.session import open_session

    arrays = {}
    for name, file in feeds.items():
        with np.load(file) as held:
            arrays[name] = dict(held)
    before, start = high_water(), time.perf_counter()
    session = open_session(path)
    found: dict[str, float] = {"load_seconds": time.perf_counter() - start, "load_peak_bytes": high_water() - before}
    for name, fed in arrays.items():
        session.run(None, fed)
        runs = []
        for _ in range(LATENCY_RUNS):
            start = time.perf_counter()
            session.run(None, fed)
            runs.append(1000 * (time.perf_counter() - start))
        found[name] = statistics.median(runs)
    return found


def in_turn(files: Mapping[str, Path], feeds: Mapping[str, Path], runs: int) -> dict[str, dict[str, float]]:
    """What `load` finds of each file, by its name: medians of `runs` processes each."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    given = {name: str(file) for name, file in feeds.items()}
    for _ in range(runs):
        for name, path in files.items():
            found[name].append(work(load, path, given))
    return {
        name: {key: statistics.median(load[key] for load in loads) for key in loads[0]} for name, loads in found.items()
    }
