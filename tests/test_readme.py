"""What README.md and CONTRIBUTING.md show is run as it stands there."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import onnxprune
from onnxprune import pipeline
from onnxprune.model.discovery import find
from tests.helpers.repository import DIGITS, LENETS, LENETS_PRUNED, ROOT

README = (ROOT / "README.md").read_text()


def block(text: str, language: str, containing: str) -> str:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (found,) = [body for kind, body in blocks if kind == language and containing in body]
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    for path in (*LENETS.values(), *LENETS_PRUNED.values(), DIGITS):
        shutil.copy(path, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(command: str) -> str:
    tool = Path(sys.executable).with_name("onnxprune")
    command = command.replace(".venv/bin/onnxprune", str(tool)).replace("onnxprune ", f"{tool} ", 1)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_command_prints_what_the_readme_shows(folder):
    command = block(README, "sh", "-o lenet.onnx").split(" && ")[-1].replace(".venv/bin/", "")
    printed = shell(command)
    shown = block(README, "", "\nlenet.onnx\n")
    assert [line.rstrip() for line in printed.splitlines()] == [line.rstrip() for line in shown.splitlines()]


def test_what_layers_cost_is_what_the_readme_shows(folder):
    """But for milliseconds, which end each row and make the last line."""
    *_, printed = (shell(line) for line in block(README, "sh", "lenet-5.small.onnx --data").splitlines())
    shown = block(README, "", "act %")
    tables = [[line.split()[:-1] for line in text.splitlines()[:-2]] for text in (printed, shown)]
    assert tables[0] == tables[1]
    assert printed.splitlines()[-2] == shown.splitlines()[-2]


def test_the_commands_of_the_start(folder):
    shutil.copy("models/lenet-5.onnx", "your.onnx")
    for line in block(README, "sh", "your.onnx").splitlines():
        assert shell(line.split("  #")[0])
    assert Path("your.pruned.onnx").stat().st_size * 7 < Path("your.onnx").stat().st_size
    assert Path("dense.onnx").is_file()


def test_from_samples_to_the_smallest_file(folder):
    assert shell(block(README, "sh", "-o sensitivity.json")) == block(README, "", "with one layer pruned")
    compress, report = block(README, "sh", "--max-drop 1").splitlines()
    assert shell(compress).endswith(block(README, "", "is within the drop of 1"))
    shell(report)
    assert "agreement with one layer at a time" in Path("report.html").read_text()


def test_many_models(folder):
    printed = shell(block(README, "sh", "small.jsonl"))
    assert printed == block(README, "", "2 models: 2 done")
    assert [json.loads(line)["status"] for line in Path("small.jsonl").read_text().splitlines()] == ["done", "done"]


def test_retraining(folder):
    """The commands with the three lines of the recipe as the training."""
    model = onnxprune.load("models/lenet-300-100.onnx")
    arrays = {w.name: w.array(model) for w in find(model)}
    save_file({f"net.{name}": array.copy() for name, array in arrays.items()}, "trained.safetensors")
    for line in block(README, "sh", "onnxprune update").splitlines():
        if line.startswith("python train.py"):
            exec(compile(block(README, "python", "load_file"), "README.md", "exec"), {})
        else:
            assert shell(line)
    assert Path("small.onnx").stat().st_size * 15 < Path("models/lenet-300-100.onnx").stat().st_size


def test_rounds_of_retraining(folder):
    """The commands with a training that moves what is kept, and an evaluation of one line."""
    Path("train.py").write_text(
        "import sys\nimport onnxprune\nfrom onnxprune.model.discovery import find\n"
        "from safetensors.numpy import load_file, save_file\n"
        "_, _, model, _, masks, _, out = sys.argv\n"
        "model, masks = onnxprune.load(model), load_file(masks)\n"
        "save_file({w.name: w.array(model) * masks.get(w.name, 1) * 1.01 for w in find(model)}, out)\n"
    )
    Path("evaluate.py").write_text("print('one image'), print(0.97)\n")
    for line in block(README, "sh", "onnxprune iterate").splitlines():
        assert shell(line.replace("'python ", f"'{sys.executable} "))
    assert Path("small.onnx").stat().st_size * 20 < Path("models/lenet-300-100.onnx").stat().st_size


def test_the_python_example(folder, capsys):
    exec(compile(block(README, "python", "import onnxprune"), "README.md", "exec"), {})
    ratio, nonzero = capsys.readouterr().out.splitlines()[0].split()
    assert float(ratio) > 1.8
    assert int(nonzero) < 431_080 * 0.51


def test_the_pass_of_contributing(folder, monkeypatch):
    source = block((ROOT / "CONTRIBUTING.md").read_text(), "python", "class Clip")
    (folder / "contributed_pass.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    clip = pipeline.create(importlib.import_module("contributed_pass").Clip, {"limit": 0.01})
    model = onnxprune.load("models/lenet-300-100.onnx")
    (change,) = pipeline.run(model, [clip])
    assert set(change.weights) == {"1.weight", "3.weight", "5.weight"}
    assert pipeline.run(model, [clip])[0].modified is False


def test_every_command_is_in_the_readme():
    from onnxprune.cli import cli

    assert all(f"`{name} " in README or f"`{name}`" in README for name in cli.commands)


def test_files_that_the_sources_name_are_there():
    held = {path.name for folder in ("onnxprune", "passes", "tools") for path in (ROOT / folder).rglob("*.*")}
    named = {
        (path.name, name)
        for folder in ("onnxprune", "passes", "tools")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\b(\w+\.(?:py|md))\b", path.read_text())
    }
    assert ("__init__.py", "table.py") in named
    assert not {(where, name) for where, name in named if name not in held | {"README.md", "CONTRIBUTING.md"}}
