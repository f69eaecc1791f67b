"""Which runtimes read a model: the table against the encodings, the command, and the script that measures."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.encodings import FORMS, GRAPH
from onnxprune.encodings.compatibility import (
    OPENVINO,
    RELEASES,
    Form,
    Support,
    compatibility,
    newest,
    release_of,
    support,
)
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Encode
from tests.helpers.builders import conv_net, info, lstm, matmul, mlp, model, node, normal
from tests.helpers.commands import call
from tests.helpers.repository import TOOLS
from tests.helpers.running import load, serialise

# The lowest opset of each form: that of CumSum (11), of Mod (10), of NonZero (9), of Cast and Mul (1); in
# front of a MatMul, of DequantizeLinear with an axis (13) or with blocks of INT4 (21).
OPSETS = {
    ("flat", "exact"): 11, ("flat", "half"): 11, ("flat", "shared"): 11, ("flat", "int8"): 11, ("flat", "int4"): 11,
    ("rows", "exact"): 11, ("rows", "half"): 11, ("rows", "shared"): 11, ("rows", "int8"): 11, ("rows", "int4"): 11,
    ("bitmask", "exact"): 9, ("bitmask", "half"): 9, ("bitmask", "shared"): 10, ("bitmask", "int8"): 10,
    ("bitmask", "int4"): 10, ("dense", "exact"): 1, ("dense", "half"): 1, ("dense", "shared"): 10,
    ("dense", "int8"): 10, ("dense", "int4"): 10,
}  # fmt: skip
# Of a form whose integers a MatMul reads: opset, the release that loads it, the one from which it is fast.
FUSED = {"int8": (13, "1.15", "1.25"), "int4": (21, "1.23", "1.25")}
FOLDED = ("1.15", "1.15")
KNOWN = [name for name, _, _ in RELEASES]


def pruned(*shape: int, density: float = 0.1, seed: int = 0) -> np.ndarray:
    keep = np.random.default_rng(seed).random(shape) < density
    return np.where(keep, normal(*shape, seed=seed), np.float32(0))


def product(density: float = 0.1, **kw) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, [info("x", ["N", 128])], [info("y", ["N", 96])], {"w": pruned(128, 96, density=density)}, **kw)


def forms(proto: onnx.ModelProto, **options) -> list[Form]:
    opened = load(proto)
    Encode(**options).run(opened)
    return compatibility(opened).forms


def number(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")[:2]))


def test_every_form_is_in_the_table():
    assert OPSETS.keys() == {(encoding, values) for encoding in GRAPH for values in FORMS}


@pytest.mark.parametrize(("encoding", "values"), OPSETS)
def test_what_a_form_needs(encoding, values):
    assert support(encoding, values) == Support(OPSETS[encoding, values], *FOLDED)
    if values in FUSED:
        assert support(encoding, values, fused=True) == Support(*FUSED[values])


@pytest.mark.parametrize(("encoding", "values"), [form for form in OPSETS if form != ("dense", "exact")])
def test_a_model_reports_the_form_that_is_in_it(encoding, values):
    """IR version 10 and opset 21 need release 1.18 by themselves."""
    opened = load(product(0.9 if encoding == "dense" else 0.1, opset=21, ir_version=10))
    Encode(encoding=encoding, values=values).run(opened)
    (group,) = encoded_weights(opened)
    (form,) = compatibility(opened).forms
    assert (group.encoding, group.values) == (encoding, values)
    expected = {
        "exact": (encoding, OPSETS[encoding, values], "1.18", "1.18"),
        "int8": (f"{encoding} int8 for MatMul", 13, "1.18", "1.25"),
        "int4": (f"{encoding} int4 for MatMul", 21, "1.23", "1.25"),
    }.get(values, (f"{encoding} {values}", OPSETS[encoding, values], "1.18", "1.18"))
    assert (form.form, form.opset, form.loads, form.fast) == expected
    assert form.weights == 1


def test_forms_are_grouped_and_counted():
    found = forms(mlp((96, 96, 96, 96)), values="int8", set=("fc1*=shared:4",), encoding="dense")
    assert [(f.form, f.weights) for f in found] == [("dense int8 for MatMul", 2), ("dense shared", 1)]


def test_a_weight_that_cannot_fuse_folds():
    (form,) = {f.form: f for f in forms(conv_net(), values="int8", encoding="dense")}.values()
    assert (form.form, form.fast) == ("dense int8", "1.15")


def test_a_model_without_encoded_weights():
    facts = compatibility(load(matmul()))
    assert (facts.opset, facts.ir_version, facts.loads, facts.fast, facts.forms) == (17, 8, "1.15", "1.15", [])


def openvino(proto: onnx.ModelProto, **options) -> set[str]:
    return {form.openvino for form in forms(proto, **options)}


def test_what_openvino_takes():
    sparse = lstm()
    for tensor in sparse.graph.initializer[:2]:
        tensor.CopyFrom(onnx.numpy_helper.from_array(pruned(*tensor.dims), tensor.name))
    assert openvino(product(), encoding="coo") == {"no"}
    assert openvino(product(opset=17), encoding="bitmask") == {"no"}
    assert openvino(product(opset=10), encoding="bitmask") == {"loads"}
    assert openvino(product(), encoding="flat") == {"loads"}
    assert openvino(sparse, encoding="flat", skip=("B",)) == {"no"}
    assert openvino(product(0.9), encoding="dense", values="half") == {"loads"}
    assert openvino(product(0.9), encoding="dense", values="int8") == {"loads"}
    assert openvino(product(0.9, opset=21, ir_version=10), encoding="dense", values="int4") == {"loads"}
    assert {answer for answer, _ in OPENVINO.values()} == {"no", "loads"}


@pytest.mark.parametrize(
    ("opset", "ir_version", "release"),
    [(9, 3, "1.15"), (19, 9, "1.15"), (20, 9, "1.17"), (17, 10, "1.18"), (21, 8, "1.18"), (24, 10, "1.24"),
     (28, 14, "1.32"), (99, 8, None), (17, 99, None)],
)  # fmt: skip
def test_the_release_that_reads_a_version(opset, ir_version, release):
    assert release_of(opset, ir_version) == release


def test_releases_are_compared_as_numbers():
    assert [number(name) for name in KNOWN] == sorted(number(name) for name in KNOWN)
    assert newest("1.9", "1.15", "1.2") == "1.15"
    assert newest("1.32", None) is None


# the command -----------------------------------------------------------------------------------------------


def written(tmp_path: Path, proto: onnx.ModelProto, **options) -> Path:
    opened = load(proto)
    if options:
        Encode(**options).run(opened)
    (tmp_path / "m.onnx").write_bytes(serialise(opened))
    return tmp_path / "m.onnx"


def test_the_command_prints_what_the_function_returns(tmp_path):
    path = written(tmp_path, mlp((96, 96, 96)), values="int8", set=("fc1*=shared:4",), encoding="dense")
    facts = onnxprune.compat(path)
    assert json.loads(call("compat", path, "--json").stdout) == dataclasses.asdict(facts)
    lines = [line.split() for line in call("compat", path).stdout.splitlines()]
    assert ["dense", "int8", "for", "MatMul", "1", "13", "1.15", "1.25", "loads"] in lines
    assert ["dense", "shared", "1", "10", "1.15", "1.15", "loads"] in lines
    text = " ".join(word for line in lines for word in line)
    assert "onnxruntime 1.15 loads it, 1.25 runs it fast." in text
    assert "onnxprune decode" in text
    assert "optimisation" in text


def test_the_command_without_encoded_weights(tmp_path):
    assert "No weight is encoded" in call("compat", written(tmp_path, matmul())).stdout


# the script ------------------------------------------------------------------------------------------------


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("compat")


def test_this_onnxruntime_does_what_the_table_says(tool, tmp_path, monkeypatch):
    """Fewer consumers and opsets than the script measures, all forms."""
    monkeypatch.setattr(tool, "CONSUMERS", ("MatMul Add", "Conv"))
    monkeypatch.setattr(tool, "OPSETS", {17: 8, 21: 10})
    cases = tool.write_cases(tmp_path)
    assert {(c.encoding, c.values.split(":")[0]) for c in cases} == {*OPSETS, ("coo", "exact")} - {("dense", "exact")}
    name, seen, _ = tool.measure(sys.executable, tmp_path, cases)
    assert name == f"onnxruntime {ort.__version__}"
    here = number(ort.__version__)
    for case, found in seen.items():
        values = case.values.split(":")[0]
        fused = values in FUSED and case.consumer != "Conv"
        loads, fast = FUSED[values][1:] if fused else FOLDED
        if here < number(loads):
            assert found.word == "no", (case, found)
        elif here < number(fast):
            assert found.word == "each run", (case, found)
        else:
            assert found.word == ("fused" if fused else "folded"), (case, found)
    assert seen.keys() == set(cases)


def test_rows_and_columns_with_the_same_cells_are_one(tool):
    def seen(word: str, last: str) -> dict:
        case = tool.Case("flat", "exact", "MatMul", 17)
        return {
            case: tool.Seen(word), dataclasses.replace(case, encoding="rows"): tool.Seen(word),
            dataclasses.replace(case, opset=21): tool.Seen(tool.UNREAD),
            dataclasses.replace(case, values="int4", opset=21): tool.Seen(last),
        }  # fmt: skip

    columns = {"a 1": seen("folded", tool.UNREAD), "a 2": seen("folded", "no"), "b 1": seen("folded", "fused")}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tool.table(columns).splitlines()]
    assert lines[0][3:] == ["a 1 to 2", "b 1"]
    assert lines[2:] == [
        ["exact", "flat, rows", "MatMul", "folded", "folded"],
        ["int4", "flat", "MatMul", "no", "fused"],
    ]
