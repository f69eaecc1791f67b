"""The command line, called in this process or in one of its own, and what it leaves."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import CliRunner, Result

from onnxprune.cli import cli

SIZES = (32, 64, 8)  # big enough to be pruned
TOOL = Path(sys.executable).with_name("onnxprune")


def call(*args: object, code: int = 0) -> Result:
    """What a command prints, which must end with this code."""
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder by its path; None for what is no file."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
