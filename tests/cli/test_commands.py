"""Every command on its happy path, and the promises that scripts rely on."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.cli import cli
from onnxprune.pipeline import registry
from onnxprune.pipeline.base import parse as parse_pass
from tests.helpers.builders import mlp
from tests.helpers.commands import call
from tests.helpers.running import initializers


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "m.onnx").write_bytes(mlp(sizes=(64, 128, 10)).SerializeToString())
    return tmp_path / "m.onnx"


@pytest.fixture
def external(tmp_path) -> Path:
    proto = mlp(sizes=(64, 128, 10))
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    return tmp_path / "e.onnx"


def zeros(path: Path) -> int:
    weights = initializers(onnx.load(path))
    return int((weights["fc0.weight"] == 0).sum())


def parse(text: str):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_compress_writes_beside_the_model(model):
    before = model.read_bytes()
    result = call("compress", model)
    written = model.with_name("m.pruned.onnx")
    assert "smaller" in result.stdout
    assert written.stat().st_size < model.stat().st_size
    assert model.read_bytes() == before
    call("compress", model, "-o", model.with_name("h.onnx"), "--sparsity", "0.5", "--values", "exact")
    call("decode", model.with_name("h.onnx"), "-o", model.with_name("d.onnx"))
    assert zeros(model.with_name("d.onnx")) == 64 * 128 // 2


def test_prune(model, tmp_path):
    call("prune", model, "-o", tmp_path / "o.onnx", "--sparsity", "0.75")
    assert zeros(tmp_path / "o.onnx") == 64 * 128 * 3 // 4


def test_encode_and_decode_restore_every_bit(model, tmp_path):
    call("prune", model, "-o", tmp_path / "p.onnx", "--sparsity", "0.9")
    call("encode", tmp_path / "p.onnx", "-o", tmp_path / "e.onnx")
    call("decode", tmp_path / "e.onnx", "-o", tmp_path / "d.onnx")
    sizes = {n: (tmp_path / f"{n}.onnx").stat().st_size for n in "ped"}
    assert sizes["e"] < sizes["p"] / 3
    first, last = ({t.name: t.raw_data for t in onnx.load(tmp_path / f"{n}.onnx").graph.initializer} for n in "pd")
    assert first == last


def test_run(model, tmp_path):
    call("run", model, "-o", tmp_path / "r.onnx", "-p", "magnitude{sparsity=0.9}", "-p", "encode")
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "r.onnx").metadata_props}
    assert metadata["onnxprune.passes"] == "magnitude{sparsity=0.9} encode"


@pytest.mark.parametrize("options", [["--cost"], ["--samples", "2"], ["--data", "data.npz"]])
def test_inspect_what_layers_cost(model, tmp_path, options):
    np.savez(tmp_path / "data.npz", x=np.ones((3, 64), np.float32))
    options = [str(tmp_path / o) if o.endswith("npz") else o for o in options]
    shown = call("inspect", model, *options).stdout
    assert all(word in shown for word in ("fc0.weight", "act %", "FLOP %", "total", "a run (x 1x64) takes"))
    facts = parse(call("inspect", model, *options, "--json").stdout)
    assert [layer["weights"] for layer in facts["layers"]] == [["fc0.weight"], ["fc1.weight"]]
    assert facts["total"]["flops"] == 2 * facts["total"]["parameters"]
    assert facts["samples"] == {"--cost": 8, "--samples": 2}.get(options[0], 3)
    assert facts["source"] == ("data" if options[0] == "--data" else "synthetic")


def test_inspect(model):
    assert "fc0.weight" in call("inspect", model).stdout
    rows = {row["name"]: row for row in parse(call("inspect", model, "--json").stdout)}
    assert rows["fc0.weight"]["shape"] == [128, 64]
    assert rows["fc0.weight"]["total"] == 128 * 64


def test_verify(model, tmp_path):
    call("prune", model, "-o", tmp_path / "p.onnx", "--sparsity", "0.5")
    assert "equal" in call("verify", model, model, "--tolerance", "0").stdout
    assert "SQNR" in call("verify", model, tmp_path / "p.onnx").stdout
    facts = parse(call("verify", model, model, "--json").stdout)
    assert facts["outputs"][0]["sqnr_db"] is None, "JSON has no infinity"


def test_passes():
    names = {line.split()[0] for line in call("passes").stdout.splitlines() if not line.startswith(" ")}
    assert {"magnitude", "encode", "decode"} <= names


def test_data(model, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((40, 64), np.float32))
    call("compress", model, "--data", tmp_path / "d.npz", "--samples", "33", "--json", tmp_path / "r.json")
    found = parse((tmp_path / "r.json").read_text())["deviation"]
    assert (found["source"], found["samples"]) == ("data", 33)


@pytest.mark.parametrize("options", [["--no-verify"], []])
def test_json_holds_what_the_design_lists(model, tmp_path, options):
    call("compress", model, "--sparsity", "0.9", "--json", tmp_path / "r.json", *options)
    facts = parse((tmp_path / "r.json").read_text())
    for side, path in (("input", model), ("output", tmp_path / "m.pruned.onnx")):
        assert facts[side]["path"] == str(path)
        assert facts[side]["bytes"] == path.stat().st_size
        assert 0 < facts[side]["gzip_bytes"] <= facts[side]["bytes"] * 1.01 + 100
    assert facts["ratio"] == pytest.approx(facts["input"]["bytes"] / facts["output"]["bytes"])
    assert facts["parameters"].keys() == {"before", "after", "nonzero"}
    (weight,) = (w for w in facts["weights"] if w["name"] == "fc0.weight")
    assert weight.keys() >= {"name", "shape", "dtype", "total", "zeros", "requested", "encoding", "bytes_before",
                             "bytes_after"}  # fmt: skip
    assert (weight["total"], weight["zeros"], weight["requested"]) == (8192, round(0.9 * 8192), 0.9)
    assert all(s.keys() == {"name", "reason"} for s in facts["skipped"])
    assert facts["skipped"]
    assert facts["removed"]
    assert all(r.keys() == {"name", "axis", "before", "after", "indices"} for r in facts["removed"])
    assert all(r["before"] - r["after"] == len(r["indices"]) for r in facts["removed"])
    assert (facts["cost"] is None) == bool(options)
    assert facts["deviation"]["source"] == ("none" if options else "synthetic")
    for output in facts["deviation"]["outputs"]:
        assert output.keys() >= {"name", "max_abs", "sqnr_db", "cosine", "top1_agreement"}
    assert facts["passes"]
    assert facts["versions"].keys() >= {"onnxprune", "onnx", "onnxruntime", "numpy"}


@pytest.mark.parametrize("source", ["model", "external"])
def test_the_same_call_gives_the_same_bytes(request, source, tmp_path):
    path, results = request.getfixturevalue(source), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        call("compress", path, "-o", tmp_path / name / "o.onnx", "--sparsity", "0.8", "-q")
        results.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert results[0] == results[1]
    assert len(results[0]) == (2 if source == "external" else 1)


def test_external_data_compresses_to_a_model_that_decodes(external, tmp_path):
    call("compress", external, "-o", tmp_path / "o.onnx", "--sparsity", "0.5")
    call("compress", external, "-o", external, "--in-place", "--sparsity", "0.5")
    for path in (tmp_path / "o.onnx", external):
        call("decode", path, "-o", tmp_path / "d.onnx")
        assert zeros(tmp_path / "d.onnx") == 64 * 128 // 2


def test_quiet_prints_nothing(model):
    result = call("compress", model, "-q")
    assert (result.stdout, result.stderr) == ("", "")


def test_packing_may_be_quiet(model, tmp_path):
    assert "ratio" in call("pack", model, "-o", tmp_path / "m.onnxz").output
    assert call("pack", model, "-o", tmp_path / "m.onnxz", "-q").output == ""
    assert call("unpack", tmp_path / "m.onnxz", "-o", tmp_path / "u.onnx", "--quiet").output == ""
    assert (tmp_path / "u.onnx").read_bytes() == model.read_bytes()


def test_quiet_warns_where_hardly_anything_is_left_and_nobody_asked_for_it(model):
    assert "far off: SQNR" in call("encode", model, "-o", model.with_name("o.onnx"), "-q", "--values", "int2").stderr
    assert not call("compress", model, "-q", "--sparsity", "0.98").stderr
    for rule in (["--sparsity", "0.98"], ["--set", "*weight=0.98"], ["--threshold", "9"]):
        assert not call("prune", model, "-o", model.with_name("o.onnx"), "-q", *rule).stderr


def test_what_cannot_be_verified_is_a_warning(tmp_path):
    proto = mlp(sizes=(64, 128, 10))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "odd"
    proto.graph.node[0].input[0] = "r"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([11, 64]), "eleven"))
    proto.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "eleven"], ["r"]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert "not verified" in call("compress", tmp_path / "m.onnx", "-q").stderr
    assert (tmp_path / "m.pruned.onnx").exists()


@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help(command):
    text = call(*([command] if command else []), "--help").stdout
    assert "Usage:" in text
    assert command or all(name in text for name in cli.commands)


def test_the_import_is_light():
    code = "import onnxprune, onnxprune.cli, sys; print({'onnx', 'onnxruntime', 'numpy', 'rich'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ).strip() == "set()"


@pytest.mark.parametrize(
    ("command", "loss"),
    [(["encode", "--values", "auto"], 0.01), (["compress"], 0.01), (["compress", "--sparsity", "0.5"], 0.01)],
)
def test_the_loss_with_few_samples_is_the_one_that_help_tells(model, tmp_path, command, loss):
    np.savez(tmp_path / "d.npz", x=np.ones((4, 64), np.float32))
    call(*command, model, "-o", tmp_path / "o.onnx", "--data", tmp_path / "d.npz", "--json", tmp_path / "o.json")
    step = parse_pass(parse((tmp_path / "o.json").read_text())["passes"][-1], registry.table())
    assert step.loss == loss
    told = re.search(r"\[default: (0\.01.*?)\]", " ".join(call(command[0], "--help").stdout.split())).group(1)
    promise = "0.01; with --data and no rule the largest up to 1.28 that keeps a promise, see the guide"
    assert told == ("0.01" if command[0] == "encode" else promise)
    judging = "fewer than 16 samples judge nothing: the loss is that of no data"
    assert (judging in parse((tmp_path / "o.json").read_text())["notes"]) == (command == ["compress"])


@pytest.mark.parametrize("command", ["compress", "prune", "strip", "encode", "decode"])
def test_python_takes_what_the_command_offers(command):
    names = {p.name for p in cli.commands[command].params}
    taken = {*inspect.signature(getattr(onnxprune, command)).parameters}
    renamed = {"models": "model", "set_": "set", "no_strip": "strip", "no_verify": "verify"}
    of_the_command = {"json_file", "html_file", "quiet", "cluster"}
    assert {renamed.get(name, name) for name in names} - of_the_command <= taken


def test_the_package_is_a_command_too(tmp_path):
    """Workers of several models import what was started."""
    for name in "ab":
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.onnx").write_bytes(mlp(sizes=(64, 64, 10)).SerializeToString())
    command = [sys.executable, "-m", "onnxprune", "compress", tmp_path / "in", "-o", tmp_path / "out", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.onnx")) == ["a.onnx", "b.onnx"]
