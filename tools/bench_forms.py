"""Measure every value form against the dense model in one run: size, packed size, load time and memory, latency, error.

python tools/bench_forms.py [--runs N] [--json OUT]

The models: the 58.6 million weights of tools/bench at 90 % sparsity and at the densities of AlexNet's fully
connected layers (Han et al. 2015, table 4), a whole AlexNet (the onnx wheel's topology with random
weights) at the paper's densities, and the LeNets of models/ at theirs. Every load is a fresh process; loads of all
files take turns, and the table shows medians. The error is the relative L2 of the outputs against the pruned
fp32 model's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import fill_light  # noqa: E402 - siblings of this script
from bench import made, processes  # noqa: E402

BATCHES = (1, 64)
ALEXNET = (0.84, 0.38, 0.35, 0.37, 0.37, 0.09, 0.09, 0.25)
FULLY_CONNECTED = ALEXNET[5:]
LENETS = {"lenet-300-100": (0.08, 0.09, 0.26), "lenet-5": (0.66, 0.12, 0.08, 0.19)}


def load(path: str, feeds: str) -> dict[str, Any]:
    """Time to a session, memory that it adds at its peak, median time of a run for each batch size."""
    import numpy as np

    from onnxprune.runtime.session import open_session

    fed = np.load(feeds)["x"]
    before, start = processes.high_water(), time.perf_counter()
    session = open_session(path)
    found: dict[str, Any] = {"load": time.perf_counter() - start, "peak": processes.high_water() - before}
    name = session.get_inputs()[0].name
    fixed = isinstance(session.get_inputs()[0].shape[0], int)
    for batch in BATCHES[:1] if fixed else BATCHES:
        session.run(None, {name: fed[:batch]})
        runs = []
        for _ in range(20 if batch == 1 else 8):
            start = time.perf_counter()
            session.run(None, {name: fed[:batch]})
            runs.append(1000 * (time.perf_counter() - start))
        found[f"ms{batch}"] = statistics.median(runs)
    return found


def compressed(folder: Path, model: Path, sets: list[str], forms: list[str], runs: int) -> list[dict[str, Any]]:
    """A row for the pruned dense model and one for each form: "FORM", with PATTERN=FORM and --prefer behind it."""
    import numpy as np

    import onnxprune
    from onnxprune.model.model import Model
    from onnxprune.runtime.session import inputs_of, open_session
    from onnxprune.runtime.synthetic_inputs import synthesise

    dense = folder / "pruned.onnx"
    onnxprune.prune(model, dense, set=sets, verify=False)
    session = open_session(model)
    (item,) = inputs_of(session)
    sample = synthesise(Model.load(model), session, 1)[0][item.name]
    del session
    batch = 64 if not isinstance(item.shape[0], int) else 1
    feeds = folder / "feeds.npz"
    np.savez(feeds, x=np.random.default_rng(1).standard_normal((batch, *sample.shape[1:])).astype(np.float32))
    rows = [{"form": "dense", "file": dense, "bytes": model.stat().st_size, "seconds": 0.0, "packed": 0, "error": 0.0}]
    for number, form in enumerate(forms):
        out, packed = folder / f"{number}.onnx", folder / f"{number}.onnxz"
        print(f"{model.stem}: {form}", file=sys.stderr)
        start = time.perf_counter()
        values, _, prefer = form.partition(" --prefer ")
        onnxprune.compress(model, out, set=sets, values=values.split(), prefer=prefer or "speed", verify=False)
        seconds = time.perf_counter() - start
        size = onnxprune.pack(out, packed).after
        fed = {item.name: np.load(feeds)["x"]}
        one, two = (open_session(path).run(None, fed)[0].astype(np.float64) for path in (dense, out))
        error = float(np.linalg.norm(one - two) / np.linalg.norm(one))
        rows.append({"form": form, "file": out, "bytes": out.stat().st_size, "seconds": seconds, "packed": size,
                     "error": error})  # fmt: skip
    loads: dict[str, list[dict[str, float]]] = {row["form"]: [] for row in rows}
    for _ in range(runs):
        for row in rows:
            loads[row["form"]].append(work(row["file"], feeds))
    for row in rows:
        held = loads[row["form"]]
        row |= {key: statistics.median(one[key] for one in held) for key in held[0]}
        del row["file"]
    return rows


def small_biases(path: Path) -> None:
    """Biases of a hundredth, so that the error of the outputs is that of the weights."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 100, tensor.name))
    onnx.save(model, path)


def work(path: Path, feeds: Path) -> dict[str, float]:
    """`load` in a fresh process."""
    import subprocess

    command = [sys.executable, __file__, "--worker", str(path), str(feeds)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """Markdown; what can be compared with the dense model is a multiple of it."""
    lines = [f"| {title} | file | packed | encode s | load | load memory | batch 1 | batch 64 | error |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    dense = rows[0]
    for row in rows:
        first = row is dense
        cells = [f"{dense['bytes'] / row['bytes']:.1f}x" if not first else f"{row['bytes'] / 1e6:.2f} MB",
                 f"{dense['bytes'] / row['packed']:.1f}x" if not first else "-",
                 f"{row['seconds']:.1f}" if not first else "-"]  # fmt: skip
        for key, unit, scale in (("load", "s", 1), ("peak", "MB", 1e6), ("ms1", "ms", 1), ("ms64", "ms", 1)):
            if key not in row:
                cells.append("-")
            else:
                cells.append(f"{row[key] / scale:.2f} {unit}" if first else f"{row[key] / dense[key]:.2f}x")
        lines.append("| " + " | ".join([row["form"], *cells, "-" if first else f"{row['error']:.1%}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(load(*options.worker)))
        return
    import onnx

    import onnxprune

    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        connected = folder / "fc.onnx"
        processes.work(made.fully_connected, connected)
        small_biases(connected)
        start = time.perf_counter()
        with connected.open("rb") as source, gzip.open(folder / "fc.gz", "wb", 6) as packed:
            while part := source.read(1 << 20):
                packed.write(part)
        print(f"reading and gzipping the 58.6 M weights took {time.perf_counter() - start:.1f} s\n")
        forms = ["exact", "half", "shared:8", "shared:4", "int8", "int8:5", "int4", "auto"]
        found["58.6 M, 90 %"] = compressed(folder, connected, ["w*=0.9"], forms, options.runs)
        sets = [f"w{n}={1 - share:.2f}" for n, share in enumerate(FULLY_CONNECTED)]
        found["58.6 M, 9/9/25 %"] = compressed(folder, connected, sets, ["shared:4", "int8", "int8:4"], options.runs)
        alexnet = folder / "alexnet.onnx"
        onnx.save(fill_light.fill(onnx.load(fill_light.light("bvlc_alexnet"))), alexnet)
        names = [w["name"] for w in onnxprune.inspect(alexnet) if w.get("kind") in ("conv", "gemm")]
        sets = [f"{name}={1 - share:.2f}" for name, share in zip(names, ALEXNET, strict=True)]
        mixed = " ".join(["shared:4", *(f"{name}=shared:8" for name in names[:5])])
        found["AlexNet"] = compressed(folder, alexnet, sets, [mixed, f"{mixed} --prefer size"], options.runs)
        for row, prefer in zip(found["AlexNet"][1:], ("", " --prefer size"), strict=True):
            row["form"] = f"shared, conv 8 bits, FC 4{prefer}"
        for name, densities in LENETS.items():
            model = ROOT / "models" / f"{name}.onnx"
            names = [w["name"] for w in onnxprune.inspect(model) if w.get("kind") in ("conv", "gemm", "matmul")]
            sets = [f"{n}={1 - share:.2f}" for n, share in zip(names, densities, strict=True)]
            rows = compressed(folder, model, sets, ["exact", "shared:4", "shared:2 *.bias=half", "auto"], options.runs)
            for row in rows[1:]:
                print(f"{name} {row['form']}: {row['bytes']:,} bytes, packed {row['packed']:,}")
            found[name] = rows
    for title, rows in found.items():
        print("\n" + table(title, rows))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
