"""The tool that measures which runtimes read a model: against the table, and the page against its data."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from tests.helpers.releases import FOLDED, FUSED, HELD, number
from tests.helpers.repository import TOOLS

# What an adapter says where a kernel reads integers of the encoded model.
READ = {f"{kind}_facts": {"decoding": [], "fused": kind == "encoded"} for kind in ("encoded", "decoded")}


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(TOOLS))
    names = ("cases", "data", "environments", "forms", "outcomes", "page", "runner")
    return SimpleNamespace(**{name: importlib.import_module(f"compat.{name}") for name in names})


def here(tool: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    """This environment in place of one of its own."""
    monkeypatch.setattr(tool.environments.Environment, "python", lambda self, folder: sys.executable)
    return tool.environments.Environment("onnxruntime", ort.__version__, ())


def test_this_onnxruntime_does_what_the_table_says(tool, tmp_path, monkeypatch):
    """Fewer consumers and opsets than the tool measures, all forms."""
    cases = tool.cases.write_cases(tmp_path, ("MatMul Add", "Conv"), (17, 21))
    measured = {(c.encoding, c.values.split(":")[0]) for c in cases}
    assert measured == {*HELD, ("escape", "int8"), ("coo", "exact")} - {("dense", "exact")}  # int8:5 has a codebook
    found = tool.forms.measure(here(tool, monkeypatch), tmp_path, tmp_path, cases)
    assert found.keys() == {*cases}
    for case, result in found.items():
        seen = tool.outcomes.outcome(case.fused, result)
        loads, fast = FUSED[case.values.split(":")[0]][1:] if case.fused else FOLDED
        release = number(ort.__version__)
        good = "fused" if case.fused else "once"
        expected = "refused" if release < number(loads) else "each run" if release < number(fast) else good
        assert seen.word == expected, (case, seen)


def test_an_encoding_is_measured_beside_what_is_there(tool):
    row = {"encoding": ["flat", "rows"], "values": ["exact"], "outcome": "once"}
    other = row | {"encoding": ["rows"]}
    held = {"forms": [{"runtime": "tract", "versions": ["1", "2"], "measured": "then", "rows": [row, other]}]}
    assert tool.data.rows_of(held, "tract", "2") == [row, other]
    assert tool.data.rows_of(held, "tract", "3") == tool.data.rows_of(held, "mnn", "2") == []
    assert tool.forms.without([row, other], ["rows"]) == [row | {"encoding": ["flat"]}]


def test_a_layer_is_measured_beside_what_is_there(tool):
    row = {"encoding": ["flat", "rows"], "consumer": ["Conv", "Gather"], "outcome": "once"}
    assert tool.forms.without([row], [], ["Conv"]) == [row | {"consumer": ["Gather"]}]
    left = tool.forms.without([row], ["rows"], ["Conv"])
    held = sorted((e, c) for each in left for e in each["encoding"] for c in each["consumer"])
    assert held == [("flat", "Conv"), ("flat", "Gather"), ("rows", "Gather")]
    assert tool.forms.without([row], ["rows", "flat"], ["Conv", "Gather"]) == []


def test_large_layers_have_large_weights(tool):
    for name, most in (("Gather 1M", 1 << 20), ("Gather 8M", 1 << 23), ("MatMul 1M", 1 << 20)):
        (weight,) = tool.cases.consumer_model(name, 17).graph.initializer
        assert 0.95 * most < weight.dims[0] * weight.dims[1] <= most


def test_a_process_that_dies_or_does_not_end_is_an_outcome(tool):
    def dies(say):
        say({"decoded_error": 0.0})
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(say):
        time.sleep(60)

    assert tool.runner.bounded(dies, 30) == {"decoded_error": 0.0, "reason": "died of signal 9"}
    assert tool.runner.bounded(hangs, 0.2) == {"reason": "no answer in 0 s"}
    assert "ValueError: no" in tool.runner.bounded(lambda say: int("no"), 30)["reason"].replace("invalid literal", "no")


@pytest.mark.parametrize(
    ("fused", "found", "word"),
    [
        (False, {"decoded_error": 0.5}, "decoded model refused"),
        (False, {"decoded_error": 0.0, "reason": "no such operator"}, "refused"),
        (False, {"decoded_error": 0.0, "encoded_error": 0.5, "own_error": 0.5}, "wrong"),
        (False, {"decoded_error": 0.0, "encoded_error": 5e-3, "own_error": 5e-3}, "wrong"),
        (False, {"encoded_run": 1e-4, "decoded_run": 1e-4}, "once"),
        (False, {"encoded_run": 9e-4, "decoded_run": 1e-4}, "each run"),
        (True, {"encoded_error": 5e-3, "own_error": 5e-3, "encoded_run": 1e-4, "decoded_run": 1e-4}, "fused"),
        (True, {"encoded_run": 9e-4, "decoded_run": 1e-4}, "each run"),
        (False, {"own_error": 5e-3, "encoded_error": 5e-3, **READ}, "fused"),
        (False, {"own_error": 5e-2, "encoded_error": 5e-2, **READ}, "wrong"),
        (False, {"encoded_facts": {"stored": 9}, "decoded_facts": {"stored": 10}}, "expanded"),
    ],
)
def test_the_word_for_what_was_found(tool, fused, found, word):
    fine = {} if "decoded_error" in found else {"decoded_error": 0.0, "encoded_error": 0.0, "own_error": 0.0}
    assert tool.outcomes.outcome(fused, fine | found).word == word


def test_rows_with_the_same_outcome_are_one(tool):
    case, seen = tool.cases.Case("flat", "exact", False, "MatMul", 17), tool.outcomes.Seen
    rows = tool.forms.merged(
        {
            case: seen("once"), dataclasses.replace(case, encoding="rows"): seen("once"),
            dataclasses.replace(case, opset=21): seen(tool.outcomes.UNREAD),
            dataclasses.replace(case, values="int4"): seen("refused", "why"),
        }
    )  # fmt: skip
    assert [(row["encoding"], row["values"], row["opset"], row["outcome"]) for row in rows] == [
        (["flat", "rows"], ["exact"], [17], "once"), (["flat"], ["int4"], [17], "refused"),
    ]  # fmt: skip
    assert rows[1]["reason"] == "why"


def test_the_data_file_is_what_the_tool_writes(tool, tmp_path, monkeypatch):
    before = tool.data.PLACE.read_text()
    monkeypatch.setattr(tool.data, "PLACE", tmp_path / "runtimes.json")
    tool.data.write(json.loads(before))
    assert (tmp_path / "runtimes.json").read_text() == before


def test_the_page_holds_what_the_data_says(tool):
    text = tool.page.PAGE.read_text()
    assert tool.page.made(text) == text
    assert "<!-- table: forms -->" in text


def test_versions_that_agree_are_one_entry(tool):
    rows = [{"encoding": ["flat"], "outcome": "once"}]
    data = tool.data.with_forms(dict(tool.data.EMPTY), "a", "1.9", "2026-11-29", rows)
    data = tool.data.with_forms(data, "a", "1.10", "2026-11-29", rows)
    assert [held["versions"] for held in data["forms"]] == [["1.9", "1.10"]]
    data = tool.data.with_forms(data, "a", "1.10", "2026-11-29", [])
    assert [held["versions"] for held in data["forms"]] == [["1.9"], ["1.10"]]
