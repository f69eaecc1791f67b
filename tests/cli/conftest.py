"""The command line in this process, and what must hold where it refuses."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from onnxprune import cli
from tests.helpers.builders import mlp
from tests.helpers.commands import SIZES, snapshot
from tests.helpers.running import put


@pytest.fixture
def shell(capsys, monkeypatch):
    """Runs `main` in this process as the shell would: (exit code, stdout, stderr)."""

    def run(*args) -> tuple[int, str, str]:
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "argv", ["onnxprune", *map(str, args)])
        try:
            with pytest.raises(SystemExit) as caught:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        return (caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(shell, tmp_path):
    """Asserts that a call fails in one line with the code, and changes no file; returns the line."""

    def check(code: int, *args) -> str:
        before = snapshot(tmp_path)
        status, out, err = shell(*args)
        assert (status, out) == (code, ""), err
        assert err.count("Error: ") == 1
        assert "Traceback" not in err
        if code != 2:  # click shows the usage before the line
            assert err.startswith("Error: ")
            assert err.count("\n") == 1
        assert snapshot(tmp_path) == before
        return err.partition("Error: ")[2]

    return check


@pytest.fixture
def model(tmp_path) -> Path:
    return put(tmp_path / "m.onnx", mlp(sizes=SIZES))
