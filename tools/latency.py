"""Latency of models against what `compress` makes of them with no options, in turn within one process.

python tools/latency.py [MODEL ...] [--tokens N] [--rounds N]

Without models, those of models/ and models/fetched/. Inputs are synthesised, one sample; free dimensions of text models
take --tokens. Each round times every model's original and result after each other; the table shows medians and the
median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

REPEATS = 5


def timed(session: Any, feeds: Any) -> float:
    """Milliseconds of one run, the median of a few."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        session.run(None, feeds)
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    import known_models
    import numpy as np

    import onnxprune
    from onnxprune.model import Model
    from onnxprune.runtime import open_session
    from onnxprune.synthesis import synthesise

    models = options.models or known_models.present()
    print("| model | dense ms | compressed ms | ratio |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        for path in models:
            onnxprune.compress(path, small, verify=False)
            dense, result = open_session(path), open_session(small)
            feeds = dict(synthesise(Model.load(path), dense, 1)[0])
            if "input_ids" in feeds:
                feeds = {name: np.resize(array, (1, options.tokens)) for name, array in feeds.items()}
            pairs = [(timed(dense, feeds), timed(result, feeds)) for _ in range(options.rounds)]
            one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"| {path.stem} | {one:.3f} | {two:.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
