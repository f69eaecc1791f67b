"""The tables that tools/bench makes from results: a page, its marks, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.benches import call
from tests.helpers.repository import TOOLS

BENCHMARKS = TOOLS.parent / "docs" / "benchmarks.md"
PAGE = """# Page

<!-- table: speed -->
| old | table |
<!-- end table -->
Between.
<!-- table: gone -->

by hand

<!-- end table -->
"""


@pytest.fixture
def page(bench: SimpleNamespace, tmp_path: Path) -> Path:
    """A page of two tables, and the results of one of them."""
    results = bench.results
    found = results.Results.begin("tools/bench latency", ["--rounds", "2"])
    found.rows = [
        results.Row("net", results.DENSE, seconds=[0.001, 0.002]),
        results.Row("net", bench.peers.COMPRESS, seconds=[0.002, 0.002]),
    ]
    (tmp_path / "page").mkdir()
    found.save(tmp_path / "page" / "speed.json")
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_tables_are_made_from_results(bench: SimpleNamespace, page: Path) -> None:
    printed = call("tables", page).stdout.splitlines()
    assert printed == ["speed: out of date", "gone: left as it is, there is no page/gone.json", f"wrote {page}"]
    found = bench.results.Results.load(page.with_suffix("") / "speed.json")
    text = page.read_text()
    assert text == PAGE.replace("| old | table |\n", f"\n{found.caption}\n\n{bench.latency.shown(found.rows)}\n")
    assert "\n| net | 1.500 | 2.000 | 1.50 |\n" in text
    said = f"`python tools/bench latency --rounds 2`, {found.date}, {found.machine['cpu']}, "
    assert said in text
    assert f"onnxprune {found.versions['onnxprune']}, " in text
    assert call("tables", page, "--check").stdout.startswith("speed: up to date\n")
    assert call("tables", page).stdout.count("wrote") == 0


def test_a_table_that_is_not_that_of_its_results_is_found(page: Path) -> None:
    assert call("tables", page, "--check", code=1).stdout.startswith("speed: out of date\n")
    assert page.read_text() == PAGE
    call("tables", page)
    page.write_text(page.read_text().replace("| 1.50 |", "| 1.05 |"))
    call("tables", page, "--check", code=1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("by hand", "<!-- table: inner -->", "needs an <!-- end table --> before the next"),
        ("<!-- end table -->\nBetween.", "Between.", "needs an <!-- end table --> before the next"),
        ("<!-- table: gone -->\n", "", "needs an <!-- end table --> before the next"),
    ],
)
def test_marks_without_a_partner_are_refused(page: Path, old: str, new: str, said: str) -> None:
    page.write_text(PAGE.replace(old, new))
    assert said in call("tables", page, code=1).stderr
    assert page.read_text() == PAGE.replace(old, new)


def test_results_that_nothing_shows_are_refused(bench: SimpleNamespace, page: Path) -> None:
    file = page.with_suffix("") / "speed.json"
    held = json.loads(file.read_text())
    for command in ("tools/bench nothing", "tools/other latency"):
        file.write_text(json.dumps(held | {"command": command}))
        assert f"nothing shows what '{command}' measured" in call("tables", page, code=1).stderr
    assert "cannot be read" in call("tables", page.with_name("none.md"), code=1).stderr


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="a wheel has no documents")
def test_the_tables_of_the_documents_are_those_of_their_results() -> None:
    call("tables", BENCHMARKS, "--check")


def test_accuracy_is_shown_with_what_was_skipped(bench: SimpleNamespace, page: Path) -> None:
    row = bench.results.Row
    found = bench.results.Results.begin("tools/accuracy.py", [])
    facts = {"samples": 2000, "metric": "top-1", "original": 0.99, "compressed": 0.9855, "agreement": 0.995}
    chosen, judged = facts | {"chosen_on": True}, facts | {"chosen_on": False}
    found.rows = [
        row("a", "default", read=1000, bytes=500, facts=chosen),
        row("a", "quantize_dynamic", read=1000, bytes=0, problem="it failed", facts=chosen),
        row("b", "default", read=1000, bytes=125, facts=chosen),
        row("b", "quantize_dynamic", read=1000, bytes=250, facts=chosen),
        row("c", "default", read=1000, bytes=200, facts=judged),
        row("d", "original", problem="skipped: d.onnx is not there"),
    ]
    found.save(page.with_suffix("") / "speed.json")
    call("tables", page)
    text = page.read_text()
    apart = text.index("Judged on:")
    assert text.index("Chosen on:") < text.index("\n| b |") < apart < text.index("\n| c |")
    assert "\n| a | 2,000 | top-1 | 99.00 | 1,000 | -0.45 | 99.50 | 2.000 | - | - | - |\n| b |" in text
    assert "\n| c | 2,000 | top-1 | 99.00 | 1,000 | -0.45 | 99.50 | 5.000 |\n" in text
    assert "\ndefault: geometric mean of the ratios of 2 models 4.000\n" in text
    assert "\nquantize_dynamic: geometric mean of the ratios of 1 models 4.000\n" in text
    assert "\na, quantize_dynamic: it failed\n\nd, original: skipped: d.onnx is not there\n" in text


def test_many_columns_are_a_line_each(bench: SimpleNamespace, page: Path) -> None:
    row = bench.results.Row
    found = bench.results.Results.begin("tools/accuracy.py", [])
    for model, accuracy in (("a", 0.99), ("b", 0.9)):
        facts = {"samples": 20, "metric": "top-1", "original": accuracy, "chosen_on": True, "agreement": 1.0}
        for i in range(1, 6):
            facts = facts | {"compressed": accuracy - i / 1000}
            found.rows.append(row(model, f"--loss 0.{i}", read=1000, bytes=100 * i, facts=facts))
    found.rows[-1].problem = "it failed"
    found.save(page.with_suffix("") / "speed.json")
    call("tables", page)
    text = page.read_text()
    assert "\n|  | a, top-1 | b, top-1 |\n" in text
    assert "\n| original % | 99.00 | 90.00 |\n| --loss 0.1 | 10.00x, -0.10 | 10.00x, -0.10 |\n" in text
    assert "\n| --loss 0.5 | 2.00x, -0.50 | - |\n" in text


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (["--speed-up 1.3"], "| a | 20 | top-1 | 99.00 | 1,000 | -0.50 | 98.00 | 2.000 | 0.75 | 12 |"),
        (["--speed-up 1.3", "--data of 128 --speed-up 1.3"], "| --speed-up 1.3 | 2.00x, -0.50, latency 0.75 |"),
    ],
)
def test_latencies_are_shown_where_results_were_timed(
    bench: SimpleNamespace, page: Path, columns: list[str], line: str
) -> None:
    facts = {"samples": 20, "metric": "top-1", "original": 0.99, "compressed": 0.985, "agreement": 0.98}
    facts |= {"chosen_on": True, "original_ms": 3.0, "latency": 0.75}
    found = bench.results.Results.begin("tools/accuracy.py", [])
    found.rows = [bench.results.Row("a", name, read=1000, bytes=500, cpu=[12.3], facts=facts) for name in columns]
    found.save(page.with_suffix("") / "speed.json")
    call("tables", page)
    assert f"\n{line}\n" in page.read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [("fpu sse4_2", ""), ("avx", "AVX"), ("avx avx2 fma", "AVX2"), ("avx avx2 avx_vnni", "AVX2, VNNI"),
     ("avx avx2 avx512f avx512_vnni", "AVX512, VNNI")],
)  # fmt: skip
def test_the_caption_says_which_vectors_a_processor_has(bench: SimpleNamespace, flags: str, said: str) -> None:
    assert bench.results.vectors(flags) == said
