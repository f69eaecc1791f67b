"""tools/bench as a command and as modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.repository import TOOLS

MODULES = (
    "analysis", "arguments", "charts", "comparison", "crowd", "defaults", "forms", "growth", "latency", "loads", "made",
    "measures", "models", "peers", "phases", "processes", "results", "scan", "strip", "tables",
)  # fmt: skip
LINUX = pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")


def modules(patch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Every module of the scoreboard by its name."""
    patch.syspath_prepend(str(TOOLS))
    return SimpleNamespace(**{name: importlib.import_module(f"bench.{name}") for name in MODULES})


def call(*arguments: object, code: int = 0) -> subprocess.CompletedProcess:
    """The command, with its output as text."""
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bench"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done
