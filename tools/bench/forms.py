"""Every value form beside the dense model: size, packed size, load, latency and error.

The models: fc-58.6M (Gaussian weights in the shapes of AlexNet's fully connected layers) at 90 %
sparsity; at the layers' densities in Han et al. 2015 fc-58.6M-paper, AlexNet (the onnx package's
topology, random weights), lenet-300-100 and lenet-5. Loads are fresh processes and take turns; the
table shows medians. The error is the relative L2 of the outputs against the pruned fp32 model's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import arguments, made, peers
from .loads import in_turn
from .processes import measure, work
from .results import Results, Row, by_model, table

DENSE = "dense, pruned"
BATCHES = (1, 64)
ALEXNET = (0.84, 0.38, 0.35, 0.37, 0.37, 0.09, 0.09, 0.25)  # Han et al. 2015, table 4
SMALL_BIAS = 0.01  # so that the error of the outputs is that of the weights


@dataclass(frozen=True)
class Form:
    """One way to store the values of a model.

    Attributes:
        name: how the results call it.
        values: the value form of all weights, and PATTERN=FORM behind it.
        conv: the value form of the weights of Conv instead, or ''.
        prefer: `speed` or `size`.
    """

    name: str
    values: tuple[str, ...]
    conv: str = ""
    prefer: str = "speed"


@dataclass(frozen=True)
class Case:
    """A model, the densities of its layers in their order, and the forms that it is stored in."""

    densities: tuple[float, ...]
    forms: tuple[Form, ...]


def _plain(*values: str) -> tuple[Form, ...]:
    return tuple(Form(name, (name,)) for name in values)


_LENET = (*_plain("exact", "shared:4"), Form("shared:2, biases half", ("shared:2", "*.bias=half")), *_plain("auto"))
_MIXED = "conv shared:8, FC shared:4"
CASES = {
    made.CONNECTED: Case(
        (0.1, 0.1, 0.1), _plain("exact", "half", "shared:8", "shared:4", "int8", "int8:5", "int4", "auto")
    ),
    f"{made.CONNECTED}-paper": Case(ALEXNET[5:], _plain("shared:4", "int8", "int8:4")),
    "AlexNet": Case(
        ALEXNET,
        (
            Form(_MIXED, ("shared:4",), conv="shared:8"),
            Form(f"{_MIXED}, --prefer size", ("shared:4",), conv="shared:8", prefer="size"),
        ),
    ),
    "lenet-300-100": Case((0.08, 0.09, 0.26), _LENET),
    "lenet-5": Case((0.66, 0.12, 0.08, 0.19), _LENET),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    arguments.add_runs(parser, "loads of each file, in turn")
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), metavar="NAME",
                        help="only some of the models above")  # fmt: skip


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure one model after the other."""
    gzip = peers.there([peers.gzip()])
    found.versions |= peers.versions(gzip)
    for name in options.model:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found.rows += measured(name, CASES[name], options.runs, gzip, Path(place))
        yield


def measured(name: str, case: Case, runs: int, others: Sequence[tuple[peers.Tool, str]], folder: Path) -> list[Row]:
    """A row for the pruned dense model, one for each tool beside it, and one for each form."""
    model = _model(name, folder)
    size = model.stat().st_size
    rows = {form: Row(name, form, read=size) for form in (DENSE, *(tool.name for tool, _ in others))}
    for tool, version in others:
        row = rows[tool.name]
        row.problem = "" if version else "not installed"
        if version:
            out = folder / "peer"
            row.add(measure(tool.filled({"{data}": model}), out))
            row.bytes = out.stat().st_size
    print(f"{name}: compressing in {len(case.forms)} forms", file=sys.stderr)
    made_of = work(compressed, model, folder, case.densities, [asdict(form) for form in case.forms])
    rows[DENSE].bytes = size
    files = {DENSE: folder / "dense.onnx"}
    for form, facts in zip(case.forms, made_of, strict=True):
        files[form.name] = Path(facts.pop("file"))
        seconds = [facts.pop("seconds")]
        rows[form.name] = Row(name, form.name, read=size, seconds=seconds, bytes=facts.pop("bytes"), facts=facts)
    feeds = {f"batch_{batch}_ms": folder / f"batch{batch}.npz" for batch in BATCHES}
    print(f"{name}: loading {len(files)} files {runs} times", file=sys.stderr)
    for form_name, facts in in_turn(files, {key: file for key, file in feeds.items() if file.exists()}, runs).items():
        rows[form_name].facts |= facts
    return list(rows.values())


def _model(name: str, folder: Path) -> Path:
    """The file of a model of `CASES`, made if it is not one of models/."""
    file = folder / "model.onnx"
    if name.startswith(made.CONNECTED):
        work(made.fully_connected, file, made.ALEXNET, 0, SMALL_BIAS)
    elif name == "AlexNet":
        work(made.network, file, "bvlc_alexnet")
    else:
        file = made.MODELS / f"{name}.onnx"
    return file


def compressed(model: str, folder: str, densities: Sequence[float], forms: Sequence[dict[str, Any]]) -> list[dict]:
    """Prune a model to `dense.onnx`, compress it in each form, and write feeds for each batch size that it takes.

    Returns:
        For each form its `file`, `seconds` of `compress`, `bytes`, `packed_bytes` and `error`.
    """
    import numpy as np

    import onnxprune
    from onnxprune.model.model import Model
    from onnxprune.runtime.session import inputs_of, open_session
    from onnxprune.runtime.synthetic_inputs import synthesise

    place, dense = Path(folder), Path(folder, "dense.onnx")
    kinds = {w["name"]: w["kind"] for w in onnxprune.inspect(model) if w.get("kind") in ("conv", "gemm", "matmul")}
    rule = [f"{name}={1 - share:.2f}" for name, share in zip(kinds, densities, strict=True)]
    onnxprune.prune(model, dense, set=rule, verify=False)
    session = open_session(dense)
    (item,) = inputs_of(session)
    shape = synthesise(Model.load(dense), session, 1).feeds[0][item.name].shape
    batches = BATCHES[:1] if isinstance(item.shape[0], int) else BATCHES
    numbers = np.random.default_rng(1).standard_normal((batches[-1], *shape[1:])).astype(np.float32)
    for batch in batches:
        np.savez(place / f"batch{batch}.npz", **{item.name: numbers[:batch]})  # type: ignore[arg-type]
    expected = session.run(None, {item.name: numbers})[0].astype(np.float64)
    found = []
    for number, form in enumerate(forms):
        out = place / f"{number}.onnx"
        values = [
            *form["values"],
            *(f"{name}={form['conv']}" for name in kinds if form["conv"] and kinds[name] == "conv"),
        ]
        start = time.perf_counter()
        onnxprune.compress(model, out, set=rule, values=values, prefer=form["prefer"], verify=False)
        seconds = time.perf_counter() - start
        outputs = open_session(out).run(None, {item.name: numbers})[0].astype(np.float64)
        error = float(np.linalg.norm(expected - outputs) / np.linalg.norm(expected))
        packed = onnxprune.pack(out, place / "packed.onnxz").after
        found.append({"file": str(out), "seconds": seconds, "bytes": out.stat().st_size, "packed_bytes": packed,
                      "error": error})  # fmt: skip
    return found


# what is printed ------------------------------------------------------------------------------------


def shown(rows: Sequence[Row]) -> str:
    """A table for each model; what can be compared with the dense model is a multiple of it."""
    return "\n".join(_table(name, held) for name, held in by_model(rows).items())


def _table(name: str, rows: Sequence[Row]) -> str:
    head = [name, "file", "packed", "encode s", "load", "load memory", "batch 1", "batch 64", "error"]
    dense = next(row for row in rows if row.tool == DENSE)
    units = {
        "load_seconds": ("s", 1),
        "load_peak_bytes": ("MB", 1e6),
        "batch_1_ms": ("ms", 1),
        "batch_64_ms": ("ms", 1),
    }
    lines = []
    for row in rows:
        if row.problem:
            lines.append([row.tool, row.problem, *[""] * (len(head) - 2)])
            continue
        cells = [f"{row.bytes / 1e6:.2f} MB" if row is dense else f"{row.ratio:.1f}x"]
        packed = row.facts.get("packed_bytes")
        cells += [f"{row.read / packed:.1f}x" if packed else "-", f"{row.time:.1f}" if row.seconds else "-"]
        for key, (unit, scale) in units.items():
            if key not in row.facts:
                cells.append("-")
            elif row is dense:
                cells.append(f"{row.facts[key] / scale:.2f} {unit}")
            else:
                cells.append(f"{row.facts[key] / dense.facts[key]:.2f}x")
        cells.append(f"{100 * row.facts['error']:.1f} %" if "error" in row.facts else "-")
        lines.append([row.tool, *cells])
    return table(head, lines)
