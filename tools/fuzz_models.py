"""Random models through every command: no traceback, and no changed output.

python tools/fuzz_models.py [--start N] [--count N] [--jobs N] [--print NUMBER]

A number is a model, always the same: element types of weights, opsets 7 to 28, IR versions 3 to 13,
operators and odd values at random (tools/random_models.py). Each goes the way of the backend
tests (tools/backend_tests.py); what ONNX Runtime does not run must still come through. What failed
is told by its number, and an interrupted run goes on with --start. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import numpy as np
import onnx
import random_models
from backend_tests import Case, Outcome, as_written, by_runtime, checked, inputs_of

from onnxprune.core.workers import spread

CLOSE = 1e-3  # relative error that another order of sums may make
LOSSY = 0.9  # of an output with the defaults: several layers, of which some cancel


def case_of(number: int) -> tuple[Case, str]:
    """The model of a number with what ONNX Runtime computes; else without, and why."""
    made = random_models.made(number)
    given = [made.feeds[value.name] for value in inputs_of(made.model)]
    # ONNX Runtime puts integer kernels, which round, in place of DequantizeLinear and MatMul.
    integers = any(node.op_type == "DequantizeLinear" for node in made.model.graph.node)
    try:
        outputs = list((as_written if integers else by_runtime)(made.model)(made.feeds))
    except Exception as error:  # whatever it is, it is the reason
        return Case(str(number), made.model, [], CLOSE, 0), " ".join(str(error).split())
    finite = [np.abs(array[np.isfinite(array)]).max(initial=0) for array in outputs if array.size]
    atol = CLOSE * float(max(finite, default=0))
    return Case(str(number), made.model, [(given, outputs)], CLOSE, atol, LOSSY, integers), ""


def fuzzed(number: int) -> Outcome:
    """What became of a model."""
    case, why = case_of(number)
    found = checked(case)
    ours = found.word == "failed" or found.reason.startswith("onnxprune:")
    return Outcome("refused", why) if why and not ours else found


def main() -> int:
    """Check the models, print what became of them."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.usage = argparse.SUPPRESS
    words.add_argument("--start", metavar="N", type=int, default=0, help="the first number (0)")
    words.add_argument("--count", metavar="N", type=int, default=5000, help="how many (5000)")
    words.add_argument("--jobs", metavar="N", type=int, default=2, help="processes (2)")
    words.add_argument("--print", metavar="NUMBER", type=int, dest="printed", help="print a model as text instead")
    given = words.parse_args()
    if given.printed is not None:
        print(onnx.printer.to_text(random_models.made(given.printed).model))
        return 0
    numbers = range(given.start, given.start + given.count)
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for outcome in spread(fuzzed, numbers, jobs=given.jobs, apart=True):
        found = outcome.value or Outcome("failed", str(outcome.error))
        counts[found.word] += 1
        if found.word == "failed":
            print(f"{numbers[outcome.index]}: {found.reason}", file=sys.stderr, flush=True)
        elif found.word == "refused":
            reasons[found.reason.rpartition(" : ")[2][:60]] += 1
        if sum(counts.values()) % 500 == 0:
            print(f"{sum(counts.values())} done", file=sys.stderr, flush=True)
    for reason, count in reasons.most_common(20):
        print(f"{count:6d} refused: {reason}")
    print(f"{len(numbers)} models: " + ", ".join(f"{counts[word]} {word}" for word in ("passed", "refused", "failed")))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
