"""The onnx package's own backend tests, through every command: outputs and interface have to stay.

python tools/backend_tests.py [--only GLOB ...] [--every N] [--hold] [--jobs N] [--list]

Each model goes through inspect, strip, compress (every value exact, and the defaults), decode,
pack and unpack. The judge is ONNX Runtime where it gives the expected outputs for the original,
else onnx's reference implementation. Without a judge the commands must still do their work. A model

    passed    when every output is as expected (with the defaults: within their loss), and every
              input and output as it was
    refused   when neither judge computes the original, or a command says in a line why it does not
    failed    otherwise: exit code 1
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TypeProto, ValueInfoProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxprune
from onnxprune.core.workers import spread
from onnxprune.errors import OnnxPruneError
from onnxprune.runtime.session import open_session

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
LOSSY = 0.3  # for networks of one or two layers
Judge = Callable[[ModelProto], Callable[[dict[str, Any]], Sequence[Any]]]


@dataclass(frozen=True)
class Case:
    """A model with inputs and expected outputs, in the order of the graph."""

    name: str
    model: ModelProto
    sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float
    loss: float = LOSSY  # relative error of an output that the defaults may cause
    as_written: bool = False  # without ONNX Runtime's optimiser, whose integer kernels round


@dataclass(frozen=True)
class Outcome:
    """What became of a case: the word, and why it did not pass."""

    word: str
    reason: str = ""


class Failed(Exception):
    """A command broke a model; the message is one line."""


def collected() -> list[Case]:
    """Every case of the installed onnx, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        from onnx.backend.test.loader import load_model_tests

        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    return sorted(map(_case, found), key=lambda case: case.name)


def _case(case: Any) -> Case:
    if case.model is not None and case.data_sets is not None:
        sets = [(list(map(_plain, given)), list(map(_plain, expected))) for given, expected in case.data_sets]
        return Case(case.name, case.model, sets, case.rtol, case.atol)
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    sets = [
        tuple(
            [_value(place / f"{what}_{n}.pb", value.type) for n, value in enumerate(values)]
            for what, values in (("input", inputs_of(model)), ("output", model.graph.output))
        )
        for place in sorted(folder.glob("test_data_set_*"))
    ]
    return Case(case.name, model, sets, case.rtol, case.atol)


def _plain(value: Any) -> Any:
    """Types that numpy lacks come as tensors, and scalars as no arrays."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _value(path: Path, kind: TypeProto) -> Any:
    protos = {
        "tensor_type": (onnx.TensorProto, numpy_helper.to_array),
        "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
        "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
    }
    proto, read = protos[kind.WhichOneof("value")]
    return read(proto.FromString(path.read_bytes()))


def inputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """What a caller gives."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def interface(model: ModelProto) -> list[bytes]:
    """Names, types and shapes of what goes in and comes out."""
    return [value.SerializeToString() for value in (*inputs_of(model), *model.graph.output)]


def holding(case: Case) -> Case | None:
    """The case with its inputs as initializers, all but the first; None where no value is one for all sets."""
    inputs, sets = inputs_of(case.model), case.sets
    if len(inputs) < 2 or len(sets) != 1:
        return None
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)
    kept = [True] * len(inputs)
    for place, (value, array) in enumerate(zip(inputs, sets[0][0], strict=True)):
        if place and value.type.HasField("tensor_type") and isinstance(array, np.ndarray | np.generic):
            model.graph.initializer.append(_tensor(array, value))
            model.graph.input.remove(next(i for i in model.graph.input if i.name == value.name))
            kept[place] = False
    given = [array for array, stays in zip(sets[0][0], kept, strict=True) if stays]
    return None if all(kept) else Case(f"{case.name} (held)", model, [(given, sets[0][1])], case.rtol, case.atol)


def _tensor(array: Any, value: ValueInfoProto) -> onnx.TensorProto:
    """An initializer; numpy has no strings of its own kind."""
    held = np.asarray(array)
    if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
        return onnx.helper.make_tensor(value.name, onnx.TensorProto.STRING, held.shape, list(map(str, held.flat)))
    return numpy_helper.from_array(held, value.name)


def by_runtime(model: ModelProto) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """ONNX Runtime."""
    session = open_session(model.SerializeToString(), "it")
    return lambda feeds: session.run(None, feeds)


def as_written(model: ModelProto) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """ONNX Runtime without its optimiser."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = open_session(model.SerializeToString(), "it", options)
    return lambda feeds: session.run(None, feeds)


def by_reference(model: ModelProto) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """The reference implementation of onnx, which knows every operator and type."""
    evaluator = ReferenceEvaluator(model)
    return lambda feeds: evaluator.run(None, feeds)


def differs(case: Case, run: Callable[[dict[str, Any]], Sequence[Any]], names: list[str], loss: float) -> str:
    """In what the outputs are not those expected; empty where they are."""
    for given, expected in case.sets:
        found = run(dict(zip(names, given, strict=True)))
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            if not near(one, other, case, loss):
                return f"output {place} is not as expected"
    return ""


def near(found: Any, expected: Any, case: Case, loss: float) -> bool:
    """Whether two values are alike: type, shape and each number; with a loss all of them taken together."""
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(
            near(*pair, case, loss) for pair in zip(found, expected, strict=True)
        )
    if expected is None or found is None:
        return found is expected
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind not in "fcV":
        return bool((found == expected).all())
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    found, expected = found.astype(wide), expected.astype(wide)
    if np.allclose(found, expected, case.rtol, case.atol, equal_nan=True):
        return True
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return False
    return bool(np.linalg.norm((found - expected)[finite]) <= loss * np.linalg.norm(expected[finite]))


def checked(case: Case) -> Outcome:
    """Put a case through every command."""
    names = [value.name for value in inputs_of(case.model)]
    judge, why = judged(case, names)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, in the reference implementation
        try:
            refused = commands(case, names, judge, Path(folder))
        except Exception as error:  # a traceback of a command is what this looks for
            return Outcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Outcome("refused", refused or why) if refused or judge is None else Outcome("passed")


def judged(case: Case, names: list[str]) -> tuple[Judge | None, str]:
    """What computes the original as expected; else what ONNX Runtime says."""
    if not case.sets:
        return None, "nothing is expected of it"
    reasons = []
    for judge in (as_written if case.as_written else by_runtime, by_reference):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                wrong = differs(case, judge(case.model), names, 0)
        except Exception as error:  # onnxruntime's and onnx's exceptions share no base class
            wrong = str(error)
        if not wrong:
            return judge, ""
        reasons.append(" ".join(wrong.split()))
    return None, reasons[0]


def commands(case: Case, names: list[str], judge: Judge | None, folder: Path) -> str:
    """Every command in turn; returns why one refused the model, in its words.

    Raises:
        Failed: an output or the interface is not as it was.
    """
    source = folder / "model.onnx"
    source.write_bytes(case.model.SerializeToString())
    verify = judge is not None and judge is not by_reference

    def made(name: str, call: Callable[..., Any], start: Path, loss: float = 0, **options: Any) -> Path:
        out = folder / f"{name}.onnx"
        call(start, out, verify=verify, **options)
        result = onnx.load(out)
        if interface(result) != interface(case.model):
            raise Failed(f"{name}: other inputs or outputs than those of the model")
        wrong = "" if judge is None else differs(case, judge(result), names, loss)
        if wrong:
            raise Failed(f"{name}: {wrong}")
        return out

    try:
        onnxprune.inspect(source)
        made("strip", onnxprune.strip, source)
        exact = made("exact", onnxprune.compress, source, values="exact", sparsity=0.0)
        made("decoded", onnxprune.decode, exact)
        small = made("default", onnxprune.compress, source, case.loss)
        made("default-decoded", onnxprune.decode, small, case.loss)
        onnxprune.pack(small, folder / "model.onnxz")
        onnxprune.unpack(folder / "model.onnxz", folder / "unpacked.onnx")
    except OnnxPruneError as error:
        return f"onnxprune: {error}"
    if (folder / "unpacked.onnx").read_bytes() != small.read_bytes():
        raise Failed("unpack: other bytes than those that were packed")
    return ""


def main() -> int:
    """Check the cases, print what became of them."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.usage = argparse.SUPPRESS
    words.add_argument("--only", metavar="GLOB", action="append", help="only the cases of these names")
    words.add_argument("--every", metavar="N", type=int, default=1, help="only every Nth of them")
    words.add_argument("--hold", action="store_true", help="make weights of all inputs but the first")
    words.add_argument("--jobs", metavar="N", type=int, default=2, help="processes (2)")
    words.add_argument("--list", action="store_true", help="print each case that did not pass")
    given = words.parse_args()
    cases = [c for c in collected() if not given.only or any(fnmatch.fnmatch(c.name, g) for g in given.only)]
    cases = cases[:: given.every]
    if given.hold:
        cases = [held for case in cases if (held := holding(case)) is not None]
    found: dict[str, Outcome] = {}
    for outcome in spread(checked, cases, jobs=given.jobs, apart=True):
        name = cases[outcome.index].name
        found[name] = outcome.value or Outcome("failed", str(outcome.error))
        if found[name].word == "failed":
            print(f"{name}: {found[name].reason}", file=sys.stderr, flush=True)
    reasons = Counter(_kind(o.reason) for o in found.values() if o.word == "refused")
    for reason, count in reasons.most_common():
        print(f"{count:6d} refused: {reason}")
    for name, outcome in sorted(found.items()) if given.list else ():
        if outcome.word != "passed":
            print(f"{name}: {outcome.word}: {outcome.reason}")
    counts = Counter(outcome.word for outcome in found.values())
    print(f"{len(found)} models: " + ", ".join(f"{counts[word]} {word}" for word in ("passed", "refused", "failed")))
    return 1 if counts["failed"] else 0


def _kind(reason: str) -> str:
    """A reason without what differs from case to case."""
    for start in ("NOT_IMPLEMENTED", "onnxprune:", "ONNX Runtime does not load it:"):
        if start in reason:
            reason = reason[reason.index(start) :]
    return reason[:90]


if __name__ == "__main__":
    sys.exit(main())
