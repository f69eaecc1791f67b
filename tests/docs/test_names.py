"""Docstrings and comments name modules, and what is in them, as they are called now."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import defaultdict
from pathlib import Path

from tests.helpers.repository import ROOT

SOURCES = sorted(path for folder in ("onnxprune", "passes") for path in (ROOT / folder).rglob("*.py"))
NAMED = re.compile(r"`([a-z_]\w*)\.(\w+)[^`\n]*`")
FILES = {"html", "json", "onnx", "npz", "py", "toml"}  # `index.html` is no module
OTHERS = {"np", "params", "linear"}  # numpy; parameters of a framework


def module_of(path: Path) -> str:
    """The last part of its dotted name."""
    return path.parent.name if path.stem == "__init__" else path.stem


def held(tree: ast.AST) -> set[str]:
    """Whatever a module, or a class in it, defines or imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


def test_names_of_modules_in_docstrings_exist():
    trees = {path: ast.parse(path.read_text()) for path in SOURCES}
    modules: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        modules[module_of(path)] |= held(tree)
        package = path.parent.parent if path.stem == "__init__" else path.parent
        modules[package.name].add(module_of(path))
    stale = []
    for path, tree in trees.items():
        local = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        local |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        for module, name in NAMED.findall(path.read_text()):
            known = name in modules[module] if module in modules else module in OTHERS | local
            if not known and name not in FILES and not (module not in modules and importlib.util.find_spec(module)):
                stale.append(f"{path.relative_to(ROOT)}: `{module}.{name}`")
    assert not stale, "\n".join(stale)
