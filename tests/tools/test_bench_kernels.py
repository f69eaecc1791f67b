"""The lab of releases: what it measures here, and the lines that its table joins."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from tests.helpers.releases import FUSED, number
from tests.helpers.repository import TOOLS

HERE = number(ort.__version__)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the lab, with this environment as the only release."""
    monkeypatch.syspath_prepend(str(TOOLS))
    names = {"kernels": "bench.kernels", "results": "bench.results", "environments": "compat.environments"}
    found = SimpleNamespace(**{name: importlib.import_module(module) for name, module in names.items()})
    monkeypatch.setattr(found.environments.Environment, "python", lambda self, folder: sys.executable)
    here = found.environments.Environment("onnxruntime", ort.__version__, ())
    monkeypatch.setattr(found.kernels, "_RELEASES", {ort.__version__: here})
    return found


def test_this_onnxruntime_is_measured(lab, tmp_path):
    found = lab.results.Results.begin("tools/bench kernels", [])
    options = Namespace(releases=[], environments=tmp_path, emulated=[], arm64=None, shape=[64, 96], batch=[1, 3])
    assert len(list(lab.kernels.run(options, found, tmp_path))) == 1
    rows = {(row.model, row.facts["batch"]): row for row in found.rows}
    assert len(rows) == len(found.rows) == 2 * len({row.model for row in found.rows})
    for batch in (1, 3):
        for form in ("int8", "int4"):
            row = rows[f"{form}, blocks", batch]
            _, loads, fast = FUSED[form]
            expected = "refused" if number(loads) > HERE else "each run" if number(fast) > HERE else "fused"
            assert row.facts["outcome"] == expected, row
            assert bool(row.problem) == (expected == "refused")
            assert expected == "refused" or (row.facts["ratio"] > 0 and row.facts["error"] < 0.02)
        assert rows["*int8, two readers*", batch].facts["outcome"] == "each run"
        assert rows["half", batch].facts["outcome"] == "once"
        assert rows["half", batch].facts["error"] < 1e-6


def test_an_emulator_runs_the_interpreter(lab, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(lab.environments.subprocess, "run", lambda command, **_: ran.append(command))
    lab.environments.Environment("onnxruntime", "1", ()).run(tmp_path, tmp_path, tmp_path, ["emulator", "-cpu", "X"])
    assert ran[0][:4] == ["emulator", "-cpu", "X", sys.executable]


def test_an_arm64_system_runs_its_own_interpreter_on_packages_for_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    module, ran = importlib.import_module("compat.environments"), []
    root = tmp_path / "root"
    found = module.Environment("onnxruntime", "1", ("onnxruntime==1",), arm64=root)
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "python3.11").touch()
    monkeypatch.setattr(module.subprocess, "run", lambda command, env=None, **_: ran.append((command, env)))
    found.run(tmp_path, tmp_path, tmp_path, ["emulator"])
    (pip, _), (command, env) = ran
    place = str(tmp_path / "onnxruntime-1-arm64")
    assert {"--platform=manylinux_2_28_aarch64", "--target", place, "onnxruntime==1"} <= {*pip}
    assert pip[pip.index("--python-version") + 1] == "3.11"
    assert command[:2] == ["emulator", str(root / "usr" / "bin" / "python3.11")]
    assert env["PYTHONPATH"] == place


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"releases": ["0.1"]}, "no environment for 0.1"),
        ({"environments": None}, "needs --environments"),
        ({"arm64": Path("root")}, "--arm64 needs --emulated"),
    ],
)
def test_what_cannot_be_measured_is_refused(lab, tmp_path, options, said):
    asked = {"releases": [], "environments": tmp_path, "emulated": [], "arm64": None, "shape": [64, 64], "batch": [1]}
    with pytest.raises(ValueError, match=said):
        next(lab.kernels.run(Namespace(**asked | options), None, tmp_path))


def test_releases_that_agree_are_one_line(lab):
    def row(release: str, outcome: str, ratio: float | None = None) -> object:
        facts = {"batch": 1, "cpu": "", "outcome": outcome} | ({} if ratio is None else {"ratio": ratio})
        return lab.results.Row("int2", release, facts=facts)

    rows = [row("1.9.0", "refused"), row("1.10.0", "each run", 9.0), row("1.11.0", "fused", 8.0),
            row("1.12.0", "fused", 0.3), row("1.13.0", "fused", 0.4), row("1.14.0", "fused", 0.5)]  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lab.kernels.shown(rows).splitlines()[2:]]
    assert lines == [
        ["int2", "1.9.0", "refused", ""], ["", "1.10.0", "each run", "9.00"], ["", "1.11.0", "fused", "8.00"],
        ["", "1.12.0 to 1.13.0", "fused", "0.30 to 0.40"], ["", "1.14.0", "fused", "0.50"],
    ]  # fmt: skip
