"""Which runtimes read which encodings: run encoded models in other environments, print a table.

python tools/compat.py PYTHON [PYTHON ...] [--json FILE]

Each PYTHON is an interpreter with numpy and onnxruntime or openvino; it needs neither onnx nor
onnxprune. The models are written here, one for each form, consumer and opset. Each environment runs
the encoded and the decoded model and saves its optimised graphs. A cell of the table says

    fused     a kernel reads the small integers
    folded    the weight is decoded once, while loading
    each run  the weight is decoded at every inference
    wrong     the outputs are not those of the decoded model
    no        the encoded model is refused, at every opset at which the decoded one is read
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VALUES = ("exact", "half", "shared:4", "shared:5", "int8", "int8:5", "int4")
OPSETS = {9: 5, 11: 6, 13: 7, 17: 8, 21: 10}  # opset: the IR version that came with it (9: what coo needs)
CONSUMERS = ("MatMul", "MatMul Add", "Gemm Relu", "Conv", "LSTM", "Gather", "QDQ MatMul", "QDQ Conv")
DENSITY = 0.1  # of the weights: every encoding takes fewer bytes than the dense tensor, and over 256 values are kept
QUANTISE = 10  # the opset that brought QuantizeLinear
CLOSE, CLOSE_INTEGERS = 1e-5, 0.02  # relative error; kernels that read integers may round the activations too
UNREAD = "decoded model refused"
NEAR = {True: CLOSE_INTEGERS, False: CLOSE}


@dataclass(frozen=True)
class Case:
    """An encoded model: one weight in a form, read by one consumer, at one opset."""

    encoding: str
    values: str
    consumer: str
    opset: int

    @property
    def name(self) -> str:
        """A file's stem."""
        return f"{self.encoding}-{self.values}-{self.consumer}-{self.opset}".replace(":", "").replace(" ", "_")


@dataclass(frozen=True)
class Seen:
    """What an environment did with a case: the cell's word, and why it is "no"."""

    word: str
    reason: str = ""


# the models: written by onnxprune, here ----------------------------------------------------------------------


def consumer_model(consumer: str, opset: int) -> Any:
    """A model of one pruned weight and its reader."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        array = rng.standard_normal(shape).astype(np.float32)
        return np.where(rng.random(shape) < DENSITY, array, np.float32(0))

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes)

    bias = rng.standard_normal(96).astype(np.float32)
    element, x, y, held = TensorProto.FLOAT, [2, 128], [2, 96], {"w": weight(128, 96)}
    if consumer == "MatMul":
        nodes = [node("MatMul", ["x", "w"], "y")]
    elif consumer == "MatMul Add":
        nodes, held["b"] = [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "y")], bias
    elif consumer == "Gemm Relu":
        held = {"w": weight(96, 128), "b": bias}
        nodes = [node("Gemm", ["x", "w", "b"], "h", transB=1), node("Relu", ["h"], "y")]
    elif consumer == "Conv":
        x, y, held = [1, 16, 8, 8], [1, 32, 6, 6], {"w": weight(32, 16, 3, 3)}
        nodes = [node("Conv", ["x", "w"], "y")]
    elif consumer == "LSTM":
        x, y, held = [5, 2, 32], [5, 1, 2, 32], {"w": weight(1, 128, 32), "r": weight(1, 128, 32)}
        nodes = [node("LSTM", ["x", "w", "r"], "y", hidden_size=32)]
    elif consumer == "Gather":
        element, x, y, held = TensorProto.INT64, [7], [7, 64], {"w": weight(256, 64)}
        nodes = [node("Gather", ["w", "x"], "y")]
    else:
        conv = consumer == "QDQ Conv"
        shape = (32, 16, 3, 3) if conv else (128, 96)
        x, y = ([1, 16, 8, 8], [1, 32, 6, 6]) if conv else (x, y)
        held = {
            "w": np.clip(np.rint(weight(*shape) * 40), -127, 127).astype(np.int8), "sw": np.float32(0.025),
            "zw": np.int8(0), "sx": np.float32(0.03), "zx": np.uint8(120), "sy": np.float32(0.3), "zy": np.uint8(128),
        }  # fmt: skip
        nodes = [
            node("QuantizeLinear", ["x", "sx", "zx"], "xq"), node("DequantizeLinear", ["xq", "sx", "zx"], "xd"),
            node("DequantizeLinear", ["w", "sw", "zw"], "wd"), node(consumer.split()[1], ["xd", "wd"], "h"),
            node("QuantizeLinear", ["h", "sy", "zy"], "hq"), node("DequantizeLinear", ["hq", "sy", "zy"], "y"),
        ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", element, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=OPSETS[opset])


def write_cases(folder: Path) -> list[Case]:
    """Every form that takes fewer bytes than the dense tensor, in front of every consumer, at every opset."""
    import numpy as np
    import onnx

    import onnxprune
    from onnxprune.encodings import GRAPH
    from onnxprune.encodings.graph.encoded import encoded_weights
    from onnxprune.model.model import Model
    from onnxprune_passes import Encode

    written = []
    forms = [(encoding, values) for values in VALUES for encoding in GRAPH] + [("coo", "exact")]
    for opset, consumer, (encoding, values) in ((o, c, f) for o in OPSETS for c in CONSUMERS for f in forms):
        if consumer.startswith("QDQ") and (values != "exact" or opset < QUANTISE):
            continue
        source = folder / "source.onnx"
        onnx.save(consumer_model(consumer, opset), source)
        step = Encode(encoding=encoding, values=values)
        model = Model.load(source)
        step.run(model)
        held = encoded_weights(model)
        if model.opset != opset or not (held or model.proto.graph.sparse_initializer):
            continue
        case = Case(encoding, values, consumer, opset)
        assert all((g.encoding, g.values) == (encoding, values.split(":")[0]) for g in held), case
        model.write(folder / f"{case.name}.encoded.onnx")
        onnxprune.decode(folder / f"{case.name}.encoded.onnx", folder / f"{case.name}.decoded.onnx", verify=False)
        source.unlink()
        written.append(case)
    rng = np.random.default_rng(1)
    feeds = {consumer: feed(consumer, rng) for consumer in CONSUMERS}
    np.savez(folder / "feeds.npz", **feeds)
    (folder / "cases.json").write_text(json.dumps([asdict(c) | {"name": c.name} for c in written]))
    return written


def feed(consumer: str, rng: Any) -> Any:
    """The input of a consumer's model."""
    if consumer == "Gather":
        return rng.integers(0, 256, 7)
    shape = (1, 16, 8, 8) if consumer.endswith("Conv") else (5, 2, 32) if consumer == "LSTM" else (2, 128)
    return rng.standard_normal(shape).astype("float32")


# the environments: plain onnxruntime or openvino --------------------------------------------------------------


def probe(folder: Path, out: Path) -> None:
    """Load and run every case; `out` gets the results and the optimised models."""
    import numpy as np

    feeds = np.load(folder / "feeds.npz")
    try:
        import onnxruntime

        runtime, version, run = "onnxruntime", onnxruntime.__version__, _run_onnxruntime
    except ImportError:
        import openvino

        runtime, version, run = "OpenVINO", openvino.__version__.split("-")[0], _run_openvino
    results = {}
    for case in json.loads((folder / "cases.json").read_text()):
        x = feeds[case["consumer"]]
        found: dict[str, Any] = {}
        try:
            expected, found["decoded"] = run(folder / f"{case['name']}.decoded.onnx", x, out)
            got, found["encoded"] = run(folder / f"{case['name']}.encoded.onnx", x, out)
            size = float(np.linalg.norm(expected)) or 1.0
            found["error"] = float(np.linalg.norm(np.nan_to_num(got.astype(np.float64), nan=1e9) - expected)) / size
        except Exception as error:  # whatever a runtime says to a model is the result
            found["reason"] = " ".join(str(error).split())[:600]
        results[case["name"]] = found
    facts = {"runtime": runtime, "version": version, "python": sys.version.split()[0], "results": results}
    (out / "results.json").write_text(json.dumps(facts))


def _run_onnxruntime(path: Path, x: Any, out: Path) -> tuple[Any, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(out / path.name)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], {}


def _run_openvino(path: Path, x: Any, out: Path) -> tuple[Any, dict[str, Any]]:
    """The output, the layers that compute from constants alone, and whether a kernel reads integers."""
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", config)
    request = compiled.create_infer_request()
    result = request.infer([x])[0]
    # Layers that compute from constants are in the compiled graph, but run once, while compiling.
    executed = {layer.node_name for layer in request.profiling_info}
    fixed: dict[str, str] = {}
    decoding, fused = [], False
    for op in compiled.get_runtime_model().get_ordered_ops():
        sources = [i.get_source_output().get_node().get_friendly_name() for i in op.inputs()]
        facts = {k: v.astype(str) for k, v in op.get_rt_info().items() if k in ("layerType", "outputPrecisions")}
        kind = facts["layerType"]
        if kind == "Const" or (sources and fixed.keys() >= set(sources)):
            fixed[op.get_friendly_name()] = facts["outputPrecisions"]
            decoding += [kind] if op.get_friendly_name() in executed and kind != "Const" else []
        elif kind == "FullyConnected":
            fused |= any(fixed.get(source) in ("i8", "u8", "i4", "u4") for source in sources)
    return result, {"decoding": decoding, "fused": fused}


# the table: from what the environments saved ------------------------------------------------------------------


def optimised(path: Path) -> dict[str, Any]:
    """Of an optimised model, the operators that compute from constants alone, and whether a kernel reads integers."""
    import onnx

    graph = onnx.load(path).graph
    fixed = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    decoding, fused = [], False
    for node in graph.node:
        named = [name for name in node.input if name]
        if node.op_type == "Constant" or (named and fixed.issuperset(named)):
            fixed.update(node.output)
            decoding += [] if node.op_type == "Constant" else [node.op_type]
        fused |= node.op_type == "MatMulNBits"
    return {"decoding": decoding, "fused": fused}


def judge(case: Case, found: dict[str, Any], out: Path) -> Seen:
    """The word for a case."""
    if "decoded" not in found:
        return Seen(UNREAD, found["reason"])
    if "encoded" not in found:
        return Seen("no", found["reason"])
    files = {kind: out / f"{case.name}.{kind}.onnx" for kind in ("encoded", "decoded")}
    encoded, decoded = (optimised(f) if f.exists() else found[kind] for kind, f in files.items())
    if not found["error"] <= NEAR[encoded["fused"]]:
        return Seen("wrong", f"relative error {found['error']:.2g}")
    left = Counter(encoded["decoding"]) - Counter(decoded["decoding"])
    return Seen("each run", ", ".join(sorted(left))) if left else Seen("fused" if encoded["fused"] else "folded")


def measure(python: str, folder: Path, cases: list[Case]) -> tuple[str, dict[Case, Seen], dict[str, Any]]:
    """(name and version, what it did with each case, the raw results) of an environment."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        subprocess.run([python, __file__, "--probe", str(folder), str(out)], check=True)
        facts = json.loads((out / "results.json").read_text())
        seen = {case: judge(case, facts["results"][case.name], out) for case in cases}
    return f"{facts['runtime']} {facts['version']}", seen, facts


Row = tuple[str, str, str]  # values, positions, consumer


def cells(seen: dict[Case, Seen]) -> dict[Row, str]:
    """What an environment did with each form and consumer, at the opsets that it reads."""
    words: dict[Row, dict[str, list[int]]] = {}
    for case, what in seen.items():
        held = words.setdefault((case.values, case.encoding, case.consumer), {})
        if what.word != UNREAD:
            held.setdefault(what.word, []).append(case.opset)
    return {row: _cell(held) for row, held in words.items()}


def _cell(words: dict[str, list[int]]) -> str:
    if len(words) < 2:
        return next(iter(words), "no")
    return ", ".join(f"{word} (opset {', '.join(map(str, opsets))})" for word, opsets in words.items())


def table(columns: dict[str, dict[Case, Seen]]) -> str:
    """Markdown: rows with the same cells are one, neighbouring columns too."""
    held = {name: cells(seen) for name, seen in columns.items()}
    spans: list[list[str]] = []
    for name, column in held.items():
        if spans and held[spans[-1][0]] == column and name.split()[0] == spans[-1][0].split()[0]:
            spans[-1].append(name)
        else:
            spans.append([name])
    by_cells: dict[tuple[str, ...], list[Row]] = {}
    for row in next(iter(held.values())):
        by_cells.setdefault(tuple(held[span[0]][row] for span in spans), []).append(row)
    titles = ["values", "positions", "consumer", *map(_span, spans)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for same, rows in by_cells.items():
        lines += ["| " + " | ".join((*box, *same)) + " |" for box in boxes(rows)]
    return "\n".join(lines)


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1].split()[1]}"


def boxes(rows: list[Row]) -> list[Row]:
    """Merge rows that differ in a single field, one field after the other: a field then lists its values."""
    merged: set[Any] = {tuple((field,) for field in row) for row in rows}
    for axis in (2, 0, 1):
        by_rest: dict[Any, set[str]] = {}
        for box in merged:
            by_rest.setdefault((*box[:axis], *box[axis + 1 :]), set()).update(box[axis])
        merged = {(*rest[:axis], tuple(sorted(parts)), *rest[axis:]) for rest, parts in by_rest.items()}
    return [(", ".join(v), ", ".join(p), ", ".join(c)) for v, p, c in sorted(merged)]


def main() -> None:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="an interpreter, such as .venv/bin/python")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every case with its reason")
    parser.add_argument("--probe", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:  # this script, run by a PYTHON
        probe(*options.probe)
        return
    if not options.pythons:
        parser.error("name at least one PYTHON")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = write_cases(folder)
        print(f"{len(cases)} models", file=sys.stderr)
        columns, raw = {}, {}
        for python in options.pythons:
            name, seen, facts = measure(python, folder, cases)
            print(name, dict(Counter(s.word for s in seen.values())), file=sys.stderr)
            columns[name] = seen
            raw[name] = {c.name: asdict(seen[c]) | {"error": facts["results"][c.name].get("error")} for c in cases}
    print(table(columns))
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
