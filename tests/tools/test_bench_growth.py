"""How tools/bench measures processes and models of growing size, and compares the results."""

import dataclasses
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

import onnxprune
from tests.helpers.benches import LINUX


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
