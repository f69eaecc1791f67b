"""The commands of tools/bench on the smallest models: what they measure, write and refuse."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import onnxprune
from tests.helpers.benches import LINUX, call
from tests.helpers.repository import MODELS, TOOLS


def test_growth_is_measured_compared_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    printed = call("growth", "--sizes", "64K/1", "--runs", "1", "--json", out, "--folder", tmp_path).stdout
    assert {p.name for p in tmp_path.iterdir()} == {"a.json"}, "models and outputs are cleaned up"
    held = json.loads(out.read_text())
    rows = {(row["model"], row["tool"]): row for row in held["rows"]}
    assert {model for model, _ in rows} == {"16K", "64K/1"}
    for (model, tool), row in rows.items():
        assert row["problem"] in ("", "not installed"), (model, tool, row["problem"])
        assert row["weights"] == (1 << 14 if model == "16K" else 1 << 16)
        if not row["problem"]:
            assert len(row["seconds"]) == len(row["peaks"]) == 1
            assert row["read"] >= 4 * row["weights"]
            assert 0 < row["bytes"] < row["read"] or tool == "onnxsim magnitude"
    size = "64K/1"
    exact = [rows[size, f"onnxprune exact, {how}"]["bytes"] for how in ("1 core", "2 threads")]
    assert exact[0] == exact[1] == rows[size, "read once, write once"]["bytes"]
    assert rows[size, "onnxprune shared:4, 1 core"]["bytes"] * 2 < exact[0]
    assert printed.count("\n| onnxprune exact, 1 core | ") == 2
    again = call("compare", out, out).stdout
    assert again.count("| 1.00x | 1.00x | 1.00x | 1.00x |") == sum(not row["problem"] for row in rows.values())
    held["rows"] = [row | {"model": row["model"].removesuffix("/1")} for row in held["rows"]]
    out.write_text(json.dumps(held))
    for path in call("chart", out, tmp_path).stdout.splitlines():
        text = Path(path).read_text()
        assert ET.fromstring(text).get("role") == "img"
        assert "prefers-color-scheme: dark" in text
        assert "onnxprune exact, 1 core" in text
        assert len(text) < 64_000


@LINUX
def test_a_crowd_with_a_killed_worker(tmp_path: Path) -> None:
    printed = call("crowd", "--models", "16", "--damaged", "4", "--json", tmp_path / "c.json").stdout
    assert "12 results of 12" in printed
    assert "4 lines of error for 4 damaged models" in printed
    assert [bar.split(":")[0] for bar in json.loads((tmp_path / "c.json").read_text())["bars"]] == ["met"] * 5


def test_the_shares_of_a_profile_add_up(bench: SimpleNamespace, tmp_path: Path) -> None:
    call("profile", "--size", "256K", "--runs", "1", "--json", tmp_path / "p.json")
    rows = {row["tool"]: row["seconds"][0] for row in json.loads((tmp_path / "p.json").read_text())["rows"]}
    assert len(rows) == len(bench.phases.functions()) + 4
    limit, total = rows.pop(bench.peers.LIMIT), rows.pop(bench.phases.TOTAL)
    assert 0 < limit < total
    assert sum(rows.values()) == pytest.approx(total)
    assert all(seconds > 0 for seconds in rows.values()), "a phase that is never entered is named wrongly"


def test_the_shares_of_the_defaults_add_up(bench: SimpleNamespace, tmp_path: Path) -> None:
    model = MODELS / "lenet-5.onnx"
    printed = call("default", "--network", "--model", model, "--runs", "1", "--json", tmp_path / "d.json").stdout
    rows = {row["tool"]: row["cpu"][0] for row in json.loads((tmp_path / "d.json").read_text())["rows"]}
    assert len(rows) == len(bench.defaults.functions()) + 3
    assert "| lenet-5, s | share |" in printed
    total = rows.pop(bench.phases.TOTAL)
    assert sum(rows.values()) == pytest.approx(total)
    assert all(seconds > 0 for seconds in rows.values()), "a phase that is never entered is named wrongly"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["growth", "--sizes", "64K/3"], "Error: size '64K/3' is not a number of square layers"),
        (["growth", "--sizes", "big"], "Error: size 'big' must look like 64M, 2G or 1G/1"),
        (["compare", "none.json", "none.json"], "Error: none.json holds no results: [Errno 2]"),
        (["chart", str(TOOLS / "check"), "."], "check holds no results: Expecting value"),
        (["crowd", "--models", "4", "--damaged", "2"], "Error: --damaged must be at most a quarter"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(arguments: list[str], said: str) -> None:
    error = call(*arguments, code=1).stderr
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "rows", "facts"),
    [
        (["models", "--model", MODELS / "lenet-300-100.onnx", "--runs", "1"], 2, {"latency_ms"}),
        (["forms", "--model", "lenet-300-100", "--runs", "1"], 6, {"error", "packed_bytes", "batch_64_ms"}),
        (["latency", "--model", MODELS / "lenet-5.onnx", "--rounds", "1"], 2, set()),
        (["session", "--width", "64", "--batch", "2", "--rounds", "1"], 15, {"batch", "ratios"}),
        (["strip", "--network", "squeezenet", "--model", MODELS / "lenet-5.onnx", "--rounds", "1"], 6, {"operations"}),
        (["analysis", "--nodes", "8"], 2, {"nodes"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
@LINUX
def test_a_command_writes_what_it_shows(
    bench: SimpleNamespace, tmp_path: Path, command: list, rows: int, facts: set[str]
) -> None:
    out = tmp_path / "r.json"
    printed = call(*command, "--json", out, "--folder", tmp_path).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    found = bench.results.Results.load(out)
    assert found.command == f"tools/bench {command[0]}"
    assert found.arguments == list(map(str, command[1:]))
    measured = [row for row in found.rows if not row.problem]
    assert len(measured) >= rows
    assert all(row.seconds or row.cpu or row.facts for row in measured)
    assert facts <= measured[-1].facts.keys() | measured[0].facts.keys()
    assert printed.startswith(f"{found.caption}\n\n{bench.measures.showing(found.command).shown(found.rows)}")


def test_a_scan_is_timed_here_and_on_a_cluster(bench: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the cluster extra")
    images = np.load(MODELS / "mnist-sample.npz")["image"][:16]
    answers = onnxprune.session(MODELS / "lenet-5.onnx").run(None, {"image": images})[0].argmax(1)
    np.savez(tmp_path / "d.npz", image=images, targets=answers)
    call("scan", "--data", tmp_path / "d.npz", "--rounds", "1", "--json", tmp_path / "s.json")
    found = bench.results.Results.load(tmp_path / "s.json")
    assert [row.tool for row in found.rows] == [bench.scan.ONE, bench.scan.TWO, bench.scan.CLUSTER]
    assert [bar.split(":")[0] for bar in found.bars] == ["met"]


def test_places_are_no_part_of_what_is_measured(bench: SimpleNamespace) -> None:
    given = ["--sizes", "1M", "2M", "--json", "f.json", "--peers-python", "a", "b", "--runs", "2", "--folder=there"]
    assert bench.arguments.without_places(given) == ["--sizes", "1M", "2M", "--runs", "2"]
