"""The command line, called in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from onnxprune.cli import cli


def call(*args: object, code: int = 0) -> Result:
    """What a command prints, which must end with this code."""
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result
