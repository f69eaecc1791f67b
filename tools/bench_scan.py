"""Time a sensitivity scan in one process, in two, and on a local dask cluster of two workers, in turn.

python tools/bench_scan.py [--samples N] [--rounds N]

LeNet-5 on MNIST's 10,000 test images at 10 levels: 40 trials. Needs `python tools/fetch_models.py mnist` and the
cluster extra. All three write the same curves, which is checked. The cluster is started before the clock: what it
adds is its scheduling.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "models" / "lenet-5.onnx"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # each worker is one thread, as each process of a scan
    import mnist
    import numpy as np
    from distributed import LocalCluster

    from onnxprune.search import sensitivity

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        images, labels = mnist.load("t10k")
        np.savez(folder / "data.npz", image=images[: options.samples], targets=labels[: options.samples])
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as two:
            ways = {
                "one process": {"jobs": 1},
                "two processes": {"jobs": 2},
                "cluster of two": {"cluster": two.scheduler_address},
            }
            found: dict[str, list[float]] = {way: [] for way in ways}
            curves = set()
            for _ in range(options.rounds):
                for way, how in ways.items():
                    out = folder / "scan.json"
                    start = time.perf_counter()
                    sensitivity.scan(MODEL, out, data=folder / "data.npz", **how)  # type: ignore[arg-type]
                    found[way].append(time.perf_counter() - start)
                    curves.add(out.read_bytes())
                    out.unlink()
    if len(curves) > 1:
        raise SystemExit("Error: the curves differ")
    one, both, cluster = found.values()
    print("| scan | seconds, median | of each round |\n|---|---:|---|")
    for way, seconds in found.items():
        print(f"| {way} | {statistics.median(seconds):.1f} | {', '.join(f'{s:.1f}' for s in seconds)} |")
    faster = [a / b for a, b in zip(one, both, strict=True)]
    more = [a / b - 1 for a, b in zip(cluster, both, strict=True)]
    print(f"\ntwo processes: {statistics.median(faster):.2f}x as fast as one ({', '.join(f'{f:.2f}' for f in faster)})")
    told = ", ".join(f"{100 * m:+.0f} %" for m in more)
    print(f"cluster against two processes: {100 * statistics.median(more):+.0f} % time ({told})")


if __name__ == "__main__":
    main()
