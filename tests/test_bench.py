"""The scoreboard of tools/bench on the smallest models: what it measures, keeps, compares and draws."""

import dataclasses
import itertools
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from tests.helpers.benches import call, modules
from tests.helpers.repository import MODELS, TOOLS

LINUX = pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return modules(monkeypatch)


# the command ----------------------------------------------------------------------------------------


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


# the parts ------------------------------------------------------------------------------------------


def test_measure_reports_failures_and_output(bench: SimpleNamespace, tmp_path: Path) -> None:
    measure = bench.processes.measure
    found = measure([sys.executable, "-c", "print('out')"], tmp_path / "out", one_core=True)
    assert found.seconds > 0
    assert found.cpu > 0
    assert found.peak > 1 << 20
    assert found.problem == ""
    assert (tmp_path / "out").read_text() == "out\n"
    assert measure([sys.executable, "-c", "raise SystemExit('no such thing')"]).problem == "failed: no such thing"
    killed = measure([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert killed.problem == "failed: killed by signal 9"


@LINUX
def test_measure_limits_address_space_and_cores(bench: SimpleNamespace) -> None:
    count = "import os; raise SystemExit(str(len(os.sched_getaffinity(0))))"
    assert bench.processes.measure([sys.executable, "-c", count], one_core=True).problem == "failed: 1"
    much = [sys.executable, "-c", "bytearray(1 << 30)"]
    assert bench.processes.measure(much, address_space=1 << 29).problem == "failed: MemoryError"
    assert bench.processes.measure(much).problem == ""


def test_a_peer_that_is_not_there_is_not_installed(bench: SimpleNamespace) -> None:
    tool = bench.peers.Tool
    assert tool("peer", (), ("no-such-peer",)).installed() == ""
    assert tool("peer", (), (sys.executable, "-c", "import no_such_module")).installed() == ""
    assert tool("peer", (), (sys.executable, "-c", "print('*** Peer (64-bit) v1.20, by')")).installed() == "1.20"


@pytest.mark.parametrize(
    ("text", "layers", "width"),
    [("1M", 4, 512), ("8M", 8, 1024), ("256M", 4, 8192), ("1G/1", 1, 32768), ("2G", 8, 16384)],
)
def test_sizes(bench: SimpleNamespace, text: str, layers: int, width: int) -> None:
    size = bench.growth.Size.of(text)
    assert (size.layers, size.width) == (layers, width)
    assert size.weights == int(text[:-1].split("G")[0]) << (20 if "M" in text else 30)


@pytest.mark.parametrize("inline", [True, False])
def test_square_layers_are_inline_or_external(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    monkeypatch.setattr(bench.made, "INLINE", 1 << 29 if inline else 0)
    bench.made.squares(str(tmp_path / "m.onnx"), 2, 32)
    assert len(list(tmp_path.iterdir())) == (1 if inline else 2)
    assert [w["shape"] for w in onnxprune.inspect(tmp_path / "m.onnx")] == [[32, 32]] * 2


def test_the_crowd_is_damaged_in_different_ways(bench: SimpleNamespace, tmp_path: Path) -> None:
    bench.made.crowd(tmp_path, 20, 5)
    files = sorted(tmp_path.rglob("*.onnx"))
    assert len(files) == 20

    def loads(file: Path) -> bool:
        try:
            return len(onnx.load(file).graph.node) == 3
        except Exception:
            return False

    bad = [file.read_bytes() for file in files if not loads(file)]
    assert len(bad) == 5
    assert len(set(bad)) >= 4


def test_a_disk_that_is_too_small_costs_one_size(bench: SimpleNamespace, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench.growth.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    tool = bench.peers.Tool(bench.peers.EXACT, ("cp", "{in}", "{out}"), ())
    rows = [row for rows in bench.growth.measured(["256M"], [(tool, "1")], 1, tmp_path, None) for row in rows]
    assert [(row.model, row.problem.split(":")[0]) for row in rows] == [("16K", ""), ("256M", "not run")]
    assert "takes 4.4 GB of disk, 1.0 are free" in bench.growth.shown(rows)


def grown(bench: SimpleNamespace, cost: dict[str, float], peak: float = 1e8) -> list:
    """Rows as if each weight of a size had cost so many nanoseconds, after half a second of start-up."""
    rows = []
    for size, tool in itertools.product(("16K", *cost), bench.peers.own(1 << 30)):
        weights = bench.growth.Size.of(size).weights
        threads = 0.4 if tool.name.endswith("threads") else 1
        seconds = 0.5 + threads * cost.get(size, 0) * weights / 1e9
        rows.append(bench.results.Row(size, tool.name, weights, 4 * weights, "", [seconds], [seconds], [peak], weights))
    return rows


@pytest.mark.parametrize(
    ("cost", "peak", "missed"),
    [
        ({"64M": 20, "1G": 20}, 1e8, set()),
        ({"64M": 20, "1G": 29}, 1e8, {"ns a weight"}),
        ({"1M": -5, "64M": 20, "1G": 20}, 1e8, set()),  # start-up hides what a million costs
        ({"64M": 40, "1G": 40}, 1e8, {"MB of fp32"}),
        ({"64M": 20, "1G": 20}, 3e9, {"peak memory"}),
        ({"64M": 0.1, "1G": 0.1}, 1e8, {"2 threads (bar"}),
    ],
)
def test_a_missed_bar_of_growth_is_named(bench: SimpleNamespace, cost: dict, peak: float, missed: set) -> None:
    bad = [line for line in bench.growth.bars(grown(bench, cost, peak)) if line.startswith("MISSED")]
    assert bool(bad) == bool(missed)
    assert all(any(each in line for each in missed) for line in bad), bad


def test_compare_names_what_differs(bench: SimpleNamespace) -> None:
    rows = grown(bench, {"64M": 20})
    slower = [dataclasses.replace(row, seconds=[3 * row.time]) for row in rows[1:]]
    slower[0].problem = "failed: no room"
    pair = [bench.results.Results.begin("tools/bench growth", []) for _ in range(2)]
    pair[0].rows, pair[1].rows = rows, slower
    printed = bench.comparison.compared(*pair)
    assert printed.count("| 3.00x | 1.00x | 1.00x | 1.00x |") == len(rows) - 2
    assert "| worked -> failed: no room |" in printed
    assert printed.endswith(f"only before: 16K {rows[0].tool}\n")


def test_the_clock_counts_each_moment_once(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def spend(seconds: int) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(bench.phases, "time", SimpleNamespace(perf_counter=lambda: now))
    clock = bench.phases.Clock()
    inner = clock.timed("inner", lambda: spend(20))
    failing = clock.timed("failing", lambda: [spend(1), inner(), int("no number")])
    spend(100)  # outside
    with clock.phase("outer"):
        inner()
        with pytest.raises(ValueError, match="no number"):
            failing()
        spend(7)
    assert clock.seconds == {"inner": 40, "failing": 1, "outer": 7}


# strip and analysis ---------------------------------------------------------------------------------


def test_channels_are_killed_and_a_chain_is_analysed(bench: SimpleNamespace) -> None:
    model = bench.analysis.chain(8)
    bench.strip.kill(model, 0.5)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert (array == 0).all(axis=(1, 2, 3)).sum() >= 4
        assert (array == 0).all(axis=(0, 2, 3)).sum() >= 4
    assert bench.analysis.analyse(model) > 0


# models ---------------------------------------------------------------------------------------------


def rows(bench: SimpleNamespace, **own: object) -> list:
    fast = {"seconds": [1.0], "cpu": [1.0], "peaks": [200], "bytes": 10}
    row = bench.results.Row
    return [
        row("m", "the model as it is", read=100, bytes=100),
        row("m", "onnxprune compress", read=100, **fast | own),
        row("m", "onnxsim magnitude", read=100, seconds=[6.0], cpu=[6.0], peaks=[900], bytes=200),
        row("m", "gzip -6", problem="not installed"),
    ]


GOOD = {"weights": 3, "exact": 3, "equal": 3, "max_abs": 0.0}


@pytest.mark.parametrize(
    ("own", "checked", "missed"),
    [
        ({}, {}, ""),
        ({}, {"exact": 2}, "zeros"),
        ({}, {"equal": 2}, "decoded weights"),
        ({}, {"max_abs": 1e-3}, "outputs"),
        ({"bytes": 13}, {}, "file"),
        ({"peaks": [251]}, {}, "peak memory"),
        ({"seconds": [1.5]}, {}, "onnxsim"),
    ],
)
def test_a_missed_bar_is_named(bench: SimpleNamespace, own: dict, checked: dict, missed: str) -> None:
    lines = bench.models.bars(rows(bench, **own), GOOD | checked, True)
    bad = [line for line in lines if line.startswith("MISSED")]
    assert len(bad) == bool(missed)
    assert all(missed in line for line in bad)


def test_the_table_has_a_line_for_each_tool(bench: SimpleNamespace) -> None:
    text = bench.models.shown(rows(bench)).splitlines()
    assert len(text) == 2 + 4
    assert {line.count("|") for line in text} == {10}
    assert "| gzip -6 | not installed |" in text[-1]


def test_what_came_out_is_checked(bench: SimpleNamespace, tmp_path: Path) -> None:
    made, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    bench.made.fully_connected(str(made), (256, 256, 64))
    onnxprune.compress(made, out, sparsity=0.9, values="exact", verify=False)
    good = bench.models.check(str(made), str(out), str(tmp_path))
    assert good == {"weights": 2, "exact": 2, "equal": 2, "max_abs": 0.0}
    model = onnx.load(made)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        array[np.abs(array) < 0.01] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, out)
    bad = bench.models.check(str(made), str(out), str(tmp_path))
    assert (bad["weights"], bad["exact"], bad["equal"]) == (2, 0, 0)
    assert bad["max_abs"] > 0
