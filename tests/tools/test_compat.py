"""The script that measures which runtimes read a model, against the table."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from types import ModuleType

import onnxruntime as ort
import pytest

from tests.helpers.releases import FOLDED, FUSED, OPSETS, number
from tests.helpers.repository import TOOLS


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("compat")


def test_this_onnxruntime_does_what_the_table_says(tool, tmp_path, monkeypatch):
    """Fewer consumers and opsets than the script measures, all forms."""
    monkeypatch.setattr(tool, "CONSUMERS", ("MatMul Add", "Conv"))
    monkeypatch.setattr(tool, "OPSETS", {17: 8, 21: 10})
    cases = tool.write_cases(tmp_path)
    assert {(c.encoding, c.values.split(":")[0]) for c in cases} == {*OPSETS, ("coo", "exact")} - {("dense", "exact")}
    name, seen, _ = tool.measure(sys.executable, tmp_path, cases)
    assert name == f"onnxruntime {ort.__version__}"
    here = number(ort.__version__)
    for case, found in seen.items():
        values = case.values.split(":")[0]
        fused = values in FUSED and case.consumer != "Conv"
        loads, fast = FUSED[values][1:] if fused else FOLDED
        if here < number(loads):
            assert found.word == "no", (case, found)
        elif here < number(fast):
            assert found.word == "each run", (case, found)
        else:
            assert found.word == ("fused" if fused else "folded"), (case, found)
    assert seen.keys() == set(cases)


def test_rows_and_columns_with_the_same_cells_are_one(tool):
    def seen(word: str, last: str) -> dict:
        case = tool.Case("flat", "exact", "MatMul", 17)
        return {
            case: tool.Seen(word), dataclasses.replace(case, encoding="rows"): tool.Seen(word),
            dataclasses.replace(case, opset=21): tool.Seen(tool.UNREAD),
            dataclasses.replace(case, values="int4", opset=21): tool.Seen(last),
        }  # fmt: skip

    columns = {"a 1": seen("folded", tool.UNREAD), "a 2": seen("folded", "no"), "b 1": seen("folded", "fused")}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tool.table(columns).splitlines()]
    assert lines[0][3:] == ["a 1 to 2", "b 1"]
    assert lines[2:] == [
        ["exact", "flat, rows", "MatMul", "folded", "folded"],
        ["int4", "flat", "MatMul", "no", "fused"],
    ]
