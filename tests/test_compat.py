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
from click.testing import CliRunner

import onnxprune
from onnxprune.cli import cli
from onnxprune.encodings import FORMS, GRAPH
from onnxprune.encodings.compatibility import OPENVINO, RELEASES, Form, compatibility, newest, release_of, support
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune_passes import Encode
from tests.builders import conv_net, info, load, lstm, matmul, mlp, model, node, normal, serialise

TOOLS = Path(__file__).resolve().parent.parent / "tools"
ALL = [(encoding, values) for encoding in GRAPH for values in FORMS]
FUSING = [name for name, form in FORMS.items() if form().opset(fused=True) > form().opset(fused=False)]
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


@pytest.mark.parametrize(("encoding", "values"), ALL)
def test_every_form_has_an_entry(encoding, values):
    for fused in [False] + [True] * (values in FUSING):
        entry = support(encoding, values, fused)
        assert entry.opset == max(GRAPH[encoding].opset, FORMS[values]().opset(fused))
        assert entry.loads in KNOWN
        assert entry.fast in KNOWN
        assert number(entry.loads) <= number(entry.fast)


@pytest.mark.parametrize(("encoding", "values"), [(e, v) for e, v in ALL if (e, v) != ("dense", "exact")])
def test_a_model_reports_the_form_that_is_in_it(encoding, values):
    opened = load(product(0.9 if encoding == "dense" else 0.1, opset=21, ir_version=10))
    Encode(encoding=encoding, values=values).run(opened)
    (group,) = encoded_weights(opened)
    (form,) = compatibility(opened).forms
    name = encoding if values == "exact" else f"{encoding} {values}" + " for MatMul" * (values in FUSING)
    needs = support(encoding, values, values in FUSING)
    assert (group.encoding, group.values) == (encoding, values)
    assert (form.form, form.weights, form.opset) == (name, 1, needs.opset)
    assert (form.loads, form.fast) == (newest("1.18", needs.loads), newest("1.18", needs.fast))


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


def call(*args) -> str:
    result = CliRunner().invoke(cli, ["compat", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_what_the_function_returns(tmp_path):
    path = written(tmp_path, mlp((96, 96, 96)), values="int8", set=("fc1*=shared:4",), encoding="dense")
    facts = onnxprune.compat(path)
    assert json.loads(call(path, "--json")) == dataclasses.asdict(facts)
    lines = [line.split() for line in call(path).splitlines()]
    assert ["dense", "int8", "for", "MatMul", "1", "13", "1.15", "1.25", "loads"] in lines
    assert ["dense", "shared", "1", "10", "1.15", "1.15", "loads"] in lines
    text = " ".join(word for line in lines for word in line)
    assert "onnxruntime 1.15 loads it, 1.25 runs it fast." in text
    assert "onnxprune decode" in text
    assert "optimisation" in text


def test_the_command_without_encoded_weights(tmp_path):
    assert "No weight is encoded" in call(written(tmp_path, matmul()))


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
    assert {(c.encoding, c.values.split(":")[0]) for c in cases} == {*ALL, ("coo", "exact")} - {("dense", "exact")}
    name, seen, _ = tool.measure(sys.executable, tmp_path, cases)
    assert name == f"onnxruntime {ort.__version__}"
    here = number(ort.__version__)
    for case, found in seen.items():
        values = case.values.split(":")[0]
        fused = values in FUSING and case.consumer != "Conv"
        needs = support(case.encoding, values, fused)
        if here < number(needs.loads):
            assert found.word == "no", (case, found)
        elif here < number(needs.fast):
            assert found.word == "each run", (case, found)
        else:
            assert found.word == ("fused" if fused else "folded"), (case, found)


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
