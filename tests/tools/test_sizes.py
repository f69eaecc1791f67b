"""The longest files and functions, and what is beyond a limit."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.repository import TOOLS


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
