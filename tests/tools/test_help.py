"""Every tool explains itself."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers.repository import TOOLS

LIBRARIES = {
    "derived_models.py",
    "known_models.py",
    "marks.py",
    "mnist.py",
    "random_models.py",
    "tasks",
}  # imported by tools, none themselves
EXTRAS = {  # the mark of a tool that imports a framework, and the package
    "retrain_jax.py": ("jax", "optax"), "retrain_torch.py": ("torch", "torch"), "train_lenet.py": ("torch", "torch"),
}  # fmt: skip


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
