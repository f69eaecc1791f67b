"""Many models at once: some are damaged, one worker is killed.

Two workers compress them, once undisturbed and once with one of the workers killed. Each sound
model must come out byte for byte as undisturbed, each damaged one must cost one line of error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import made
from .arguments import positive
from .processes import ONNXPRUNE, work
from .results import Results, Row, bar, table

_PATIENCE = 120  # seconds for the outputs that come before the kill


def begin(models: Path, out: Path, *options: object) -> subprocess.Popen[str]:
    """`onnxprune compress` of all models by two workers, in a process group of its own."""
    rule = ["--sparsity", "0.5", "--values", "exact", "--no-verify", "--jobs", "2"]
    command = [*ONNXPRUNE, "compress", models, "-o", out, *rule, *options]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def workers(asker: subprocess.Popen[str]) -> list[int]:
    """The processes that do its work."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == asker.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def await_outputs(asker: subprocess.Popen[str], out: Path, count: int) -> None:
    """Wait until so many models are written; SystemExit if they never are."""
    end = time.monotonic() + _PATIENCE
    while len(list(out.glob("part*/*.onnx"))) < count:
        if asker.poll() is not None or time.monotonic() > end:
            asker.kill()
            raise SystemExit(f"Error: crowd: fewer than {count} outputs: {asker.communicate()[1].strip()[-200:]}")
        time.sleep(0.005)


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, hidden files too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of its own."""
    parser.add_argument("--models", type=positive, default=200, metavar="N", help="how many (default 200)")
    parser.add_argument("--damaged", type=positive, default=5, metavar="N", help="how many of them (default 5)")


def run(options: argparse.Namespace, found: Results, folder: Path) -> Iterator[None]:
    """Measure both; ValueError if too many are to be damaged."""
    if options.damaged > options.models // 4:
        raise ValueError("--damaged must be at most a quarter of --models")
    found.rows, found.bars = measured(options.models, options.damaged, folder)
    yield


def shown(rows: Sequence[Row]) -> str:
    """The time of both runs."""
    return table(["", "s"], ([row.model, f"{row.time:.1f}"] for row in rows))


def measured(count: int, damaged: int, folder: Path) -> tuple[list[Row], list[str]]:
    """One run in which a worker is killed, an undisturbed one, and what the first came to."""
    models, facts = folder / "models", folder / "facts.jsonl"
    work(made.crowd, models, count, damaged)
    name = f"{count} models, {damaged} damaged"

    def done_in(out: Path, kill: bool) -> tuple[Row, int, list[str]]:
        print(f"{name}{', one worker killed' if kill else ''}", file=sys.stderr)
        start = time.perf_counter()
        asker = begin(models, out, "--json", facts)
        if kill:
            await_outputs(asker, out, count // 3)
            os.kill(workers(asker)[0], signal.SIGKILL)
        errors = asker.communicate()[1].splitlines()
        row = Row(f"{name}{', one worker killed' if kill else ''}", "onnxprune compress, 2 workers")
        row.seconds.append(time.perf_counter() - start)
        row.bytes = sum(map(len, files(out).values()))
        return row, asker.returncode, errors

    calm, *_ = done_in(folder / "calm", kill=False)
    row, code, errors = done_in(folder / "out", kill=True)
    lines = [json.loads(line) for line in facts.read_text(encoding="utf-8").splitlines()]
    results = [line["output"] for line in lines if line["status"] == "done"]
    failed = [line for line in lines if line["status"] == "failed"]
    there, expected = files(folder / "out"), files(folder / "calm")
    clear = len(errors) == len(failed) == damaged and all(line.startswith("Error: ") for line in errors)
    example = (errors or ["-"])[0].replace(f"{models}{os.sep}", "")
    models_of = [{key: held for key, held in found.items() if key.endswith(".onnx")} for found in (there, expected)]
    return [calm, row], [
        bar(len(results) == count - damaged == len(models_of[0]), f"{len(results)} results of {count - damaged}"),
        bar(clear, f"{len(errors)} lines of error for {damaged} damaged models, such as: {example}"),
        bar(there.keys() == expected.keys(), f"nothing half-written: {len(there)} files, those of an undisturbed run"),
        bar(models_of[0] == models_of[1], "each result is that of an undisturbed run, byte for byte"),
        bar(code == 1, f"exit code {code}"),
    ]
