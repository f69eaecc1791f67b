"""Sizes of the code: the longest files and functions, the fullest folders, all beyond a limit.

python tools/sizes.py [FOLDER ...]

The folders are onnxprune and passes by default. The limits: 400 lines in a file, 70 in a function
from its `def` to its end, 12 modules in a folder of the engine, onnxprune/ itself included, where
`__init__.py` does not count. Exit code 1: something is beyond a limit.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "onnxprune"
LINES, FUNCTION_LINES, MODULES = 400, 70, 12
SHOWN = 5


def functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions of a module by their qualified names, those within functions and classes too."""
    for node in ast.iter_child_nodes(tree):
        name = outer
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}{node.name}."
            if not isinstance(node, ast.ClassDef):
                yield name.removesuffix("."), node
        yield from functions(node, name)


def measured(folders: Sequence[Path]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Lines by file, lines by function, and modules by folder of the engine."""
    lines: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for path in sorted(file for folder in folders for file in folder.rglob("*.py")):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        lines[name] = len(text.splitlines())
        for function, node in functions(ast.parse(text)):
            lengths[f"{name}:{node.lineno} {function}"] = (node.end_lineno or node.lineno) - node.lineno + 1
        if path.name != "__init__.py" and name.startswith(f"{ENGINE}/"):
            modules[path.parent.relative_to(ROOT).as_posix()] += 1
    return lines, lengths, modules


def reported(title: str, limit: int, sizes: Mapping[str, int]) -> tuple[list[str], int]:
    """The largest few and all beyond the limit, a line each below the title, and how many are beyond it."""
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    beyond = sum(size > limit for size in sizes.values())
    lines = [
        f"{size:6,}  {name}{'  BEYOND THE LIMIT' * (size > limit)}" for name, size in largest[: max(SHOWN, beyond)]
    ]
    return [f"{title} (limit {limit}):", *lines], beyond


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="below the root of the repository")
    options = parser.parse_args()
    folders = [ROOT / folder for folder in options.folders or (ENGINE, "passes")]
    for folder in folders:
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
    lines, lengths, modules = measured(folders)
    faults = 0
    for title, limit, sizes in (
        ("longest files, in lines", LINES, lines),
        ("longest functions, in lines", FUNCTION_LINES, lengths),
        ("fullest folders, in modules", MODULES, modules),
    ):
        text, beyond = reported(title, limit, sizes)
        print("\n".join(text))
        faults += beyond
    if faults:
        print(f"Error: {faults} beyond a limit")
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
